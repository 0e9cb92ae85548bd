"""Unpack zip and tar archives from anywhere, so that no member leaves its folder and a failure leaves nothing."""

import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO

from tlearn.errors import DataError, DownloadError, OutputError
from tlearn.files import temporary_beside

CHUNK = 2**20
# Three times the 5 GB of Food-101, and images hardly compress: an archive that grows beyond this is a bomb.
MAX_BYTES = 16 * 2**30
MAX_MEMBERS = 1_000_000
# What zipfile and tarfile let through, beside their own errors, when bytes are damaged.
_ODD_ERRORS = (EOFError, LookupError, OverflowError, RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError)


def extract(archive: Path, folder: Path, *, top: str | None = None, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack a zip or tar archive into `folder`, which appears only when it is whole.

    With `top`, the archive's only top folder, which must have this name, becomes `folder`. Links become copies of what
    they point to. Raises DataError for an archive with a member that leaves the folder or is no file or folder, or with
    more than `max_bytes`; DownloadError for what is damaged or no archive; OutputError where it cannot be written.
    """
    if os.path.exists(folder):
        raise OutputError(f"cannot unpack {archive} to {folder.absolute()}: this exists; remove it or choose another")
    part = temporary_beside(folder)
    try:
        with _writing_in(folder.parent):
            part.mkdir(parents=True)
        with _reading(archive):
            _unpack(archive, _Unpacking(archive, part, max_bytes))
        content = sorted(entry.name for entry in part.iterdir())
        if not content or (top and not (content == [top] and (part / top).is_dir())):
            expected = f'one folder "{top}"' if top else "files"
            raise DataError(f"{archive} is refused: it should hold {expected}, and holds {content[:5]}")
        with _writing_in(folder.parent):
            (part / top if top else part).rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


class _Unpacking:
    """Where an archive's members go, and how much of the limits is left."""

    def __init__(self, archive: Path, folder: Path, max_bytes: int) -> None:
        self.archive, self.folder, self.max_bytes = archive, folder, max_bytes
        self.bytes, self.members = 0, 0

    def refusal(self, name: str, reason: str) -> DataError:
        return DataError(f"{self.archive} is refused: its member {name!r} {reason}; get the archive from its publisher")

    def target(self, name: str) -> Path | None:
        """Count one member and return its path, or None for what macOS adds to archives; refuse a name that leaves."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise self.refusal(name, f"is one more than {MAX_MEMBERS}")
        # Windows rules are the wider ones: they split at both slashes and know drives.
        path = PureWindowsPath(name)
        if path.anchor or ".." in path.parts or "\0" in name:
            raise self.refusal(name, "does not stay inside the folder")
        return None if "__MACOSX" in path.parts else self.folder.joinpath(*path.parts)

    def write(self, name: str, target: Path, source: IO[bytes] | None) -> None:
        """Write a file's content, or make a folder where there is none."""
        with _writing_in(self.folder.parent):
            try:
                (target.parent if source else target).mkdir(parents=True, exist_ok=True)
                if source:
                    with source, target.open("wb") as file:
                        self._copy(name, source, file)
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise self.refusal(name, "is a file in one place and a folder in another") from error

    def _copy(self, name: str, source: IO[bytes], file: IO[bytes]) -> None:
        while True:
            with _reading(self.archive):
                block = source.read(CHUNK)
            if not block:
                return
            # What arrives is counted, not what the archive says of itself.
            self.bytes += len(block)
            if self.bytes > self.max_bytes:
                raise self.refusal(name, f"goes beyond {self.max_bytes} bytes unpacked")
            file.write(block)


def _unpack(archive: Path, unpacking: _Unpacking) -> None:
    with archive.open("rb") as file:
        start = file.read(80)
    # zipfile.is_zipfile would take a tar that ends with a zip for a zip.
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _unzip(archive, unpacking)
    if not tarfile.is_tarfile(archive):
        raise DownloadError(f"{archive} is no zip or tar archive, it starts with {start!r}: delete it")
    with tarfile.open(archive) as opened:
        _untar(opened, unpacking)


def _unzip(archive: Path, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(archive) as opened:
        targets = [(info, unpacking.target(info.filename)) for info in opened.infolist()]
        for info, target in targets:
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacking.refusal(info.filename, "is a link or a device")
            if target:
                # Some Windows programs end the name of a folder with a backslash, which zipfile does not know.
                folder = info.filename.endswith(("/", "\\"))
                unpacking.write(info.filename, target, None if folder else opened.open(info))


def _untar(opened: tarfile.TarFile, unpacking: _Unpacking) -> None:
    # Only plain files and folders are ever made, so tarfile's data filter (missing before Python 3.11.4) would have
    # nothing left to forbid: a link is read as the member it names, and none can be written through.
    for member in opened:
        target = unpacking.target(member.name)
        # tarfile would look an absolute link up as a relative one.
        if PureWindowsPath(member.linkname).anchor:
            raise unpacking.refusal(member.name, f"is a link to {member.linkname!r}, outside the folder")
        try:
            source = opened.extractfile(member)
        except (KeyError, RecursionError):
            source = None
        if source is None and not member.isdir():
            raise unpacking.refusal(member.name, "is a device, or a link to no file of the archive")
        if target:
            unpacking.write(member.name, target, source)
    # tarfile takes a cut or damaged header for the end, and leaves the checksum that ends a gzip unread.
    stream = opened.fileobj
    assert stream is not None
    stream.seek(opened.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")
    while stream.read(CHUNK):
        pass


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, zipfile.BadZipFile, tarfile.TarError, *_ODD_ERRORS) as error:
        reason = str(error) or type(error).__name__
        raise DownloadError(f"{archive} cannot be unpacked ({reason}): delete it") from error


@contextmanager
def _writing_in(folder: Path) -> Iterator[None]:
    """Turn what the machine refuses while something is written in a folder into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write in {folder.absolute()} ({reason}): make room or choose another") from error
