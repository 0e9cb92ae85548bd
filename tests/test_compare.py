"""Comparing runs as a user does."""

import csv
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.report.test_page import _Elements
from tests.runs.test_comparison import write_run
from tests.small_runs import program, run, write_weights
from tlearn.compare import compare
from tlearn.config.compose import compose
from tlearn.errors import ConfigError
from tlearn.runs.trial import Trial, write_trial


def _compare(output: Path, *overrides: str) -> dict[str, float]:
    return compare(compose(list(overrides), "compare", output_dir=output))


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "compare.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Give a folder with a finished, a better, a failed and an unfinished run, and an evaluation."""
    folder = tmp_path / "sweep"
    for number, (rate, top1) in enumerate([(0.001, 0.5), (0.1, 0.75)]):
        metrics = {"val/top1": top1, "val/loss": 1 + top1}
        write_run(folder / str(number), {"optimizer": {"lr": rate}}, metrics, log=[top1 / 2, top1])
    for number in (2, 3):
        write_run(folder / str(number), {"optimizer": {"lr": -1}})
    error = "optimizer.lr=-1: expected a number > 0"
    write_trial(Trial(2, ["optimizer.lr=-1"], folder / "2", "failed", exit_status=2, error=error))
    (folder / "evaluation" / ".hydra").mkdir(parents=True)
    (folder / "evaluation" / ".hydra" / "config.yaml").write_text("run: 0\n", encoding="utf-8")
    (folder / "0" / "report.html").write_text("", encoding="utf-8")
    return folder


def test_the_table_has_the_best_first_and_what_differs(tmp_path, sweep):
    metrics = _compare(tmp_path / "out", f"runs={sweep}")
    assert metrics == {"runs": 4, "done": 2, "val/top1": 0.75}
    rows = _rows(tmp_path / "out")
    assert [row["run"] for row in rows] == ["1", "0", "2", "3"]
    assert [row["status"] for row in rows] == ["done", "done", "failed (2)", "unfinished"]
    assert [row["optimizer.lr"] for row in rows] == ["0.1", "0.001", "-1", "-1"]
    assert "seed" not in rows[0]


def test_losses_are_best_at_their_lowest(tmp_path, sweep):
    assert _compare(tmp_path / "out", f"runs={sweep}", "metric=val/loss")["val/loss"] == 1.5
    assert [row["run"] for row in _rows(tmp_path / "out")][:2] == ["0", "1"]


