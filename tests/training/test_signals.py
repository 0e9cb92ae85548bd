"""Signals to real programs: each ends in order, says how to go on, and goes on to what it would have been."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import COLOURS, draw_classes
from tests.forks import Moment, Running, left
from tests.small_runs import overrides, program, write_weights
from tlearn.training import signals

# Runs that last until somebody ends them
LONG = ["features=off", "transforms=light", "trainer.max_epochs=2000", "callbacks.early_stopping.patience=3000"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with pictures and weights."""
    folder = tmp_path_factory.mktemp("signals")
    for split, count in (("train", 8), ("val", 4)):
        draw_classes(folder / "pictures" / split, count, tuple(COLOURS))
    write_weights(folder / "weights.pth")
    return folder


def start(place: Path, *arguments: str, flags: Sequence[str] = ()) -> Running:
    return Running("train", *flags, *overrides(place / "pictures", place / "weights.pth", *arguments), cwd=place)


def last_line(ended: Running) -> str:
    assert "Traceback" not in ended.said()
    return ended.said().strip().splitlines()[-1]


@pytest.mark.slow
def test_a_stopped_training_saves_its_step_and_goes_on(place, tmp_path):
    folder = tmp_path / "run"
    running = start(place, *LONG, f"hydra.run.dir={folder}")
    running.wait_for("epoch    1/2000")
    # Asks to save, and the run goes on.
    os.kill(running.pid, signal.SIGUSR1)
    running.wait_for("epoch    3/2000")
    os.kill(running.pid, signal.SIGHUP)
    assert running.end() == 128 + signal.SIGHUP
    assert last_line(running).endswith(f"go on with: python -m tlearn.train resume={folder}")
    assert left(running.pid) == []
    epochs = _validated(folder)
    assert epochs == list(range(len(epochs)))
    done = program("train", f"resume={folder}", f"trainer.max_epochs={len(epochs) + 1}", cwd=place)
    assert done.returncode == 0, done.stderr
    assert _validated(folder) == [*epochs, len(epochs)]


def _validated(folder: Path) -> list[int]:
    """Return the epochs with a validation in metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as lines:
        return [int(row["epoch"]) for row in csv.DictReader(lines) if row.get("val/loss")]


@pytest.mark.slow
def test_a_sweep_ends_at_a_signal_too(place, tmp_path):
    running = start(place, *LONG, "seed=1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}", flags=["-m"])
    running.wait_for("epoch    1/2000")
    os.killpg(running.pid, signal.SIGTERM)
    assert running.end() == 143
    row = json.loads((tmp_path / "sweep" / "0" / "trial_0.json").read_text(encoding="utf-8"))
    assert row["exit_status"] == 143
    assert not (tmp_path / "sweep" / "1").exists()


def _killed(number: int, awaited: bool) -> Any:
    with signals.stoppable():
        signals.await_signals(awaited)
        signal.raise_signal(number)
        return signals.stopping_signal()


_PARENT = """
import os, subprocess, sys
environment = {**os.environ, "TLEARN_PARENT": str(os.getpid())}
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], env=environment).wait()
"""
# As a process that waits for others on NCCL
_CHILD = """
import os, sys, time
from tlearn.training import signals
signals._LOOK_SECONDS = 0.01
print("starts", flush=True)
while sys.argv[1] == "early" and os.environ["TLEARN_PARENT"] == str(os.getppid()):
    time.sleep(0.01)
with signals.stoppable():
    print("waits", flush=True)
    time.sleep(20)
    print("left alone", flush=True)
