"""A run whose folder goes, fills up or can no longer be written to: a line, and its last state is kept."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.small_runs import overrides, program, write_weights
from tlearn.training.last_checkpoint import LastCheckpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.pth")


@pytest.fixture
def told_by_threads(monkeypatch) -> list[threading.ExceptHookArgs]:
    """What a thread of a program would print on standard error."""
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    return failed


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if not hasattr(os, "geteuid") or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root to mount")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def train_until(monkeypatch, deed: Callable[[], object], before: bool, data: Path, weights: Path, folder: Path) -> str:
    """Train until something happens to the disk, before or after the second state is saved, and return the error."""
    save, states = LastCheckpoint._save, []

    def saved(self, trainer):
        states.append(trainer.global_step)
        if len(states) == 2 and before:
            deed()
        save(self, trainer)
        if len(states) == 2 and not before:
            deed()

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "_save", saved)
        given = overrides(data, weights, "trainer.max_epochs=3", "logger=default", f"hydra.run.dir={folder}")
        done = program("train", *given, cwd=data)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    *warned, told = done.stderr.strip().splitlines()
    # A log that cannot be written or ended is no reason to end a run.
    known = ("train.log cannot be written", "the end of a log could not be made")
    assert all(any(words in line for words in known) for line in warned)
    return told.removeprefix("tlearn: error: ")


@pytest.mark.parametrize("before", [True, False])
def test_a_run_folder_that_vanishes_is_told_in_a_line(
    tmp_path, folder_data, weights, monkeypatch, told_by_threads, before
):
    folder = tmp_path / "run"
    told = train_until(monkeypatch, lambda: shutil.rmtree(folder), before, folder_data, weights, folder)
    assert told == f"the run folder {folder} was moved or removed while the run wrote to it"
    assert told_by_threads == []
    assert not folder.exists()


def test_curves_that_vanish_are_named(tmp_path, folder_data, weights, monkeypatch, told_by_threads):
    folder = tmp_path / "run"
    vanish = lambda: shutil.rmtree(folder / "tensorboard")  # noqa: E731
    told = train_until(monkeypatch, vanish, False, folder_data, weights, folder)
    assert told.startswith(f"{folder}/tensorboard/events")
    assert told.endswith(" was removed while the run wrote to it")
    assert told_by_threads == []


def fill(folder: Path) -> None:
    """Leave no room, not even at the end of a file that grows."""
    for curves in (folder / "tensorboard").iterdir():
        with curves.open("ab") as file:
            file.write(bytes(-curves.stat().st_size % os.sysconf("SC_PAGE_SIZE")))
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def close(folder: Path) -> None:
    if subprocess.run(["chattr", "-R", "+i", folder], capture_output=True, check=False).returncode:
        pytest.skip("this file system cannot be closed to root")


@pytest.mark.slow
def test_a_run_goes_on_when_its_disk_has_room_again(small_disk, folder_data, weights, monkeypatch, told_by_threads):
    folder = small_disk / "run"
    told = train_until(monkeypatch, lambda: fill(folder), False, folder_data, weights, folder)
    assert told.startswith("cannot write ")
    assert "No space left on device; free some space" in told
    assert told_by_threads == []
    (folder / "filler").unlink()
    done = program("train", f"resume={folder}", cwd=folder_data)
    assert done.returncode == 0, done.stderr
    assert (folder / "metrics.json").is_file()


@pytest.mark.slow
def test_a_run_goes_on_when_its_folder_can_be_written_to_again(
    small_disk, folder_data, weights, monkeypatch, told_by_threads
):
    folder = small_disk / "run"
    told = train_until(monkeypatch, lambda: close(folder), False, folder_data, weights, folder)
    assert told.startswith(f"cannot write {folder}/")
    assert "Operation not permitted" in told
    assert told_by_threads == []
    subprocess.run(["chattr", "-R", "-i", folder], check=True)
    done = program("train", f"resume={folder}", cwd=folder_data)
    assert done.returncode == 0, done.stderr
    assert (folder / "metrics.json").is_file()
