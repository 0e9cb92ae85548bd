"""A trial's row in its own folder."""

import json
import math

from tlearn.runs.trial import Trial, read_trials, write_trial


def test_a_row_is_read_as_it_was_written_wherever_it_lies_now(tmp_path):
    trial = Trial(
        3, ["head=mlp", "data.root=a b"], tmp_path / "old", "failed", {"m": 0.1 + 0.2}, "m", 6, "a\udcff: NaN"
    )
    (tmp_path / "old").mkdir()
    write_trial(trial)
    [read] = read_trials(tmp_path / "old")
    assert read == trial
    (tmp_path / "old").rename(tmp_path / "new")
    assert [one.folder for one in read_trials(tmp_path / "new")] == [tmp_path / "new"]


def test_a_later_row_replaces_the_earlier_one_and_no_other_trials(tmp_path):
    write_trial(Trial(10, [], tmp_path))
    write_trial(Trial(2, [], tmp_path, "done", {"m": math.inf}))
    write_trial(Trial(10, [], tmp_path, "failed", exit_status=2))
    assert [(one.number, one.outcome) for one in read_trials(tmp_path)] == [(2, "done"), (10, "failed (2)")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial_10.json", "trial_2.json"]


def test_what_is_no_row_is_left_out(tmp_path):
    write_trial(Trial(1, [], tmp_path))
    good = json.loads((tmp_path / "trial_1.json").read_text(encoding="utf-8"))
    for number, content in enumerate(["", "3", "[]", "{}", '{"number": 1}', json.dumps({**good, "more": 1})], 2):
        (tmp_path / f"trial_{number}.json").write_text(content, encoding="utf-8")
    assert [one.number for one in read_trials(tmp_path)] == [1]
