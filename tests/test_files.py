"""The one door to the disk: whole or absent, links kept, what is not a regular file written to and never replaced."""

import ast
import csv
import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tlearn
from tests.faults import STEPS, Killed, fault, temporaries
from tlearn import files
from tlearn.errors import OutputError
from tlearn.files import (
    STDOUT,
    append_row,
    is_stream,
    lock,
    opened_number,
    read_table,
    remove_temporaries,
    temporary_beside,
    write_bytes,
    write_json,
    write_table,
    write_text,
    writing,
    writing_text,
    written_by_library,
)

FULL = OSError(errno.ENOSPC, "No space left on device")


class LibraryError(Exception):
    """What a library raises that writes files itself."""


def by_library(path: Path, content: bytes, durable: bool = False) -> None:
    with written_by_library(path, LibraryError, durable=durable) as temporary:
        temporary.write_bytes(content)
        # As libraries do that make a temporary file of their own
        temporary.chmod(0o600)


WRITERS = [write_bytes, by_library]


class TestWhole:
    @pytest.mark.parametrize("write", WRITERS)
    def test_a_file_is_written_and_replaced_with_its_folders_made(self, tmp_path, write):
        for content in (b"first", b"", b"x" * 100_000):
            write(tmp_path / "far" / "away" / "file", content)
            assert (tmp_path / "far" / "away" / "file").read_bytes() == content
        assert [path.name for path in (tmp_path / "far" / "away").iterdir()] == ["file"]

    @pytest.mark.parametrize("write", WRITERS)
    @pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_files_are_as_readable_as_the_umask_says(self, tmp_path, write, mask, mode):
        before = os.umask(mask)
        try:
            write(tmp_path / "file", b"content")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode

    @pytest.mark.parametrize("error", [ValueError("a fault"), OSError(errno.EMFILE, "Too many open files"), Killed()])
    def test_a_block_that_fails_leaves_the_old_file_and_keeps_its_own_error(self, tmp_path, error):
        write_bytes(tmp_path / "file", b"old")

        def save() -> None:
            with writing(tmp_path / "file") as file:
                file.write(b"half")
                raise error

        with pytest.raises(type(error)) as caught:
            save()
        assert caught.value is error
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]

    @pytest.mark.parametrize("old", [None, b"old"], ids=["new", "replaced"])
    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("error", [FULL, Killed(), KeyboardInterrupt()], ids=repr)
    def test_a_step_that_fails_leaves_the_old_file_or_none_and_nothing_else(self, tmp_path, step, error, old):
        if old is not None:
            write_bytes(tmp_path / "file", old)
        expected = OutputError if isinstance(error, OSError) else type(error)
        with fault(step, error) as disk, pytest.raises(expected):
            write_bytes(tmp_path / "file", b"new content", durable=True)
        assert disk.failed
        assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if old is None else [old])

    def test_a_failure_names_the_target_and_what_to_do(self, tmp_path):
        with fault("write", FULL), pytest.raises(OutputError) as caught:
            write_bytes(tmp_path / "file", b"content")
        assert str(caught.value) == (
            f"cannot write {tmp_path}/file: No space left on device; free some space or choose another place"
        )
        with fault("replace", OSError(errno.EIO, "Input/output error")), pytest.raises(OutputError) as caught:
            write_bytes(tmp_path / "file", b"content")
        assert str(caught.value) == f"cannot write {tmp_path}/file: Input/output error; choose another place"
        assert caught.value.exit_status == 4

    @pytest.mark.parametrize("error", [FULL, Killed()], ids=repr)
    def test_what_a_library_makes_of_a_failed_write_is_not_what_is_raised(self, tmp_path, error):
        expected = OutputError if isinstance(error, OSError) else Killed

        def save() -> None:
            with writing(tmp_path / "file") as file:
                try:
                    file.write(b"x" * 100_000)
                except BaseException as failure:
                    # As torch.save does
                    raise RuntimeError("unexpected pos 64 vs 0") from failure

        with fault("write", error), pytest.raises(expected):
            save()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("write", WRITERS)
    def test_what_must_survive_is_synced_before_and_its_folder_after_the_replacement(
        self, tmp_path, monkeypatch, write
    ):
        steps = []
        fsync, replace = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            fsync(descriptor)

        def replaced(source: Path, target: Path) -> None:
            steps.append("replace")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", replaced)
        write(tmp_path / "file", b"content", durable=True)
        assert steps == ["file", "replace", "folder"]
        write(tmp_path / "file", b"content")
        assert steps[3:] == ["replace"]

    def test_a_file_system_that_cannot_sync_folders_is_no_error(self, tmp_path, monkeypatch):
        fsync = os.fsync

        def synced(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "Invalid argument")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", synced)
        write_bytes(tmp_path / "file", b"content", durable=True)
        assert (tmp_path / "file").read_bytes() == b"content"

    @pytest.mark.parametrize("write", WRITERS)
    def test_a_file_is_synced_while_it_is_open_for_writing(self, tmp_path, monkeypatch, write):
        def synced_on_windows(descriptor: int) -> None:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                os.write(descriptor, b"")

        monkeypatch.setattr(os, "fsync", synced_on_windows)
        write(tmp_path / "file", b"content", durable=True)
        assert (tmp_path / "file").read_bytes() == b"content"

    @pytest.mark.parametrize("write", WRITERS)
    @pytest.mark.parametrize("target", ["folder", "file/below", "x" * 300, "folder/."])
    def test_a_target_that_cannot_be_is_refused_before_the_work_is_done(self, tmp_path, write, target):
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_bytes(b"mine")
        opened = writing if write is write_bytes else lambda path: written_by_library(path, LibraryError)
        with pytest.raises(OutputError, match="cannot write"), opened(tmp_path / target):
            pytest.fail("the block ran")
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
    def test_a_folder_without_permission_is_refused(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match="Permission denied"):
            write_bytes(tmp_path / "file", b"content")

    @pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "a\udcffb", "a\nb", "-", "[0]*", ".hidden"])
    def test_any_name_can_be_written(self, tmp_path, name):
        for write in WRITERS:
            write(tmp_path / name, b"content")
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_writers_side_by_side_leave_one_whole_file(self, tmp_path):
        contents = [bytes([number]) * 50_000 for number in range(4)]
        start = threading.Barrier(4)

        def write(content: bytes) -> None:
            start.wait(timeout=60)
            for _ in range(20):
                write_bytes(tmp_path / "file", content)
                assert (tmp_path / "file").read_bytes() in contents

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, contents))
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestLibrary:
    def test_its_own_error_becomes_one_that_names_the_target(self, tmp_path):
        def save() -> None:
            with written_by_library(tmp_path / "file", LibraryError) as path:
                path.write_bytes(b"half")
                (path.parent / ".tmpAbCdEf").write_bytes(b"of the library's own")
                raise LibraryError("no room")

        with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file: no room; choose"):
            save()
        assert list(tmp_path.iterdir()) == []

    def test_it_sees_the_targets_own_name_whose_ending_it_may_go_by(self, tmp_path):
        with written_by_library(tmp_path / "figure.png", LibraryError) as path:
            assert path.name == "figure.png"
            path.write_bytes(b"content")

    def test_it_never_gets_what_is_not_a_regular_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with (
            pytest.raises(OutputError, match="not a regular file"),
            written_by_library(tmp_path / "pipe", LibraryError),
        ):
            pytest.fail("the block ran")
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


