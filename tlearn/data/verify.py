"""Decode every image before the first epoch to find those that cannot be, and cache the result."""

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import PIL
from torch import Tensor

from tlearn.data.decode import Decoder
from tlearn.data.file_state import content_digest
from tlearn.data.file_table import FileTable
from tlearn.data.formats import HEIF_ENDINGS
from tlearn.data.header import heif_version
from tlearn.data.verified import Entry, Verified
from tlearn.errors import BadImageError
from tlearn.locks import lock_after

# Part of the cache key: increment it when the decoder accepts other files or the layout of the cache changes.
_FORMAT = 3

# Images per task: with a task for each, a million images would need a gigabyte of memory for tasks.
_BATCH = 32


class Outcome(NamedTuple):
    """Result for one image: an empty reason if it decodes, then the bits of `Decoded` and the digest of the file.

    Not lasting if the machine failed and a retry may help.
    """

    reason: str
    bits: int = 0
    digest: str = ""
    lasting: bool = True


def check_images(
    files: FileTable, paths: Sequence[str], decoder: Decoder, cache_folder: Path | None, threads: int
) -> tuple[dict[str, str], set[int]]:
    """Decode images of a table fully; return path -> reason of the unreadable ones, and the bit depths that occur.

    The digests of the others are put into the table. With a `cache_folder`, an image is decoded again only after a
    change of its size, its modification time, the decoder's options, Pillow or pillow-heif; a cache that cannot be
    read or written is ignored.
    """
    key = json.dumps([_FORMAT, PIL.__version__, heif_version(HEIF_ENDINGS), decoder.key()])
    bad: dict[str, str] = {}
    bits: set[int] = set()
    unknown = dict.fromkeys(paths)

    def note(path: str, reason: str, depth: int, digest: str) -> None:
        bits.add(depth)
        if reason:
            bad[path] = reason
        else:
            files.keep_digest(path, digest)

    place = cache_folder and cache_folder / _cache_name(files.root)
    verified = Verified(place, key)

    def take_known() -> None:
        for path, entry in verified:
            state = files.size_and_time(path)
            if state == entry[:2] and path in unknown:
                del unknown[path]
                note(path, *entry[2:])
            elif state not in (None, entry[:2]):
                verified.discard()

    take_known()
    if unknown:
        with _only_checker(place):
            # Another process may have checked some of them meanwhile.
            take_known()
            with closing(_decode_all(files, [*unknown], decoder, threads, verified)) as outcomes:
                for path, outcome in outcomes:
                    note(path, *outcome[:3])
    return {path: bad[path] for path in paths if path in bad}, bits


@contextmanager
def _only_checker(cache: Path | None) -> Iterator[None]:
    """Wait while another process checks the images of a cache; go on without where the lock cannot be had."""
    with ExitStack() as held:
        if cache is not None:
            with suppress(OSError):
                cache.parent.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(cache.with_suffix(".lock").open("a"))
                lock_after(file, "another process checks these images: waiting for it")
        yield


@dataclass(frozen=True)
class Unchanged:
    """Decode images that must have the content with which they were checked, whatever their size and time say.

    Args:
        decoder: decodes them.
        digest: returns that of a file, by its path; None for one that is decoded as it is.
    """

    decoder: Decoder
    digest: Callable[[str], str | None]

    def __call__(self, path: str | Path) -> Tensor:
        """Return uint8 [3, H, W]; raise BadImageError as the decoder does, and for a file that has changed."""
        expected = self.digest(os.fspath(path))
        if expected is not None and _digest_now(path) != expected:
            raise BadImageError(path, "it is not the image that the run began with: restore it, or start a new run")
        return self.decoder(path)

    def key(self) -> dict[str, Any]:
        """Return what pixels depend on beside the file, as the decoder does."""
        return self.decoder.key()


def _digest_now(path: str | Path) -> str:
    try:
        return content_digest(path)
    except OSError as error:
        raise BadImageError(path, f"cannot be read ({error.strerror})") from error


def _decode_all(
    files: FileTable, paths: Sequence[str], decoder: Decoder, threads: int, verified: Verified
) -> Generator[tuple[str, Outcome], None, None]:
    """Decode in threads, not processes: Pillow releases the GIL, and threads start at once; keep what lasts."""
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    pool = ThreadPoolExecutor(threads)
    with closing(verified):
        try:
            for batch, outcomes in zip(
                batches, pool.map(partial(_decode_batch, files.root, decoder), batches), strict=True
            ):
                for path, outcome in zip(batch, outcomes, strict=True):
                    # From before decoding: a file that has changed meanwhile is checked again by the next run.
                    state = files.size_and_time(path)
                    if outcome.lasting and state is not None:
                        verified.add(path, Entry(*state, outcome.reason, outcome.bits, outcome.digest))
                    yield path, outcome
        finally:
            pool.shutdown(cancel_futures=True)


def _decode_batch(root: Path, decoder: Decoder, paths: Sequence[str]) -> list[Outcome]:
    return [_decode_one(decoder, os.path.join(root, path)) for path in paths]


def _decode_one(decoder: Decoder, file: str) -> Outcome:
    try:
        return Outcome("", decoder.read(file).bits, _digest_now(file))
    except BadImageError as error:
        cause = error.__cause__
        # Errors of the operating system have an errno; those that Pillow raises for damaged bytes have none.
        of_machine = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
        return Outcome(error.reason, lasting=not of_machine)


def _cache_name(root: Path) -> str:
    return f"decoded-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"
