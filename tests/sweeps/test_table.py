"""A sweep as it stands on the terminal."""

import math
from itertools import product
from pathlib import Path

import pytest

from tlearn.runs.trial import Trial
from tlearn.sweeps.table import differing_settings, show_sweep


def done(number, value, *overrides, objective="val/top1", **metrics):
    metrics = {objective or "val/top1": value, **metrics}
    return Trial(number, ["data=shapes", *overrides], Path(f"sweep/{number}"), "done", metrics, objective)


def failed(number, *overrides, error="lr=-1: expected a number > 0"):
    return Trial(number, ["data=shapes", *overrides], Path(f"sweep/{number}"), "failed", exit_status=2, error=error)


@pytest.fixture
def shown(tmp_path, capsys):
    def show(*trials):
        show_sweep(tmp_path, trials, ["python", "-m", "tlearn.train"])
        out, err = capsys.readouterr()
        assert err == ""
        assert out.splitlines()[-1] == str(tmp_path / "results.csv")
        return out.splitlines()[:-1]

    return show


def test_only_what_differs_is_shown_in_short_the_best_first(shown):
    lines = shown(
        done(0, 0.5, "head=linear", "optimizer.lr=0.1", **{"val/loss": 1.5}),
        done(1, 0.75, "head=mlp", "optimizer.lr=0.1", **{"val/loss": 1.25}),
        done(2, 0.6251234, "head=linear", "optimizer.lr=0.2", **{"val/loss": 1.25}),
    )
    assert [line.split() for line in lines] == [
        ["val", "top-1", "head", "lr", "trial", "val", "loss"],
        ["0.7500", "mlp", "0.1", "1", "1.250"],
        ["0.6251", "linear", "0.2", "2", "1.250"],
        ["0.5000", "linear", "0.1", "0", "1.500"],
        ["best:", "head=mlp,", "lr=0.1:", "val", "top-1", "0.7500"],
        ["best", "trial:", "1,", "in", "sweep/1"],
        ["repeat", "it:", "python", "-m", "tlearn.train", "data=shapes", "head=mlp", "optimizer.lr=0.1"],
    ]


def test_a_loss_ranks_from_its_lowest(shown):
    lines = shown(
        done(0, 2.0, "seed=1", "head=a", objective="val/loss"), done(1, 1.0, "seed=1", "head=b", objective="val/loss")
    )
    assert lines[-2] == "best trial: 1, in sweep/1"


def test_seeds_are_one_row(shown):
    trials = [
        done(number, 0.5 + seed / 100 + (head == "mlp") / 10, f"head={head}", f"seed={seed}")
        for number, (head, seed) in enumerate(product(["linear", "mlp"], [1, 2, 3]))
    ]
    lines = shown(*trials, failed(6, "head=none", "seed=1"))
    assert [line.split() for line in lines[1:3]] == [
        ["0.6200", "±", "0.0100", "mlp", "3", "3-5"],
        ["0.5200", "±", "0.0100", "linear", "3", "0-2"],
    ]
    assert lines[-3:-1] == ["best: head=mlp: val top-1 0.6200 ± 0.0100 (3 seeds)", "best trial: 5, in sweep/5"]


def test_those_that_failed_follow_with_one_line_for_each_reason(shown):
    lines = shown(
        done(0, 0.5, "lr=1", "seed=1"),
        failed(1, "lr=-1", "seed=1"),
        failed(2, "lr=-1", "seed=2"),
        failed(3, "lr=2", "seed=1", error="a.jpg: cut short"),
        Trial(4, [], status="missing", error="never started"),
    )
    assert lines[2:5] == [
        "trials 1-2 (lr=-1) failed (2): lr=-1: expected a number > 0",
        "trial 3 (lr=2, seed=1) failed (2): a.jpg: cut short",
        "trial 4 missing: never started",
    ]


