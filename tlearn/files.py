"""The one door to the disk: every file is written whole or not at all, tables and JSON included.

A file is written under a temporary name beside its target and then replaces it; for a symbolic link, the file it points
to is replaced. A target that is not a regular file (a device, a pipe, an open file such as /dev/stdout) is opened once
and written to, never replaced. Failed writes raise an OutputError that names the target; a closed pipe raises
BrokenPipeError.
"""

import csv
import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tlearn.errors import OutputError
from tlearn.locks import lock

# Standard output, whatever a machine has there
STDOUT = Path("/dev/stdout")
_OPENED = "/dev/fd"

_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{16}\.tmp", re.DOTALL)
# Characters of its target's name in a temporary one, which no file system must find too long
_NAMED = 50
# errno of a disk or a quota without room
FULL = (errno.ENOSPC, errno.EDQUOT)
# What a spreadsheet runs where a cell begins so, numbers excepted, or the same behind quotes, which tell it not to
_FORMULA = re.compile(r"(?![+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\Z)'*[=+\-@\t\r]", re.IGNORECASE)


def temporary_beside(path: Path) -> Path:
    """Return a new hidden name beside a file or folder, for what takes its place once it is whole."""
    return path.with_name(f".{path.name[:_NAMED]}.{secrets.token_hex(8)}.tmp")


def remove_temporaries(folder: Path, target: str = "") -> None:
    """Remove temporary files of killed processes in a folder, of all targets or of one; files in use stay."""
    for left in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(left.name)
        if found and target[:_NAMED] in ("", found[1]):
            # Locked, another user's, or gone by now
            with suppress(OSError):
                if left.is_dir():
                    shutil.rmtree(left)
                    continue
                with left.open("r+b") as file:
                    lock(file)
                    left.unlink()


def is_stream(path: Path) -> bool:
    """Return whether a path is written to and never replaced: not a regular file, or one that is already open."""
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = stat.S_IFREG
    return opened_number(path) is not None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def opened_number(path: Path) -> int | None:
    """Return the number of this process's open file that a path stands for, such as 1 for /dev/stdout."""
    for _ in range(40):
        if path == STDOUT:
            return 1
        if not os.path.islink(path) and str(path.parent) != _OPENED:
            break
        if path.name.isdecimal() and os.path.realpath(path.parent) in (_OPENED, os.path.realpath("/proc/self/fd")):
            return int(path.name)
        path = path.parent / os.readlink(path)
    return None


@contextmanager
def writing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that takes its target's place when the block ends, and that no failure leaves behind.

    Args:
        path: the target; folders above it are made.
        durable: it survives a loss of power once the block has ended, which takes milliseconds.

    Raises:
        OutputError: the target cannot be written.
    """
    if is_stream(path):
        with named(path):
            number = opened_number(path)
            descriptor = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
        with _buffered(descriptor, path) as file:
            yield file
    else:
        with _replacing(path, durable) as temporary:
            with named(path):
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with _buffered(descriptor, path, durable) as file:
                # Tells `remove_temporaries` that this process lives; some network file systems cannot.
                with suppress(OSError):
                    lock(file)
                yield file


@contextmanager
def writing_text(path: Path, *, durable: bool = False) -> Iterator[TextIO]:
    """Open a file as `writing` does, for text in UTF-8 and file names that need not be text."""
    with writing(path, durable=durable) as file:
        # Who reads a pipe gets each line at once.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", line_buffering=is_stream(path))
        yield text
        text.flush()


@contextmanager
def written_by_library(path: Path, failure: type[Exception], *, durable: bool = False) -> Iterator[Path]:
    """Yield a path for a library that opens its file itself, and raises `failure` where it cannot write it.

    The path is in a temporary folder, so that whatever else the library makes there goes with it.
    """
    if is_stream(path):
        raise OutputError(f"cannot write {path}: not a regular file; choose another place")
    with _replacing(path, durable, inside=path.name) as folder, named(path, failure):
        folder.mkdir()
        yield folder / path.name
        # Libraries make files for their owner alone; the folder is as the umask says.
        (folder / path.name).chmod(folder.stat().st_mode & 0o666)
        if durable:
            _sync(folder / path.name)


def linked(path: Path, source: Path) -> bool:
    """Make a path a hard link to a file that nothing changes in place; return whether there is one and it could be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, path)
    # Some file systems have none, or only so many.
    except OSError:
        return path.is_file() and source.is_file() and path.samefile(source)
    return True


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a binary file."""
    with writing(path, durable=durable) as file:
        file.write(content)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file."""
    with writing_text(path, durable=durable) as file:
        file.write(text)


