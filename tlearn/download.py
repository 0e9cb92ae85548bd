"""Download files and archives over https, with nothing left behind by a failure; the only user of the network."""

import hashlib
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from tlearn.archive import CHUNK, extract
from tlearn.console import say, warn
from tlearn.errors import DataError, DownloadError, TlearnError
from tlearn.files import writing
from tlearn.ranges import require

TRIES = 3
BACKOFF_SECONDS = 1.0
TIMEOUT_SECONDS = 30
# In this time a server must send so much; a slower one would keep a run waiting for days.
PATIENCE_SECONDS, PATIENCE_BYTES = 60.0, 64 * 2**10
# How a page begins that a server sends in place of a file
_PAGES = (b"<!doctype html", b"<html")


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
    """Return whether the user has forbidden the network."""
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


def _obtain(url: str, path: Path, sha256: str | None, what: str, by_hand: str) -> Path:
    if sha256 is not None:
        require("data.sha256", sha256)
    try:
        if os.path.exists(path):
            _check_present(path, sha256)
        else:
            _download(url, path, sha256, what)
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


def _download(url: str, path: Path, sha256: str | None, what: str) -> None:
    _check_address(url)
    if is_offline():
        raise _Failed("TLEARN_OFFLINE is set, so nothing is downloaded")
    say(f"downloading {what} from {url} to {path}")
    with writing(path, durable=True) as file:
        got, size = _save_patiently(url, file)
        if sha256 is not None and not got.startswith(sha256.lower()):
            raise _Failed(f"the sha256 is {got} ({size} bytes received), expected {sha256}")


def _save_patiently(url: str, file: BinaryIO) -> tuple[str, int]:
    for attempt in range(1, TRIES):
        try:
            return _save(url, file)
        except _Failed as failure:
            if not failure.again:
                raise
            warn(f"trying {url} again: {failure}")
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
    return _save(url, file)


def _save(url: str, file: BinaryIO) -> tuple[str, int]:
    """Write what a URL gives to a file, from its start; return its sha256 and its size in bytes."""
    file.seek(0)
    file.truncate()
    digest = hashlib.sha256()
    start = b""
    for chunk in _chunks(url):
        start += chunk[: 80 - len(start)]
        digest.update(chunk)
        file.write(chunk)
    if start.lstrip().lower().startswith(_PAGES):
        raise _Failed(f"the server answered with a web page, {start!r}")
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
            # http.client reports a cut body as a plain end, hence the count. read1 returns what has arrived: in waiting
            # for whole chunks, a server that sends byte by byte would never be timed.
            since, before = time.monotonic(), 0
            while chunk := response.read1(CHUNK):
                received += len(chunk)
                yield chunk
                if time.monotonic() - since > PATIENCE_SECONDS:
                    if received - before < PATIENCE_BYTES:
                        raise _Failed(f"the server sent {received - before} bytes in {PATIENCE_SECONDS:.0f} s")
                    since, before = time.monotonic(), received
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


def _beside(folder: Path, url: str) -> Path:
    name = PurePosixPath(unquote(url.partition("#")[0].partition("?")[0])).name
    unusable = name in ("", "..", folder.name) or "\0" in name
    return folder.with_name(f"{folder.name}.archive" if unusable else name)


def _known(sha256: str | None) -> str:
    return f" (sha256 {sha256})" if sha256 else ""
