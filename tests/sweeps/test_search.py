"""A search by Optuna: its trials are its study's, whichever processes share it, stop, or are killed."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.config.test_command import start  # noqa: F401 - a fixture
from tests.sweeps.test_sweep import sweep_rows
from tlearn.errors import ConfigError, DataError, PrunedError

optuna = pytest.importorskip("optuna", reason="needs the extra sweep")
pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra sweep")

from tlearn.sweeps.prune import Prune  # noqa: E402 - needs the extra
from tlearn.sweeps.study import STUDY, STUDY_NAME, Study, study_seed  # noqa: E402

RATE = "optimizer.lr=tag(log,interval(0.0001,0.1))"
PLACE = "hydra.sweep.dir=swept"
SEARCH = ("-m", "sweep=search", RATE, PLACE)

# Notes each start, and kills its own process in the first trial 2
PROGRAM = """
import os, signal, sys, time
from tlearn.config.command import program

def task(config):
    number = os.path.basename(config.paths.output_dir)
    again = os.path.exists(f"started_{number}")
    with open(f"started_{number}", "a") as file:
        file.write(f"{config.optimizer.lr}\\n")
    if number == "2" and not again:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return {"val/top1": config.optimizer.lr}

main, script = program("train", task)

if __name__ == "__main__":
    script()