def write_json(path: Path, content: Any, *, durable: bool = False) -> None:
    """Write indented JSON."""
    write_text(path, json_text(content), durable=durable)


def json_text(content: Any) -> str:
    """Return JSON in which what is not text in a file name is an escape, which means the same."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def write_table(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), *, durable: bool = False
) -> None:
    """Write rows as CSV, with these columns or those of the first row; None and what a row lacks are empty.

    A text that a spreadsheet would run has a quote before it, which `read_table` takes away.
    """
    with writing_text(path, durable=durable) as file:
        # The default \r\n: with \n alone, a value that contains \r would not be quoted.
        writer = csv.DictWriter(file, list(columns or (rows[0] if rows else ())))
        writer.writeheader()
        writer.writerows({name: inert(value) for name, value in row.items()} for row in rows)


def append_row(path: Path, row: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Add a row to a table that is there; of one that cannot be written whole, nothing stays."""
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerow({name: inert(value) for name, value in row.items()})
    append_text(path, text.getvalue())


def append_text(path: Path, text: str) -> None:
    """Add text to a file that is there; of what cannot be written whole, nothing stays."""
    with named(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(descriptor).st_size
    try:
        with _buffered(descriptor, path) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except BaseException:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def read_table(path: Path) -> list[dict[str, str]]:
    """Read what `write_table` has written; every value is text."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [{name: active(value) for name, value in row.items()} for row in csv.DictReader(file)]


def inert(cell: Any) -> Any:
    """Return the value of a cell so that no spreadsheet runs it."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def active(cell: Any) -> Any:
    """Return the value of a cell from what `inert` has made of it."""
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _FORMULA.match(cell[1:]) else cell


class _File(io.FileIO):
    """A file that names its target in its errors and remembers the first, of which a library may make another."""

    def __init__(self, descriptor: int, target: Path) -> None:
        self.target = target
        self.failure: BaseException | None = None
        with named(target):
            super().__init__(descriptor, "wb")

    def write(self, data: Any, /) -> int:
        try:
            with named(self.target):
                return super().write(data)
        except BaseException as error:
            self.failure = self.failure or error
            raise

    def close(self) -> None:
        with named(self.target):
            super().close()


@contextmanager
def _buffered(descriptor: int, path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Close the file in the end, and leave unwritten what a failed block has left in the buffer."""
    with _File(descriptor, path) as raw:
        try:
            file = io.BufferedWriter(raw)
            yield file
            file.flush()
            if durable:
                with named(path):
                    os.fsync(descriptor)
        except BaseException:
            if raw.failure is not None:
                raise raw.failure from raw.failure.__cause__
            raise


@contextmanager
def _replacing(path: Path, durable: bool, inside: str = "") -> Iterator[Path]:
    """Yield a temporary name, and put in the target's place what is there, or `inside` a folder there, in the end."""
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    with named(path):
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(target.stat().st_mode):
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    try:
        yield temporary
        with named(path):
            os.replace(temporary / inside, target)
            if durable:
                _sync(target.parent)
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary) if inside else temporary.unlink()


@contextmanager
def named(path: Path, failure: type[Exception] = OSError) -> Iterator[None]:
    """Name the target in the error of what writes it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, failure) as error:
        reason = getattr(error, "strerror", None) or error
        room = "free some space or " if getattr(error, "errno", 0) in FULL else ""
        raise OutputError(f"cannot write {path}: {reason}; {room}choose another place") from error


def _sync(path: Path) -> None:
    """Have the disk keep a file's bytes, or the names in a folder."""
    if os.name == "nt" and path.is_dir():
        # Windows opens no folder, and keeps names by itself.
        return
    # Windows syncs only what is open for writing, and no system opens a folder so.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # What some network file systems answer for a folder
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
