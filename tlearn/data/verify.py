"""Decode every image before the first epoch to find those that cannot be, and cache the result."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from tlearn.errors import BadImageError, OutputError
from tlearn.files import remove_temporaries, write_text

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
    """Decode images of a table fully; return the reason for each that cannot be, by path, and the bits of the others.

    The digests of the others are put into the table. With a `cache_folder`, an image is decoded again only after a
    change of its size, its modification time, the decoder's options, Pillow or pillow-heif; a cache that cannot be
    read or written is ignored.
    """
    cache = None if cache_folder is None else cache_folder / _cache_name(files.root)
    key = json.dumps([_FORMAT, PIL.__version__, heif_version(HEIF_ENDINGS), decoder.key()])
    known = {} if cache is None else _read_cache(cache, key)
    # Their states are from before decoding: a file that changes meanwhile is checked again by the next run.
    states = {path: [] if (state := files.state(path)) is None else list(state[1:]) for path in paths}
    valid = [path for path, state in states.items() if path in known and known[path][:2] == state]
    cached = {path: Outcome(*known[path][2:]) for path in valid}
    outcomes = _decode_all(files.root, [path for path in states if path not in cached], decoder, threads)
    lasting = {path: [*states[path], *end[:3]] for path, end in outcomes.items() if end.lasting and states[path]}
    if cache is not None and lasting:
        _write_cache(cache, key, known | lasting)
    found = {path: cached.get(path) or outcomes[path] for path in states}
    for path, outcome in found.items():
        if not outcome.reason:
            files.keep_digest(path, outcome.digest)
    bad = {path: outcome.reason for path, outcome in found.items() if outcome.reason}
    return bad, {outcome.bits for outcome in found.values()}


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


def _decode_all(root: Path, paths: list[str], decoder: Decoder, threads: int) -> dict[str, Outcome]:
    """Decode in threads, not processes: Pillow releases the GIL, and threads start at once."""
    files = [os.path.join(root, path) for path in paths]
    batches = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(partial(_decode_batch, decoder), batches)
        return dict(zip(paths, (outcome for batch in results for outcome in batch), strict=True))


def _decode_batch(decoder: Decoder, files: list[str]) -> list[Outcome]:
    return [_decode_one(decoder, file) for file in files]


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


def _read_cache(cache: Path, key: str) -> dict[str, list]:
    """Read [size, time, reason, bits, digest] by path; empty if the file is missing, damaged or has another key."""
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        if content["key"] != key:
            return {}
        pictures = content["pictures"].items()
        return {
            path: [size, time, str(reason), int(bits), str(mark)] for path, (size, time, reason, bits, mark) in pictures
        }
    # A damaged file can be invalid JSON, JSON of another structure, or nested beyond Python's recursion limit.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _write_cache(cache: Path, key: str, pictures: dict[str, list]) -> None:
    """Replace the file; of parallel runs, the last one wins."""
    # On a full or read-only disk the next run checks again, which is not a reason to stop this one.
    with suppress(OutputError):
        remove_temporaries(cache.parent, cache.name)
        write_text(cache, json.dumps({"key": key, "pictures": pictures}, separators=(",", ":")))