class TestLinks:
    @pytest.mark.parametrize("write", WRITERS)
    def test_what_a_link_leads_to_is_replaced_and_the_link_stays(self, tmp_path, write):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "file").write_bytes(b"old")
        (tmp_path / "one").symlink_to("there/file")
        (tmp_path / "two").symlink_to("one")
        with fault("replace", FULL) as disk, pytest.raises(OutputError, match=f"cannot write {tmp_path}/two: "):
            write(tmp_path / "two", b"new")
        # Beside what it replaces, which may lie on another file system
        assert disk.taken["replace"] == [tmp_path / "there" / "file"]
        write(tmp_path / "two", b"new")
        assert (tmp_path / "two").readlink() == Path("one")
        assert (tmp_path / "one").readlink() == Path("there/file")
        assert (tmp_path / "there" / "file").read_bytes() == b"new"
        assert not (tmp_path / "there" / "file").is_symlink()
        assert temporaries(tmp_path) == []

    def test_what_a_link_leads_to_is_made(self, tmp_path):
        (tmp_path / "link").symlink_to("there/file")
        write_text(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_text(encoding="utf-8") == "new"

    def test_a_link_to_itself_is_refused(self, tmp_path):
        (tmp_path / "link").symlink_to("link")
        with pytest.raises(OutputError, match="symbolic links"):
            write_text(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, descriptor = os.pipe()
    yield reading, descriptor
    for number in (reading, descriptor):
        os.close(number)


class TestStreams:
    @pytest.mark.parametrize("linked", [False, True])
    def test_a_named_pipe_is_opened_once_and_stays_one(self, tmp_path, monkeypatch, linked):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("pipe")
        target = tmp_path / ("link" if linked else "pipe")
        opened: Counter[str] = Counter()
        os_open = os.open

        def counting(path: Path, *more: int) -> int:
            opened[str(path)] += 1
            return os_open(path, *more)

        monkeypatch.setattr(os, "open", counting)
        with ThreadPoolExecutor(1) as pool:
            received = pool.submit((tmp_path / "pipe").read_bytes)
            write_table(target, [{"a": 1}, {"a": 2}])
            assert received.result(timeout=60) == b"a\r\n1\r\n2\r\n"
        assert opened == {str(target): 1}
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]

    def test_a_reader_gets_each_line_at_once(self, pipe):
        reading, descriptor = pipe
        with writing_text(Path(f"/dev/fd/{descriptor}")) as file:
            file.write("one\n")
            assert os.read(reading, 100) == b"one\n"
            file.write("two\r\n")
            assert os.read(reading, 100) == b"two\r\n"

    def test_a_reader_that_is_gone_is_told_apart_from_a_disk_that_fails(self):
        reading, descriptor = os.pipe()
        os.close(reading)
        with pytest.raises(BrokenPipeError), writing_text(Path(f"/dev/fd/{descriptor}")) as file:
            file.write("one\n")
        os.close(descriptor)

    def test_devices_stay_devices(self):
        write_text(Path("/dev/null"), "content")
        with pytest.raises(OutputError, match="cannot write /dev/full: No space left on device"):
            write_text(Path("/dev/full"), "content")
        for name in ("/dev/null", "/dev/full"):
            assert stat.S_ISCHR(os.stat(name).st_mode)

    def test_a_socket_is_refused_and_stays(self, tmp_path):
        import socket

        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "socket"))
            with pytest.raises(OutputError, match="cannot write"):
                write_text(tmp_path / "socket", "content")
        assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)

    def test_an_open_file_goes_on_where_it_is_and_stays_open(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with (tmp_path / "file").open("wb", buffering=0) as file:
            file.write(b"before ")
            place = Path(f"/dev/fd/{file.fileno()}")
            (tmp_path / "link").symlink_to(place)
            for target in (place, tmp_path / "link", Path(f"/proc/self/fd/{file.fileno()}")):
                assert is_stream(target)
                assert opened_number(target) == file.fileno()
                write_text(target, "text ")
            file.write(b"after")
        assert (tmp_path / "file").read_bytes() == b"before text text text after"
        assert (tmp_path / "link").is_symlink()

    def test_standard_output_needs_no_link_of_the_machines(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "STDOUT", tmp_path / "lost")
        assert is_stream(tmp_path / "lost")
        assert opened_number(tmp_path / "lost") == 1

    def test_a_file_that_is_not_open_is_refused(self):
        with pytest.raises(OutputError, match="cannot write /dev/fd/789: Bad file descriptor"):
            write_text(Path("/dev/fd/789"), "text")

    @pytest.mark.parametrize("name", ["file", "nothing there", "folder", "1", "link"])
    def test_all_else_is_replaced(self, tmp_path, name):
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to("file")
        assert not is_stream(tmp_path / name)

    def test_standard_output_is_added_to_and_the_machines_link_stays(self, tmp_path):
        before = os.lstat("/dev/stdout")
        (tmp_path / "log").write_text("before\n", encoding="utf-8")
        code = f"from tlearn.files import *; write_text(STDOUT, 'one\\n'); write_text(Path('{STDOUT}'), 'two\\n')"
        with (tmp_path / "log").open("a") as log:
            subprocess.run([sys.executable, "-c", code], stdout=log, check=True, timeout=60)
        assert (tmp_path / "log").read_text(encoding="utf-8") == "before\none\ntwo\n"
        assert os.lstat("/dev/stdout").st_ino == before.st_ino


WRITE = """
import sys, time
from pathlib import Path
from tlearn.files import writing, written_by_library
folder = Path(sys.argv[1])
with writing(folder / "table.csv") as file, written_by_library(folder / "model.st", ValueError) as other:
    file.write(b"half" * 10000)
    other.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def writer(tmp_path) -> Iterator[subprocess.Popen]:
    """Start a process that has written half of two files."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    yield process
    process.kill()
    process.communicate()


class TestTemporaries:
    def test_they_are_hidden_unique_and_beside_their_target(self, tmp_path):
        names = {temporary_beside(tmp_path / "file.csv") for _ in range(100)}
        assert len(names) == 100
        assert all(name.parent == tmp_path and name.name.startswith(".file.csv.") for name in names)

    def test_what_a_killed_process_left_is_no_file_and_is_removed(self, tmp_path, writer):
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(temporaries(tmp_path)) == 2
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())
        remove_temporaries(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_what_another_process_writes_is_left_to_it(self, tmp_path, writer):
        remove_temporaries(tmp_path, "table.csv")
        assert len(temporaries(tmp_path)) == 2

    def test_only_one_targets_are_removed_if_so_asked_for(self, tmp_path):
        targets = ["a.csv", "b.csv", "x" * 200]
        left = [temporary_beside(tmp_path / name) for name in targets]
        for path in left:
            path.write_bytes(b"half")
        remove_temporaries(tmp_path, "b.csv")
        remove_temporaries(tmp_path, targets[2])
        assert list(tmp_path.iterdir()) == left[:1]

    def test_a_users_own_files_stay(self, tmp_path):
        names = [".tmp", ".notes.tmp", "file.tmp", ".file.0123456789abcdef.tmp.csv", ".file.0123.tmp"]
        for name in names:
            (tmp_path / name).write_bytes(b"mine")
        remove_temporaries(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
        remove_temporaries(tmp_path / "no such folder")


class TestTablesAndJson:
    def test_a_table_comes_back_as_text(self, tmp_path):
        rows = [{"a": 1, "b": 'x, "y"\r\nz'}, {"a": None, "b": "\udcff ü"}]
        write_table(tmp_path / "table.csv", rows)
        assert read_table(tmp_path / "table.csv") == [{"a": "1", "b": rows[0]["b"]}, {"a": "", "b": "\udcff ü"}]

    def test_columns_can_be_given_and_what_a_row_lacks_is_empty(self, tmp_path):
        write_table(tmp_path / "table.csv", [{"b": 1}, {"a": 2, "b": 3}], ["a", "b"])
        assert read_table(tmp_path / "table.csv") == [{"a": "", "b": "1"}, {"a": "2", "b": "3"}]
        write_table(tmp_path / "table.csv", [], ["a", "b"])
        assert (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines() == ["a,b"]

    def test_a_row_more_is_whole_or_leaves_the_table(self, tmp_path):
        write_table(tmp_path / "table.csv", [{"a": 1, "b": 2}])
        append_row(tmp_path / "table.csv", {"b": "x" * 100, "a": 3}, ["a", "b"])
        before = (tmp_path / "table.csv").read_bytes()
        for error in (FULL, Killed()):
            with fault("write", error), pytest.raises((OutputError, Killed)):
                append_row(tmp_path / "table.csv", {"a": 5, "b": 6}, ["a", "b"])
            assert (tmp_path / "table.csv").read_bytes() == before
        assert [row["a"] for row in read_table(tmp_path / "table.csv")] == ["1", "3"]

    def test_json_is_readable_and_valid_whatever_files_are_called(self, tmp_path):
        write_json(tmp_path / "file.json", {"class": "Blåbær", "path": "a\udcff.png"})
        text = (tmp_path / "file.json").read_text(encoding="utf-8")
        assert "Blåbær" in text
        assert json.loads(text)["path"] == "a\udcff.png"

    @pytest.mark.parametrize("text", ["=1+1", "+ve", "-ve", "@A1", "\t=1", "\r=1", "'=1", "''-1", "--5", "-1 or 2"])
    def test_a_spreadsheet_runs_no_cell_and_it_comes_back_unchanged(self, tmp_path, text):
        path = tmp_path / "table.csv"
        write_table(path, [{"name": text, "value": -0.5}])
        append_row(path, {"name": text, "value": "-1e-05"}, ["name", "value"])
        with path.open(newline="") as file:
            cells = [row["name"] for row in csv.DictReader(file)]
        assert cells == [f"'{text}"] * 2
        rows = read_table(path)
        assert rows == [{"name": text, "value": "-0.5"}, {"name": text, "value": "-1e-05"}]

    @pytest.mark.parametrize("text", ["'quoted", "''", "5'", "a=b", "", "-3", "+2.5E3", "nan"])
    def test_other_cells_are_as_they_are(self, tmp_path, text):
        write_table(tmp_path / "table.csv", [{"name": text, "more": "x"}])
        assert (tmp_path / "table.csv").read_text().splitlines()[1].startswith(f"{text},")
        assert read_table(tmp_path / "table.csv") == [{"name": text, "more": "x"}]

    def test_what_json_cannot_hold_leaves_the_old_file(self, tmp_path):
        write_json(tmp_path / "file.json", [1])
        with pytest.raises(TypeError):
            write_json(tmp_path / "file.json", object())
        assert json.loads((tmp_path / "file.json").read_bytes()) == [1]


PACKAGE = Path(tlearn.__file__).resolve().parent
# Methods and functions that write, move or make files, by their names
WRITING = {
    *("write_text", "write_bytes", "savefig", "save_file", "rename", "touch", "symlink_to", "hardlink_to", "truncate"),
    *("ftruncate", "dump", "tofile", "to_csv", "extractall", "copyfile", "copytree", "move", "mkstemp", "mkdtemp"),
    *("NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory"),
}
ALLOWED = {
    ("tlearn.training.tune", "TemporaryDirectory"): "a folder for a trial's Trainer, which writes nothing",
    ("tlearn.training.checkpoints", "save"): "torch.save, into a file of the door's",
    ("tlearn.models.digests", "open"): "a file that safetensors has just written to a path of the door's",
    ("tlearn.runs.model", "save_file"): "safetensors, to a path of the door's",
    ("tlearn.features.segments", "save_file"): "the same",
    ("tlearn.analysis.drawing", "save"): "an image, into memory",
    ("tlearn.report.gallery", "save"): "the same",
    ("tlearn.locks", "open"): "a device, for what a fork must not keep",
    ("tlearn.config.trained_job", "dump"): "YAML, into memory",
    ("tlearn.runs.folder", "open"): "the lock file, which is locked and never replaced",
    ("tlearn.runs.folder", "truncate"): "the same",
    ("tlearn.runs.unfinished", "truncate"): "a file of the door's, which is added to",
    ("tlearn.runs.unfinished", "fdopen"): "the same, to be read",
    ("tlearn.features.store", "open"): "lock files",
    ("tlearn.features.prune", "open"): "the same",
    ("tlearn.data.verify", "open"): "the same",
    ("tlearn.data.workers", "mkdtemp"): "a process's folder of temporary files",
    ("tlearn.data.workers", "open"): "the lock file in it",
    ("tlearn.data.workers", "rename"): "the same",
    ("tlearn.download", "truncate"): "a file of the door's, for another try",
    ("tlearn.archive", "open"): "files, in a temporary folder",
    ("tlearn.archive", "rename"): "which takes its place when it is whole",
    ("tlearn.data.sources.shapes", "save"): "images, in a temporary folder",
    ("tlearn.data.sources.shapes", "rename"): "the same",
    ("tlearn.sweeps.study", "open"): "a lock, in which nothing is written",
}


def _written_by(call: ast.Call) -> str | None:
    """Name the way in which a call may write a file; None if it cannot."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    of_os = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in ("os", "shutil")
    if name in ("open", "fdopen"):
        given = [*call.args, *(word.value for word in call.keywords)]
        modes = [str(value.value) for value in given if isinstance(value, ast.Constant)]
        writes = any(re.fullmatch("[rwabxt+]+", mode) and set(mode) & set("wax+") for mode in modes)
        return name if writes or of_os else None
    # str.replace and dataclasses.replace take more; what else is called `save`, such as a logger's, takes nothing.
    in_doubt = {"replace": of_os or (len(call.args) == 1 and not call.keywords), "save": call.args, "copy": of_os}
    # What files.py has under these names are functions.
    in_doubt |= dict.fromkeys(("write_text", "write_bytes"), isinstance(call.func, ast.Attribute))
    return name if in_doubt.get(name, name in WRITING) else None


def test_nothing_goes_round_the_door():
    found = set()
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        found |= {(module, way) for call in calls if (way := _written_by(call))}
    assert {one for one in found if one[0] != "tlearn.files"} == set(ALLOWED)


@pytest.mark.parametrize(
    "code",
    [
        "path.write_text(text)",
        "open(path, 'w')",
        "path.open(mode='ab')",
        "os.open(path, flags)",
        "path.replace(target)",
        "os.rename(a, b)",
        "torch.save(thing, path)",
        "image.save(path)",
        "figure.savefig(path)",
        "json.dump(thing, file)",
        "tempfile.mkstemp()",
    ],
)
def test_the_test_above_sees_it(code):
    assert _written_by(ast.parse(code, mode="eval").body)


@pytest.mark.parametrize(
    "code", ["text.replace('a', 'b')", "write_text(path, a)", "replace(a, b=1)", "open(path, 'rb')", "logger.save()"]
)
def test_the_test_above_sees_nothing_else(code):
    assert _written_by(ast.parse(code, mode="eval").body) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_that_outlives_its_process_holds_no_lock_of_it(tmp_path):
    reader, writer = os.pipe()
    starts, started = os.pipe()
    file = (tmp_path / "file").open("wb")
    lock(file)
    file.write(b"whole")
    pid = os.fork()
    if pid == 0:
        # As a worker does until it finds that nobody is left to work for
        os.close(writer)
        os.write(started, b"1")
        os.read(reader, 1)
        file.close()
        os._exit(0)
    os.read(starts, 1)
    try:
        with (tmp_path / "file").open("ab") as again, pytest.raises(BlockingIOError):
            lock(again)
        file.close()
        with (tmp_path / "file").open("ab") as again:
            lock(again)
    finally:
        os.close(writer)
        assert os.waitpid(pid, 0)[1] == 0
        for end in (reader, starts, started):
            os.close(end)
    assert (tmp_path / "file").read_bytes() == b"whole"
