"""The rows of a sweep, collected from its trials' folders."""

import csv
import shutil

import pytest

from tlearn.runs.trial import Trial, write_trial
from tlearn.sweeps.rows import RESULTS, collect, with_missing, write_results


def trial(folder, number, status="done", **more):
    folder.mkdir(parents=True, exist_ok=True)
    made = Trial(number, [f"seed={number}"], folder, status, **more)
    write_trial(made)
    return made


def rows(folder):
    with (folder / RESULTS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_found_at_any_depth_in_the_order_of_their_numbers(tmp_path):
    places = ["0", "head=mlp/lr=0.1", "x/y/z", ".", "same", "same"]
    made = [trial(tmp_path / place, number) for number, place in reversed(list(enumerate(places, 8)))]
    assert collect(tmp_path) == sorted(made, key=lambda one: one.number)


def test_what_a_run_has_written_is_not_searched(tmp_path):
    trial(tmp_path / "0", 0)
    shutil.copytree(tmp_path / "0", tmp_path / "0" / "model" / "copy")
    shutil.copytree(tmp_path / "0", tmp_path / ".trash")
    assert [one.folder for one in collect(tmp_path)] == [tmp_path / "0"]


def test_a_moved_sweep_is_collected_where_it_is(tmp_path):
    trial(tmp_path / "old" / "0", 0)
    (tmp_path / "old").rename(tmp_path / "new")
    assert collect(tmp_path / "new")[0].folder == tmp_path / "new" / "0"


def test_trials_that_left_no_word_are_missing(tmp_path):
    found = [trial(tmp_path / "0", 0), trial(tmp_path / "1", 1, "running"), trial(tmp_path / "4", 4, "failed")]
    ended = with_missing(found, planned=7)
    assert [(one.number, one.status) for one in ended] == [
        *((0, "done"), (1, "missing"), (2, "missing"), (3, "missing")),
        *((4, "failed"), (5, "missing"), (6, "missing")),
    ]
    assert [one.error for one in ended] == ["", "killed", *["never started"] * 2, "", *["never started"] * 2]
    # Of a search, the number of trials is not known beforehand.
    assert [one.number for one in with_missing(found, planned=0)] == [0, 1, 2, 3, 4]


def test_the_table_has_every_metric_in_full(tmp_path):
    metrics = {"time/fit_s": 1.25, "other": 5, "test/loss": 1 / 3, "val/top1": 0.1 + 0.2}
    failed = {"status": "failed", "exit_status": 3, "error": 'a, "b"'}
    write_results(tmp_path, [trial(tmp_path / "0", 0, metrics=metrics), trial(tmp_path / "1", 1, **failed)])
    first, second = rows(tmp_path)
    assert list(first) == [
        *("trial", "status", "overrides", "val/top1", "test/loss", "time/fit_s", "other", "folder", "error"),
    ]
    assert {name: float(first[name]) for name in metrics} == metrics
    assert (first["status"], first["overrides"], first["folder"]) == ("done", "seed=0", str(tmp_path / "0"))
    assert (second["status"], second["val/top1"], second["error"]) == ("failed (3)", "", 'a, "b"')


def test_hundreds_of_trials_are_collected(tmp_path):
    made = [trial(tmp_path / str(number), number) for number in range(300)]
    assert collect(tmp_path) == made
    write_results(tmp_path, made)
    assert [row["trial"] for row in rows(tmp_path)] == [str(number) for number in range(300)]


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path):
    class Broken:
        def __str__(self):
            raise ValueError("no text")

    good = trial(tmp_path / "0", 0, metrics={"m": 1.0})
    write_results(tmp_path, [good])
    with pytest.raises(ValueError, match="no text"):
        write_results(tmp_path, [good, Trial(1, [], tmp_path, "done", {"m": Broken()})])
    assert [row["trial"] for row in rows(tmp_path)] == ["0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", RESULTS]