"""


@pytest.mark.parametrize("killed", ["early", "later"])
def test_a_further_process_ends_with_the_one_that_started_it(killed):
    command = [sys.executable, "-c", _PARENT, _CHILD, killed]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "starts\n"
        assert killed == "early" or parent.stdout.readline() == "waits\n"
        # A zombie until the block's end
        parent.kill()
        # Until both have closed the pipe
        assert "left alone" not in parent.stdout.read()


def test_a_signal_waits_for_a_fit_and_ends_anything_else():
    assert _killed(signal.SIGTERM, awaited=True) == signal.SIGTERM
    with pytest.raises(signals.Stopped):
        _killed(signal.SIGHUP, awaited=False)
    with pytest.raises(KeyboardInterrupt):
        _killed(signal.SIGINT, awaited=False)


def test_a_second_signal_does_not_wait():
    with signals.stoppable():
        signals.await_signals(True)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert _killed(signal.SIGHUP, awaited=False) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    ours = signal.getsignal(signal.SIGTERM)
    with signals.stoppable():
        assert signal.getsignal(signal.SIGTERM) != ours
    assert signal.getsignal(signal.SIGTERM) == ours


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """Make this a job of SLURM, and give the file in which a stand-in of scontrol notes what it is told."""
    noted, stand_in = tmp_path / "queue", tmp_path / "scontrol"
    # And that the state was saved by then
    state = tmp_path / "run" / "checkpoints" / "last.ckpt"
    stand_in.write_text(f'#!/bin/sh\necho "$@" $(ls {state}) >> {noted}\n', encoding="utf-8")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    job = {"JOB_ID": "4711", "JOB_NAME": "night", "NTASKS": "1", "NTASKS_PER_NODE": "1", "NNODES": "1"}
    for name, value in {**job, "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return noted


@pytest.mark.slow
@pytest.mark.parametrize(("part", "has_state"), [("extraction", False), ("evaluation", True)])
def test_a_job_of_slurm_is_queued_again_before_and_after_the_fit_too(place, tmp_path, queue, part, has_state):
    folder = tmp_path / "run"
    at_once = Moment(part, 1, partial(signal.raise_signal, signal.SIGUSR1))
    options = ["transforms=none", "features=cache", "trainer.max_epochs=1", f"hydra.run.dir={folder}"]
    running = Running(
        "train", *overrides(place / "pictures", place / "weights.pth", *options), cwd=place, prepare=at_once.install
    )
    # The job goes on until its time is up.
    assert running.end() == 0, running.said()
    state = [f"{folder}/checkpoints/last.ckpt"] if has_state else []
    assert queue.read_text(encoding="utf-8").split() == ["requeue", "4711", *state]
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["val/loss"]
    assert list(folder.glob("hpc_ckpt*")) == []


@pytest.mark.slow
def test_a_job_of_slurm_is_saved_and_queued_again_and_goes_on_with_the_same_command(
    place, tmp_path, queue, monkeypatch
):
    folder = tmp_path / "run"
    running = start(place, *LONG, f"hydra.run.dir={folder}")
    running.wait_for("epoch    1/2000")
    # To all processes of the job, as SLURM does before its time is up
    os.killpg(running.pid, signal.SIGUSR1)
    running.wait_for("epoch    3/2000")
    os.killpg(running.pid, signal.SIGTERM)
    assert running.end() == 143
    assert last_line(running).endswith(f"resume={folder}")
    assert queue.read_text(encoding="utf-8").split() == ["requeue", "4711", f"{folder}/checkpoints/last.ckpt"]
    # Lightning would evaluate it in place of the best weights.
    assert list(folder.glob("hpc_ckpt*")) == []
    epochs = _validated(folder)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    options = [*LONG, f"trainer.max_epochs={len(epochs) + 1}", f"hydra.run.dir={folder}"]
    again = start(place, *options)
    assert again.end() == 0, again.said()
    assert _validated(folder) == [*epochs, len(epochs)]


@pytest.fixture
def tasks(place, queue, monkeypatch):
    """Give a function that starts two tasks of one job, as srun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    step = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "STEP_ID": "0", "STEP_NUM_NODES": "1", "STEP_TASKS_PER_NODE": "2"}
    for name, value in {**step, "NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)

    def started(*options: str) -> list[Running]:
        both = []
        for rank in ("0", "1"):
            monkeypatch.setenv("SLURM_PROCID", rank)
            monkeypatch.setenv("SLURM_LOCALID", rank)
            both.append(start(place, "trainer=ddp_cpu", *options))
        return both

    return started


@pytest.mark.slow
def test_tasks_of_slurm_share_a_folder_and_train_as_further_processes_do(place, tmp_path, tasks, monkeypatch):
    options = ["features=off", "transforms=light"]
    both = tasks(*options)
    assert [one.end() for one in both] == [0, 0], both[0].said()
    # One says it all.
    assert both[1].said() == ""
    shared = Path(both[0].said().splitlines()[-1])
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MASTER_"))]:
        monkeypatch.delenv(name)
    alone = start(place, "trainer=ddp_cpu", *options, f"hydra.run.dir={tmp_path / 'run'}")
    assert alone.end() == 0, alone.said()
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (shared, tmp_path / "run"))
    assert ours["val/loss"] == theirs["val/loss"]
    assert (shared / ".hydra").is_dir()


@pytest.mark.slow
def test_a_job_of_several_tasks_is_saved_and_queued_once_and_goes_on(tmp_path, queue, tasks, monkeypatch):
    folder = tmp_path / "run"
    both = tasks(*LONG, f"hydra.run.dir={folder}")
    both[0].wait_for("epoch    1/2000")
    for one in both:
        os.kill(one.pid, signal.SIGUSR1)
    both[0].wait_for("epoch    3/2000")
    for one in both:
        os.kill(one.pid, signal.SIGTERM)
    assert [one.end() for one in both] == [143, 143], both[0].said()
    assert queue.read_text(encoding="utf-8").split() == ["requeue", "4711", f"{folder}/checkpoints/last.ckpt"]
    epochs = _validated(folder)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = tasks(*LONG, f"trainer.max_epochs={len(epochs) + 1}", f"hydra.run.dir={folder}")
    assert [one.end() for one in again] == [0, 0], again[0].said()
    assert _validated(folder) == [*epochs, len(epochs)]