"""


class Counted:
    """Count the calls by rate, and fail in those of some numbers."""

    def __init__(self, **failing: BaseException) -> None:
        self.failing, self.calls = failing, Counter()

    def __call__(self, config) -> dict[str, float]:
        number = Path(config.paths.output_dir).name
        self.calls[number, config.optimizer.lr] += 1
        if error := self.failing.pop(f"trial_{number}", None):
            raise error
        return {"val/top1": config.optimizer.lr}

    @property
    def numbers(self) -> dict[str, int]:
        return {number: count for (number, _), count in sorted(self.calls.items())}


def outcomes() -> list[str]:
    return [row["status"] for row in sweep_rows(Path("swept"))]


def states(folder: str = "swept") -> list[str]:
    return [trial.state.name for trial in Study(folder).trials()]


def test_a_search_that_was_stopped_goes_on_with_the_trial_that_it_was_in(start):  # noqa: F811
    task = Counted(trial_1=KeyboardInterrupt())
    assert start(*SEARCH, "hydra.sweeper.n_trials=3", task=task).status == 130
    again = start(*SEARCH, "hydra.sweeper.n_trials=3", task=task)
    assert again.status == 0, again.err
    assert "swept goes on: 1 trial is done" in again.out
    assert again.err == ""
    # With the settings that it had
    assert task.numbers == {"0": 1, "1": 2, "2": 1}
    assert len(task.calls) == 3
    assert outcomes() == ["done"] * 3
    assert "best trial: " in again.out
    assert start(*SEARCH, "hydra.sweeper.n_trials=3", task=task).status == 0
    assert sum(task.calls.values()) == 4
    # More trials are the same search.
    assert start(*SEARCH, "hydra.sweeper.n_trials=4", task=task).status == 0
    assert task.numbers == {"0": 1, "1": 2, "2": 1, "3": 1}


def test_trials_that_are_handed_out_together_with_one_too_many_run_too(start):  # noqa: F811
    task = Counted(trial_0=KeyboardInterrupt())
    two = (*SEARCH, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    assert start(*two, task=task).status == 130
    assert start(*two, task=task).status == 0
    assert task.numbers == {"0": 2, "1": 1, "2": 1}
    assert states() == ["COMPLETE"] * 3


def test_a_search_goes_on_past_trials_that_fail_and_are_pruned(start):  # noqa: F811
    task = Counted(trial_0=DataError("a.jpg: cut short"), trial_1=PrunedError("after epoch 1", {"val/top1": 0.25}))
    ended = start(*SEARCH, "hydra.sweeper.n_trials=3", task=task)
    assert ended.status == 7
    assert outcomes() == ["failed (3)", "pruned", "done"]
    assert "1 of 3 trials failed" in ended.err
    assert "pruned: after epoch 1" in ended.out


def test_the_trials_of_another_process_are_neither_lost_nor_taken(start):  # noqa: F811
    task = Counted(trial_1=KeyboardInterrupt())
    start(*SEARCH, "hydra.sweeper.n_trials=3", task=task)
    other = Study("swept", 3)
    with other.lock:
        held, _ = other.join()
        assert other.get_trial(other.create_new_trial(0)).number == 1
    ended = start(*SEARCH, "hydra.sweeper.n_trials=3", task=task)
    held.release()
    assert ended.status == 0, ended.err
    assert "trial 1 (lr=0.07114) running: in another process" in ended.out
    assert task.numbers == {"0": 1, "1": 1, "2": 1}
    assert states() == ["COMPLETE", "RUNNING", "COMPLETE"]


def test_another_search_in_the_folder_is_refused(start):  # noqa: F811
    assert start(*SEARCH, "hydra.sweeper.n_trials=1").status == 0
    before = Path("swept", STUDY).read_bytes()
    for others in (["seed=1"], ["hydra/sweeper/sampler=random"]):
        ended = start(*SEARCH, "hydra.sweeper.n_trials=2", *others)
        assert (ended.status, ended.configs) == (4, [])
        assert "choose another hydra.sweep.dir" in ended.err
    assert Path("swept", STUDY).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["optimized_metric=val/loss"], "val/loss is to be hydra.sweeper.direction=minimize"),
        (["hydra.sweeper.direction=minimize"], "val/top1 is to be hydra.sweeper.direction=maximize"),
        (["hydra.sweep.subdir=a"], "hydra.sweep.subdir=a: the folders of a search have the numbers of its trials"),
    ],
)
def test_what_a_search_cannot_follow_is_refused(start, arguments, expected):  # noqa: F811
    ended = start(*SEARCH, *arguments)
    assert (ended.status, ended.configs) == (2, [])
    assert expected in ended.err


def test_a_loss_is_searched_from_its_lowest(start):  # noqa: F811
    least = ("optimized_metric=val/loss", "hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=2")
    assert start(*SEARCH, *least, task=lambda config: {"val/loss": config.optimizer.lr}).status == 0


@pytest.mark.parametrize("sweep", ["head", "finetune"])
def test_a_shipped_search_gives_each_trial_a_point_of_its_space(start, sweep):  # noqa: F811
    ended = start("-m", f"sweep={sweep}", PLACE, "hydra.sweeper.n_trials=2", "seed=3")
    assert ended.status == 0, ended.err
    one, other = ended.configs
    assert one.optimizer.lr != other.optimizer.lr
    # The same seed, the same search
    again = start("-m", f"sweep={sweep}", "hydra.sweep.dir=again", "hydra.sweeper.n_trials=2", "seed=3")
    assert [config.optimizer for config in again.configs] == [config.optimizer for config in ended.configs]


def test_a_search_without_m_is_refused_but_for_one_of_its_points(start):  # noqa: F811
    ended = start("sweep=head", "optimizer.lr=0.1")
    assert (ended.status, ended.configs) == (2, [])
    expected = "sweep=head searches optimizer.weight_decay, loss.label_smoothing: add -m, or give a value of each"
    assert expected in ended.err
    assert start("sweep=head", "optimizer.lr=0.1", "optimizer.weight_decay=0", "loss.label_smoothing=0").status == 0


def test_each_process_draws_other_settings(tmp_path):
    study = Study(tmp_path, 1)
    seeds = []
    for _ in range(2):
        with study.lock:
            held, before = study.join()
        seeds.append((study_seed(5), before))
        held.release()
    assert seeds == [(5, 0), (6, 1)]
    assert study_seed(None) is None


@pytest.fixture
def searched(tmp_path):
    """A study with one trial that has ended and one that runs."""
    study = Study(tmp_path, 2)
    with study.lock:
        held, _ = study.join()
    asked = optuna.create_study(storage=study, study_name=STUDY_NAME, direction="maximize")
    for number in range(2):
        asked.ask()
        (tmp_path / str(number)).mkdir()
    for epoch in range(3):
        study.set_trial_intermediate_value(study.trial_id(0), epoch, 0.5)
    asked.tell(0, 0.5)
    yield asked
    held.release()


def reported(folder: Path, *values: float, metric: str = "val/top1", world_size: int = 1) -> None:
    trainer = SimpleNamespace(world_size=world_size)
    prune = Prune(str(folder), metric, after_trials=1, after_epochs=1)
    prune.setup(trainer, None, "fit")
    for epoch, value in enumerate(values):
        trainer.current_epoch, trainer.callback_metrics = epoch, {metric: torch.tensor(value)}
        prune.on_train_epoch_end(trainer, None)


def test_a_trial_below_the_median_is_pruned_and_the_study_knows(searched, tmp_path):
    with pytest.raises(PrunedError) as pruned:
        reported(tmp_path / "1", 0.25, 0.125)
    assert (pruned.value.message, pruned.value.metrics) == ("after epoch 2: val/top1 0.125", {"val/top1": 0.125})
    # As Hydra's sweeper says it
    searched.tell(1, state=optuna.trial.TrialState.COMPLETE, values=[0.125])
    assert states(str(tmp_path)) == ["COMPLETE", "PRUNED"]
    assert searched.best_trial.number == 0


def test_a_trial_that_is_good_enough_or_of_no_search_goes_on(searched, tmp_path):
    reported(tmp_path / "1", 0.25, 0.75, 0.75)
    assert searched.trials[1].intermediate_values == {0: 0.25, 1: 0.75, 2: 0.75}
    reported(tmp_path / "elsewhere" / "0", 0.0, 0.0)


def test_what_cannot_prune_is_refused(searched, tmp_path):
    with pytest.raises(ConfigError, match="only metrics of val can prune"):
        reported(tmp_path / "1", metric="test/top1")
    with pytest.raises(ConfigError, match="one process"):
        reported(tmp_path / "1", world_size=2)


@pytest.mark.slow
def test_a_search_that_is_killed_and_then_shared_loses_and_repeats_no_trial(tmp_path):
    (tmp_path / "own.py").write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, "own.py", *SEARCH, "hydra.sweeper.n_trials=6"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert first.returncode == -9
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for one in both:
        _, err = one.communicate(timeout=120)
        assert one.returncode == 0, err
    started = {file.name: file.read_text().split() for file in tmp_path.glob("started_*")}
    assert {name: len(rates) for name, rates in started.items()} == {
        f"started_{number}": 2 if number == 2 else 1 for number in range(6)
    }
    assert len(set(started["started_2"])) == 1
    assert len({rates[0] for rates in started.values()}) == 6
    rows = sweep_rows(tmp_path / "swept")
    assert [row["status"] for row in rows] == ["done"] * 6
    assert [float(row["val/top1"]) for row in rows] == [float(started[f"started_{number}"][0]) for number in range(6)]
    stored = json.loads((tmp_path / "swept" / "3" / "trial_3.json").read_text())
    assert stored["number"] == 3
