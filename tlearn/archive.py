"""Unpack untrusted zip and tar archives: no member escapes the folder, and a failure leaves no files."""

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
# Unpacked bytes for each byte of an archive, beyond the first ones: images hardly compress, tables tenfold.
MAX_RATIO, ANY_RATIO = 100, 64 * 2**20
# Free bytes to leave: on a full disk, whatever else runs would end.
_RESERVE = 2**30
# Raised by zipfile and tarfile on damaged bytes, beside their own errors.
_ODD_ERRORS = (EOFError, LookupError, OverflowError, RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError)


def extract(archive: Path, folder: Path, *, top: str | None = None, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack a zip or tar archive into `folder`, which appears only when it is whole.

    With `top`, the archive's only top folder, which must have this name, becomes `folder`. Links become copies of what
    they point to. Raises DataError for an archive with a member that escapes the folder or is neither file nor folder,
    or with more than `max_bytes` or MAX_RATIO times its size; DownloadError for a damaged file or one that is not an
    archive; OutputError where it cannot be written or the disk would be filled.
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
    """The target of an archive's members, and the remaining limits."""

    def __init__(self, archive: Path, folder: Path, max_bytes: int) -> None:
        self.archive, self.folder = archive, folder
        self.bytes, self.members = 0, 0
        self.largest = min(max_bytes, max(ANY_RATIO, MAX_RATIO * archive.stat().st_size))
        self.room = shutil.disk_usage(folder).free - _RESERVE

    def refusal(self, name: str, reason: str) -> DataError:
        return DataError(f"{self.archive} is refused: its member {name!r} {reason}; get the archive from its publisher")

    def target(self, name: str) -> Path | None:
        """Count one member and return its path, or None for macOS metadata; refuse a name that escapes the folder."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise self.refusal(name, f"is one more than {MAX_MEMBERS}")
        # Windows rules are the stricter ones: both slashes separate, and drives exist.
        path = PureWindowsPath(name)
        if path.anchor or ".." in path.parts or "\0" in name:
            raise self.refusal(name, "does not stay inside the folder")
        return None if "__MACOSX" in path.parts else self.folder.joinpath(*path.parts)

    def write(self, name: str, target: Path, source: IO[bytes] | None) -> None:
        """Write the content of a file, or create a folder."""
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
            # Unpacked bytes are counted, not the sizes that the archive states.
            self.bytes += len(block)
            if self.bytes > self.largest:
                raise self.refusal(name, f"goes beyond {self.largest} bytes unpacked")
            if self.bytes > self.room:
                raise OutputError(f"cannot unpack {self.archive}: less than 1 GiB would be left on the disk; free some")
            file.write(block)


def _unpack(archive: Path, unpacking: _Unpacking) -> None:
    with archive.open("rb") as file:
        start = file.read(80)
    # zipfile.is_zipfile would take a tar that ends with a zip for a zip.
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _unzip(archive, unpacking)
    if not tarfile.is_tarfile(archive):
        raise DownloadError(f"{archive} is not a zip or tar archive, it starts with {start!r}: delete it")
    with tarfile.open(archive) as opened:
        _untar(opened, unpacking)


def _unzip(archive: Path, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(archive) as opened:
        targets = [(info, unpacking.target(info.filename)) for info in opened.infolist()]
        for info, target in targets:
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unpacking.refusal(info.filename, "is a link or a device")
            # zipfile compares no checksum where it reads nothing.
            if info.CRC and not info.file_size:
                raise zipfile.BadZipFile(f"the size of {info.filename} is damaged")
            if target:
                # Some Windows programs end the name of a folder with a backslash, which zipfile does not know.
                folder = info.filename.endswith(("/", "\\"))
                before = unpacking.bytes
                unpacking.write(info.filename, target, None if folder else opened.open(info))
                # Of a member that claims to hold nothing compressed, it reads nothing.
                if unpacking.bytes - before != info.file_size:
                    raise zipfile.BadZipFile(f"{info.filename} is not of the size that it claims")


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
    # tarfile treats a truncated or damaged header as the end, and does not read the final gzip checksum.
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
    """Turn OSErrors of writing in a folder into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write in {folder.absolute()} ({reason}): make room or choose another") from error
