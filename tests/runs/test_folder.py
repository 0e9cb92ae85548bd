"""The run folder: one run at a time, whole files, and a record of where it was made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import fill
from tests.faults import fault
from tlearn.errors import OutputError
from tlearn.files import temporary_beside
from tlearn.locks import lock
from tlearn.runs.folder import RunFolder

HOLD = """
import sys
from tlearn.runs.folder import RunFolder
folder = RunFolder(sys.argv[1])
folder.claim()
print("claimed", flush=True)
input()
"""


@pytest.fixture
def elsewhere():
    """Give a function that claims a folder in another process, which then holds it until the test ends."""
    started = []

    def claim(folder: Path) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "claimed\n"
        return process

    yield claim
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_that_another_living_run_holds_is_refused_and_named(tmp_path, elsewhere):
    holder = elsewhere(tmp_path / "run")
    with pytest.raises(OutputError, match="in use by another run") as caught:
        RunFolder(tmp_path / "run").claim()
    assert str(tmp_path / "run") in str(caught.value)
    assert str(holder.pid) in str(caught.value)


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path, elsewhere):
    holder = elsewhere(tmp_path / "run")
    holder.kill()
    holder.communicate()
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    assert str(os.getpid()) in (tmp_path / "run" / ".lock").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["", "process 1 on another-machine"])
def test_a_lock_file_that_nobody_holds_is_no_obstacle(tmp_path, content):
    (tmp_path / ".lock").write_text(content, encoding="utf-8")
    RunFolder(tmp_path).claim()


def test_a_lock_file_that_is_removed_while_it_is_taken_is_made_anew(tmp_path, monkeypatch):
    calls = []

    def taken(file):
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        lock(file)

    monkeypatch.setattr("tlearn.runs.folder.lock", taken)
    run = RunFolder(tmp_path)
    run.claim()
    assert RunFolder(tmp_path).is_taken()
    run.release()


@pytest.mark.parametrize("left", ["metrics.json", "checkpoints/last.ckpt", "checkpoints/epoch001.ckpt"])
def test_a_folder_with_a_run_in_it_is_only_taken_to_go_on(tmp_path, left):
    fill(tmp_path, left)
    with pytest.raises(OutputError, match="already holds a run"):
        RunFolder(tmp_path).claim()
    RunFolder(tmp_path).claim(again=True)


def test_a_released_folder_is_free_and_leaves_no_lock(tmp_path):
    first = RunFolder(tmp_path / "run")
    first.claim()
    first.release()
    assert list((tmp_path / "run").iterdir()) == []
    first.release()
    RunFolder(tmp_path / "run").claim()


def test_what_a_killed_run_left_half_written_is_removed_from_its_own_folders_only(tmp_path):
    names = ["metrics.json", "checkpoints/last.ckpt", "model/model.json", "report/curves.png", "other/metrics.json"]
    left = [temporary_beside(tmp_path / name) for name in names]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    RunFolder(tmp_path).claim(again=True)
    assert [path for path in left if path.exists()] == left[-1:]


DIED = ["environment.json", "tune.json", "metrics.csv", "tensorboard/events", "checkpoints/.last.0123456789abcdef.tmp"]


def test_a_run_that_died_before_its_first_checkpoint_leaves_its_folder_free_and_nothing_of_it_in_the_next(tmp_path):
    fill(tmp_path, *DIED, "train.log", "notes.txt")
    (tmp_path / "report").symlink_to(fill(tmp_path / "elsewhere", "mine.png"))
    assert not RunFolder(tmp_path).is_taken()
    run = RunFolder(tmp_path)
    run.claim()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "train.log", "notes.txt", "elsewhere"}
    assert (tmp_path / "elsewhere" / "mine.png").exists()
    run.release()


def test_what_no_run_has_left_stays_in_a_new_run_folder(tmp_path):
    fill(tmp_path, *DIED[1:-1], "report/mine.png")
    RunFolder(tmp_path).claim()
    assert all((tmp_path / name).exists() for name in [*DIED[1:-1], "report/mine.png"])


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot write to the run folder") as caught:
        RunFolder(tmp_path / "file" / "run").claim()
    assert str(tmp_path / "file" / "run") in str(caught.value)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot write to the run folder"):
        RunFolder(tmp_path / "file").claim()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_the_path_is_absolute_however_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunFolder("runs/one").path == tmp_path / "runs" / "one"


def test_a_json_file_is_readable_text_in_utf8(tmp_path):
    RunFolder(tmp_path).write_json("notes.json", {"class": "Blåbær", "count": 3})
    assert json.loads((tmp_path / "notes.json").read_text(encoding="utf-8")) == {"class": "Blåbær", "count": 3}
    assert "Blåbær" in (tmp_path / "notes.json").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]


def test_a_json_file_stays_as_it_was_when_writing_the_next_one_fails(tmp_path):
    run = RunFolder(tmp_path)
    run.write_json("metrics.json", {"val/top1": 0.5})
    before = (tmp_path / "metrics.json").read_bytes()
    with pytest.raises(TypeError):
        run.write_json("metrics.json", {"val/top1": object()})
    with fault("write", OSError(28, "No space left on device")), pytest.raises(OutputError, match="No space left"):
        run.write_json("metrics.json", {"val/top1": 0.6})
    assert (tmp_path / "metrics.json").read_bytes() == before