def test_the_page_shows_the_best_run_figures_and_what_is_not_done(tmp_path, sweep):
    _compare(tmp_path / "out", f"runs={sweep}")
    page = _Elements((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    assert len(page.values("img", "src")) == 3
    assert "best val top-1" in page.text
    assert "2 of 4 runs are not done" in page.text
    assert "run 2 (lr=-1) failed (2): optimizer.lr=-1: expected a number > 0" in page.text
    # Only this run has a report.
    [address] = [str(one) for one in page.values("a", "href") if not str(one).startswith("#")]
    assert (tmp_path / "out" / address).resolve() == sweep / "0" / "report.html"
    with (tmp_path / "out" / "compare_curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["run"], row["val/top1"]) for row in csv.DictReader(file)]
    assert rows == [("lr=0.1", "0.375"), ("lr=0.1", "0.75"), ("lr=0.001", "0.25"), ("lr=0.001", "0.5")]


def test_the_terminal_shows_short_settings_four_digits_and_the_best(tmp_path, sweep, capsys):
    _compare(tmp_path / "out", f"runs={sweep}")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["val", "top-1", "lr", "run", "val", "loss"],
        ["0.7500", "0.1", "1", "1.750"],
        ["0.5000", "0.001", "0", "1.500"],
    ]
    assert lines[3:] == [
        "run 2 (lr=-1) failed (2): optimizer.lr=-1: expected a number > 0",
        "run 3 (lr=-1) unfinished: no metrics.json: still running, or stopped",
        "best: lr=0.1: val top-1 0.7500",
        "best run: 1",
        str(tmp_path / "out"),
    ]


def test_seeds_are_one_row_of_page_and_terminal_and_all_of_the_file(tmp_path, capsys):
    for number, (head, seed) in enumerate(product(["linear", "mlp"], [1, 2, 3])):
        metrics = {"val/top1": 0.5 + seed / 100 + (head == "mlp") / 10}
        write_run(tmp_path / "runs" / str(number), {"seed": seed}, metrics, {"head": head})
    _compare(tmp_path / "out", f"runs={tmp_path / 'runs'}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["0.6200", "±", "0.0100", "mlp", "3", "3-5"]
    assert "best: head=mlp: val top-1 0.6200 ± 0.0100 (3 seeds)" in lines
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert "± 0.0100, 3 seeds" in page
    assert page.count('<td class="text">mlp</td>') == 1
    assert [row["val/top1"] for row in _rows(tmp_path / "out")][:3] == ["0.63", "0.62", "0.61"]


def test_many_settings_are_told_by_what_most_runs_do_not_share(tmp_path, capsys):
    usual = {f"s{number}": number for number in range(8)}
    for number in range(8):
        write_run(tmp_path / "runs" / f"r{number}", {**usual, f"s{number}": "own"}, {"val/top1": number / 8})
    _compare(tmp_path / "out", f"runs={tmp_path / 'runs'}")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["val", "top-1", "unlike", "most", "run"],
        ["0.8750", "own", "r7"],
    ]
    assert "best: s7=own: val top-1 0.8750" in lines
    page = _Elements((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    assert "unlike most" in page.text
    # The file tells of each setting.
    assert [name for name in _rows(tmp_path / "out")[0] if name.startswith("s")] == ["status", *usual]


def test_runs_are_given_as_a_list_a_glob_or_one_of_them(tmp_path, sweep):
    for given in (f"runs=[{sweep}/0,{sweep}/1]", f"runs='{sweep}/[01]'", f"runs='{sweep.parent}/sw*/0'"):
        _compare(tmp_path / "out", given)
        assert [Path(row["folder"]).name for row in _rows(tmp_path / "out")][-1] == "0"
    assert len(_rows(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["runs=nowhere"], "runs=nowhere: no such folder"),
        (["runs=[SWEEP/0,nowhere]"], "runs=nowhere: no such folder"),
        (["runs=SWEEP/evaluation"], "no run of tlearn.train there"),
        (["runs=SWEEP", "metric=val/top7"], "metric=val/top7: no run has that metric; there are val/loss, val/top1"),
        (["runs=SWEEP/2"], "there are none at all"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(tmp_path, sweep, overrides, message):
    with pytest.raises(ConfigError) as caught:
        _compare(tmp_path / "out", *(override.replace("SWEEP", str(sweep)) for override in overrides))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_odd_names_are_compared_too(tmp_path, capsys):
    for number, name in enumerate(["<script>alert(1)</script>", "[bold]red", "a\nb", "$x_1$"]):
        write_run(
            tmp_path / "runs" / name.replace("/", "-"), {"trick": name}, {"val/top1": number / 8}, log=[0, number]
        )
    _compare(tmp_path / "out", f"runs={tmp_path / 'runs'}")
    page = _Elements((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    assert "could not be made" not in page.text
    assert page.text.count("<script>alert(1)<") >= 1
    assert len([tag for tag, _ in page.found if tag == "script"]) == 1
    assert "[bold]red" in capsys.readouterr().out


def test_real_runs_are_compared_by_a_program_that_loads_no_torch(tmp_path, folder_data):
    weights = write_weights(tmp_path / "w.pth")
    for rate in ("0.001", "0.1"):
        run(tmp_path / "runs" / rate, folder_data, weights, f"optimizer.lr={rate}")
    command = [sys.executable, "-m", "tlearn.compare", "runs=runs", "hydra.run.dir=comparison"]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "matplotlib" in imported
    assert imported & {"torch", "torchvision", "lightning"} == set()
    assert done.stdout.splitlines()[-1] == str(tmp_path / "comparison")
    best = max(tmp_path.glob("runs/*/metrics.json"), key=lambda path: json.loads(path.read_text())["val/top1"])
    rows = _rows(tmp_path / "comparison")
    assert json.loads(best.read_text())["val/top1"] == float(rows[0]["val/top1"])
    assert {row["optimizer.lr"] for row in rows} == {"0.001", "0.1"}


def test_a_mistake_is_one_message(tmp_path):
    done = program("compare", "runs=nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("tlearn: error: runs=nowhere: no such folder")
