"""Loader workers: no more than shared memory holds, and no wait for a batch without an end."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from tests.conftest import REPOSITORY
from tlearn.config.messages import explain
from tlearn.data import loader
from tlearn.data.loader import EpochLoader, worker_options, worker_seconds
from tlearn.errors import ConfigError, OutputError

MIB = 2**20


class Stuck(Dataset):
    """Images of which the fifth does something else."""

    def __init__(self, instead) -> None:
        self.instead = instead

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 5:
            self.instead()
        return index

    def file(self, index: int) -> str:
        return f"{index}.jpg"


def loaded(instead, **how) -> EpochLoader:
    return EpochLoader(Stuck(instead), **{**worker_options(1, 8), "batch_size": 2, **how})


def kill() -> None:
    os.kill(os.getpid(), signal.SIGBUS)


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        (lambda: time.sleep(60), "no batch came from the loader workers for 1 s .* at 4.jpg, 5.jpg: .*num_workers=0"),
        # Its end is noticed at once, also while earlier batches wait.
        (kill, "a loader worker was killed.* at .*jpg: .*num_workers=0"),
    ],
)
def test_a_batch_that_does_not_come_ends_with_its_files(monkeypatch, instead, told):
    monkeypatch.setenv("TLEARN_WORKER_TIMEOUT", "1")
    # How long a worker that sleeps is waited for, once it is known to be late
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    with pytest.raises(OutputError, match=told):
        list(loaded(instead))


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_hands_over_a_batch_ends_with_its_files(monkeypatch, error):
    def cut_off(self):
        yield from ()
        raise error

    monkeypatch.setattr(DataLoader, "__iter__", cut_off)
    with pytest.raises(OutputError, match=r"a loader worker was killed.* at 0.jpg, 1.jpg: .*num_workers=0"):
        list(loaded(lambda: None))
    with pytest.raises(type(error)):
        list(loaded(lambda: None, num_workers=0, timeout=0))


def test_a_worker_that_is_killed_while_something_else_runs_ends_with_the_remedy():
    batches = iter(loaded(kill))
    next(batches)
    # torch hears of its end here, and raises its error.
    with pytest.raises(RuntimeError) as caught:
        time.sleep(10)
    status, message = explain(caught.value)
    assert status == 4
    assert "a loader worker was killed" in message
    assert "--shm-size=1g" in message


def test_the_files_are_of_the_batches_that_a_resumed_epoch_still_has(monkeypatch):
    class Skipping(BatchSampler):
        skip = 2

        def __iter__(self):
            skipped, self.skip = self.skip, 0
            yield from list(super().__iter__())[skipped:]

    monkeypatch.setenv("TLEARN_WORKER_TIMEOUT", "1")
    # How long a worker that sleeps is waited for, once it is known to be late
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    batches = Skipping(range(8), 2, drop_last=False)
    with pytest.raises(OutputError, match=r"at 4.jpg, 5.jpg"):
        list(EpochLoader(Stuck(lambda: time.sleep(60)), batch_sampler=batches, **worker_options(1, 8)))


@pytest.mark.parametrize("given", ["0", "-1", "soon", "inf", "nan"])
def test_a_time_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("TLEARN_WORKER_TIMEOUT", given)
    with pytest.raises(ConfigError, match="expected a number of seconds"):
        worker_seconds()


@pytest.mark.parametrize(("free", "workers"), [(None, 4), (128 * MIB, 4), (127 * MIB, 3), (31 * MIB, 0), (0, 0)])
def test_as_many_workers_load_as_shared_memory_has_room_for(monkeypatch, capsys, free, workers):
    monkeypatch.setattr(loader, "free_shared_memory", lambda: free)
    options = worker_options(4, 8 * MIB, loaders=2)
    assert options["num_workers"] == workers
    assert ("timeout" in options) == (workers > 0)
    assert ("4 loader workers need 128 MiB in /dev/shm" in capsys.readouterr().out) == (workers < 4)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or not shutil.which("unshare") or os.geteuid() != 0, reason="needs root to mount")
def test_a_training_in_a_container_with_little_shared_memory_says_so_and_ends_well(tmp_path, folder_data):
    train = [sys.executable, "-m", "tlearn.train", "data=folder", f"data.root={folder_data}", "data.num_workers=2"]
    more = [
        "features=off",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "report=off",
        "logger=csv",
        "data.batch_size=24",
        "backbone=tiny",
        "transforms.size=224",
    ]
    mount = f'mount -t tmpfs -o size=16m tmpfs /dev/shm && cd {tmp_path} && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", *train, *more]
    if subprocess.run([*command[:4], "mount -t tmpfs tmpfs /dev/shm"], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert "2 loader workers need" in done.stdout
    assert "--shm-size=1g" in done.stdout


def test_torch_takes_the_options(monkeypatch):
    monkeypatch.setattr(loader, "free_shared_memory", lambda: 0)
    assert torch.stack(list(loaded(lambda: None))).flatten().tolist() == list(range(8))