def test_one_trial_is_a_table_too(shown):
    assert [line.split() for line in shown(done(0, 0.5))] == [
        ["val", "top-1", "trial"],
        ["0.5000", "0"],
        ["best:", "val", "top-1", "0.5000"],
        ["best", "trial:", "0,", "in", "sweep/0"],
        ["repeat", "it:", "python", "-m", "tlearn.train", "data=shapes"],
    ]


def test_without_a_metric_to_optimise_nothing_is_the_best(shown):
    lines = shown(done(0, 0.5, "topk=1", objective=None), done(1, 0.75, "topk=2", objective=None))
    assert [line.split() for line in lines] == [
        ["topk", "trial", "val", "top-1"],
        *(["1", "0", "0.5000"], ["2", "1", "0.7500"]),
    ]


def test_a_sweep_of_failures_only_has_no_best(shown):
    assert shown(failed(0, "lr=-1")) == ["trial 0 failed (2): lr=-1: expected a number > 0"]


def test_a_trial_without_a_number_is_never_the_best(shown):
    assert not any(line.startswith("best") for line in shown(done(0, math.nan, "a=1"), done(1, math.inf, "a=2")))


def test_hundreds_of_trials_are_cut_and_the_file_is_named(shown):
    lines = shown(
        *(done(n, n / 1000, f"lr={n}") for n in range(300)), *(failed(n, error=f"{n}") for n in range(300, 350))
    )
    assert len(lines) < 70
    assert "... and 260 more rows, all in results.csv" in lines
    assert "... and 30 more reasons, all in results.csv" in lines


def test_overrides_are_told_apart_by_their_key_whatever_hydra_adds_to_it():
    trials = [
        done(0, 0.5, "head@net=mlp", "+extra.note=a=b", "~scheduler"),
        done(1, 0.5, "head@net=linear", "+extra.note=c"),
        Trial(2, [], status="missing"),
    ]
    assert differing_settings(trials) == {
        0: {"head": "mlp", "extra.note": "a=b", "scheduler": ""},
        1: {"head": "linear", "extra.note": "c"},
        2: {},
    }


def test_names_stay_on_one_line(shown):
    lines = shown(done(0, 0.5, "a=x\ny"), failed(1, "a=z", error="a [bold]name[/bold]"))
    assert lines[1].split() == ["0.5000", "x\N{REPLACEMENT CHARACTER}y", "0"]
    assert lines[2] == "trial 1 (a=z) failed (2): a [bold]name[/bold]"


def test_a_narrow_terminal_lacks_the_last_metrics_and_nothing_else(tmp_path, capsys, monkeypatch):
    metrics = {"val/loss": 1.25, "test/top1": 0.5, "test/loss": 1.0, "time/fit_s": 9.0}
    trials = [
        done(
            number,
            0.5 + number / 100,
            "head=linear",
            f"optimizer.lr={number}",
            **{k: v + number for k, v in metrics.items()},
        )
        for number in range(3)
    ]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = {}
    for width in (40, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        show_sweep(tmp_path, trials, ["python"])
        shown[width] = capsys.readouterr().out.splitlines()[:4]
        assert max(map(len, shown[width])) <= width
    assert shown[40][0].split() == ["val", "top-1", "lr", "trial", "val", "loss"]
    assert [line.split()[0] for line in shown[80][1:]] == ["0.5200", "0.5100", "0.5000"]
    assert shown[80][0].endswith("fit (s)")


def test_the_best_trial_is_named_from_here_with_a_command_that_a_shell_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    best = Trial(0, ["data.root='my pictures'"], tmp_path / "swept" / "0", "done", {"val/top1": 0.5}, "val/top1")
    show_sweep(tmp_path / "swept", [best], ["python", "-m", "tlearn.train", "--config-dir", "my conf"])
    assert capsys.readouterr().out.splitlines()[-3:-1] == [
        "best trial: 0, in swept/0",
        """repeat it: python -m tlearn.train --config-dir "my conf" "data.root='my pictures'\"""",
    ]
