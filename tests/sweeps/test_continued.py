"""A sweep that goes on: the same command in its folder does what is not done, and any other is refused."""

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.config.test_command import SMALL, start  # noqa: F401 - a fixture
from tests.conftest import tree
from tests.small_runs import overrides, program, write_weights
from tests.sweeps.test_sweep import command, sweep_rows, written_program  # noqa: F401 - a fixture
from tlearn.errors import DataError
from tlearn.runs.folder import RunFolder
from tlearn.training.last_checkpoint import LastCheckpoint
from tlearn.training.signals import Stopped

PLACE = "hydra.sweep.dir=swept"


def content(folder: Path) -> dict[str, bytes]:
    return {path: Path(path).read_bytes() for path in tree(folder) if Path(path).is_file()}


class Flaky:
    """Fail for some values until they are mended, and count the calls for each."""

    def __init__(self, **failing: BaseException) -> None:
        self.failing, self.calls = failing, Counter()

    def __call__(self, config) -> dict[str, float]:
        self.calls[config.topk] += 1
        if error := self.failing.get(f"topk_{config.topk}"):
            raise error
        return {"val/top1": config.topk / 10}


def test_the_same_command_runs_what_failed_and_nothing_that_is_done(start):  # noqa: F811
    task = Flaky(topk_2=DataError("a.jpg: cut short"))
    typed = ("-m", *SMALL, "topk=1,2,3", PLACE)
    assert start(*typed, name="predict", task=task).status == 7
    done = Path("swept/0/trial_0.json").read_bytes()
    task.failing.clear()
    again = start(*typed, name="predict", task=task)
    assert again.status == 0, again.err
    assert "swept goes on: 2 trials are done" in again.out
    assert task.calls == {1: 1, 2: 2, 3: 1}
    assert [(row["status"], row["val/top1"]) for row in sweep_rows(Path("swept"))] == [
        ("done", "0.1"),
        ("done", "0.2"),
        ("done", "0.3"),
    ]
    assert Path("swept/0/trial_0.json").read_bytes() == done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_was_stopped_goes_on_with_the_trials_that_it_lacks(start, number):  # noqa: F811
    task = Flaky(topk_2=KeyboardInterrupt() if number == signal.SIGINT else Stopped(number))
    typed = ("-m", *SMALL, "topk=1,2,3", PLACE)
    stopped = start(*typed, name="predict", task=task)
    assert stopped.status == 128 + number
    assert "type the same command with \"hydra.sweep.dir='swept'\"" in stopped.err
    assert task.calls == {1: 1, 2: 1}
    task.failing.clear()
    assert start(*typed, name="predict", task=task).status == 0
    assert task.calls == {1: 1, 2: 2, 3: 1}


@pytest.mark.parametrize("others", [["topk=1,2"], ["topk=1,2,3", "topk=1,2"], ["topk=1,2,3", "calibrated=true"]])
def test_another_command_in_the_folder_of_a_sweep_is_refused_and_changes_nothing(start, others):  # noqa: F811
    assert start("-m", *SMALL, "topk=1,2,3", PLACE, name="predict").status == 0
    before = content(Path("swept"))
    ended = start("-m", *SMALL, *others, PLACE, name="predict")
    assert ended.status == 4
    assert ended.configs == []
    assert "already holds a sweep of the command: -m run=RUN images=PICTURES topk=1,2,3" in ended.err
    assert content(Path("swept")) == before


def test_other_defaults_are_another_sweep(start):  # noqa: F811
    assert start("-m", *SMALL, "topk=1,2", PLACE, name="predict").status == 0
    stored = json.loads(Path("swept/sweep.json").read_text())
    stored["settings"]["calibrated"] = "otherwise"
    Path("swept/sweep.json").write_text(json.dumps(stored))
    ended = start("-m", *SMALL, "topk=1,2", PLACE, name="predict")
    assert ended.status == 4
    assert "other defaults" in ended.err


def test_a_folder_whose_sweep_still_runs_is_refused(start):  # noqa: F811
    held = RunFolder("swept")
    held.claim()
    ended = start("-m", *SMALL, "topk=1,2", PLACE, name="predict")
    held.release()
    assert ended.status == 4
    assert "in use by another run" in ended.err
    assert ended.configs == []


@pytest.mark.slow
def test_trials_of_joblib_go_on_too(written_program):  # noqa: F811
    run = {"cwd": written_program, "capture_output": True, "timeout": 120, "check": False}
    assert subprocess.run(command("topk=1,2,3"), **run).returncode == 7
    own = written_program / "own.py"
    own.write_text(own.read_text().replace("config.topk == 2", "config.topk == 99"))
    for file in written_program.glob("started_*"):
        file.unlink()
    assert subprocess.run(command("topk=1,2,3"), **run).returncode == 0
    assert [file.name for file in written_program.glob("started_*")] == ["started_2"]
    assert [row["status"] for row in sweep_rows(written_program / "sweep")] == ["done"] * 3


def test_a_stopped_training_of_a_sweep_resumes_and_a_failed_one_begins_anew(tmp_path, folder_data, monkeypatch):
    weights, place = write_weights(tmp_path / "w.pth"), f"hydra.sweep.dir='{tmp_path / 'swept'}'"
    typed = [
        "-m",
        *overrides(folder_data, weights),
        "trainer.max_epochs=2",
        "optimizer.lr=0.01,0.02",
        "hydra/launcher=basic",
        place,
    ]
    save, saved = LastCheckpoint._save, []

    def stop(self, trainer):
        save(self, trainer)
        saved.append(trainer.current_epoch)
        if len(saved) == 2:
            raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(LastCheckpoint, "_save", stop)
    assert program("train", *typed, cwd=tmp_path).returncode == 143
    done = program("train", *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'swept' / '0'} goes on after epoch 1" in done.stdout
    assert [row["status"] for row in sweep_rows(tmp_path / "swept")] == ["done", "done"]
    whole = program("train", *typed[:-1], f"hydra.sweep.dir='{tmp_path / 'whole'}'", cwd=tmp_path)
    assert whole.returncode == 0
    told = [[row["val/loss"] for row in sweep_rows(tmp_path / name)] for name in ("swept", "whole")]
    assert told[0] == told[1]
