"""Fetch files over https and unpack archives, with nothing left behind by a failure; the only user of the network."""

import hashlib
import lzma
import os
import secrets
import shutil
import stat
import string
import struct
import tarfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from tlearn.errors import ConfigError, DataError, DownloadError, OutputError, TlearnError

TRIES = 3
BACKOFF_SECONDS = 1.0
TIMEOUT_SECONDS = 30
CHUNK = 2**20
# Three times the 5 GB of Food-101, and pictures hardly compress: an archive that grows beyond this is a bomb.
MAX_BYTES = 16 * 2**30
MAX_MEMBERS = 1_000_000
# What zipfile and tarfile let through, beside their own errors, when bytes are damaged.
ODD_ERRORS = (EOFError, LookupError, OverflowError, RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError)


class _Failed(Exception):  # noqa: N818 - never leaves this module
    """Why a download failed, in plain words, and whether another try can help."""

    def __init__(self, reason: object, again: bool = False) -> None:
        super().__init__(" ".join(str(reason).split()) or type(reason).__name__)
        self.again = again


def fetch(url: str, path: Path, *, sha256: str | None = None, what: str = "file") -> Path:
    """Return `path`, after downloading it if it is not there.

    `sha256` is the digest or its first 8 or more hex digits; a file that is there already must have it, too.
    Raises DownloadError, OutputError where the folder cannot be written, ConfigError for a malformed `sha256`.
    """
    return _obtain(url, path, sha256, what, f"put the file by hand at {path.absolute()}{_known(sha256)}")


def is_offline() -> bool:
    """Tell whether the user has forbidden the network."""
    return os.environ.get("TLEARN_OFFLINE", "0") not in ("", "0")


def fetch_archive(url: str, folder: Path, *, sha256: str | None = None, top: str | None = None, what: str) -> Path:
    """Return `folder`, after filling it with an archive's content if it is not there.

    With `top`, the archive's only top folder, which must have this name, becomes `folder`. An archive that lies beside
    `folder` under its own name is used and kept. Raises DownloadError, DataError for a refused archive, OutputError.
    """
    # os.path, here and below: Path.exists and is_dir raise where a folder may not be entered.
    if os.path.isdir(folder):
        return folder
    archive = _beside(folder, url)
    downloaded = not os.path.exists(archive)
    content = f'its folder "{top}"' if top else "its content"
    by_hand = f"put the file by hand at {archive.absolute()}{_known(sha256)}, or {content} at {folder.absolute()}"
    try:
        _obtain(url, archive, sha256, what, by_hand)
        try:
            return extract(archive, folder, top=top)
        except (DataError, DownloadError) as error:
            raise type(error)(f"{what} from {url}: {error}; or {by_hand}") from error
    except TlearnError:
        # Another process can have been faster, and have removed the archive before this one read it.
        if os.path.isdir(folder):
            return folder
        raise
    finally:
        if downloaded:
            with suppress(OSError):
                archive.unlink()


def extract(archive: Path, folder: Path, *, top: str | None = None, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack a zip or tar archive into `folder`, which appears only when it is whole.

    With `top`, the archive's only top folder, which must have this name, becomes `folder`. Links become copies of what
    they point to. Raises DataError for an archive with a member that leaves the folder or is no file or folder, or with
    more than `max_bytes`; DownloadError for what is damaged or no archive; OutputError where it cannot be written.
    """
    if os.path.exists(folder):
        raise OutputError(f"cannot unpack {archive} to {folder.absolute()}: this exists; remove it or choose another")
    part = _part(folder)
    try:
        with _writing(folder.parent):
            part.mkdir(parents=True)
        with _reading(archive):
            _unpack(archive, _Unpacking(archive, part, max_bytes))
        content = sorted(entry.name for entry in part.iterdir())
        if not content or (top and not (content == [top] and (part / top).is_dir())):
            expected = f'one folder "{top}"' if top else "files"
            raise DataError(f"{archive} is refused: it should hold {expected}, and holds {content[:5]}")
        with _writing(folder.parent):
            (part / top if top else part).rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _obtain(url: str, path: Path, sha256: str | None, what: str, by_hand: str) -> Path:
    if sha256 is not None and not (8 <= len(sha256) <= 64 and set(sha256) <= set(string.hexdigits)):
        raise ConfigError(f"the sha256 of {what} must be 8 to 64 hex digits, not {sha256!r}")
    try:
        if os.path.exists(path):
            _check_present(path, sha256)
        else:
            print(f"downloading {what} from {url} to {path}", flush=True)
            _download(url, path, sha256)
    except _Failed as failure:
        raise DownloadError(f"cannot get {what} from {url}: {failure}; try again later, or {by_hand}") from failure
    return path


def _check_present(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    try:
        with path.open("rb") as file:
            got, size = hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    except OSError as error:
        raise _Failed(f"{path.absolute()} is there and cannot be read ({error.strerror}): delete it") from error
    if not got.startswith(sha256.lower()):
        reason = f"has sha256 {got} ({size} bytes), expected {sha256}: delete it"
        raise _Failed(f"{path.absolute()} is there and {reason} to download it again")


def _download(url: str, path: Path, sha256: str | None) -> None:
    _check_address(url)
    if is_offline():
        raise _Failed("TLEARN_OFFLINE is set, so nothing is downloaded")
    part = _part(path)
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        got, size = _save_patiently(url, part)
        if sha256 is not None and not got.startswith(sha256.lower()):
            raise _Failed(f"the sha256 is {got} ({size} bytes received), expected {sha256}")
        with _writing(path.parent):
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def _save_patiently(url: str, part: Path) -> tuple[str, int]:
    for attempt in range(1, TRIES):
        try:
            return _save(url, part)
        except _Failed as failure:
            if not failure.again:
                raise
            print(f"trying {url} again: {failure}", flush=True)
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
    return _save(url, part)


def _save(url: str, part: Path) -> tuple[str, int]:
    """Write what a URL gives to a file; return its sha256 and its size in bytes."""
    digest = hashlib.sha256()
    with _writing(part.parent), part.open("wb") as file:
        for chunk in _chunks(url):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        return digest.hexdigest(), file.tell()


def _chunks(url: str) -> Iterator[bytes]:
    # A proxy serves https alone: the loopback addresses are on this machine, not on the proxy's.
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme == "https"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _SafeRedirects())
    # Some servers refuse urllib's own name.
    opener.addheaders = [("User-Agent", "tlearn")]
    received = 0
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
            expected = response.length
            # http.client reports a cut body as a plain end, hence the count.
            while chunk := response.read(CHUNK):
                received += len(chunk)
                yield chunk
    except HTTPError as error:
        error.close()
        again = error.code in (408, 429) or error.code >= 500
        raise _Failed(f"the server answered {error.code} {error.reason}", again) from error
    except (OSError, HTTPException) as error:
        raise _Failed(error.reason if isinstance(error, URLError) else error, again=True) from error
    except ValueError as error:
        raise _Failed(error) from error
    if not received or expected not in (None, received):
        raise _Failed(f"the connection ended after {received} of {expected or 'unknown'} bytes", again=True)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to where a first request may go, and never from https down to http."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        url = args[-1]
        _check_address(url)
        if req.type == "https" and urlsplit(url).scheme != "https":
            raise _Failed(f"the server leads from https to {url}")
        return super().redirect_request(req, *args)


def _check_address(url: str) -> None:
    try:
        address = urlsplit(url)
        host = address.hostname
    except ValueError as error:
        raise _Failed(error) from error
    if address.scheme != "https" and (address.scheme, host) not in (("http", "127.0.0.1"), ("http", "localhost")):
        raise _Failed(f"only https is used, and {url} is not https")


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
        """Write a file's content, or make a folder where there is no content."""
        with _writing(self.folder.parent):
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
    except (OSError, zipfile.BadZipFile, tarfile.TarError, *ODD_ERRORS) as error:
        reason = str(error) or type(error).__name__
        raise DownloadError(f"{archive} cannot be unpacked ({reason}): delete it") from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write in {folder.absolute()} ({reason}): make room or choose another") from error


def _part(path: Path) -> Path:
    # In the same folder, as only a rename within a file system is atomic; unique, as other processes may do the same.
    return path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")


def _beside(folder: Path, url: str) -> Path:
    name = PurePosixPath(unquote(url.partition("#")[0].partition("?")[0])).name
    unusable = name in ("", "..", folder.name) or "\0" in name
    return folder.with_name(f"{folder.name}.archive" if unusable else name)


def _known(sha256: str | None) -> str:
    return f" (sha256 {sha256})" if sha256 else ""
