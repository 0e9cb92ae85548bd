"""Find every image that cannot be decoded, before the first epoch, and remember what was found."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import PIL

from tlearn.data.decode import Decoder
from tlearn.data.file_state import file_state
from tlearn.errors import BadImageError, OutputError
from tlearn.files import write_text

# Part of what a cache is valid for: raise it when the decoder accepts other files or the cache is laid out anew.
_FORMAT = 1

# Images that a thread takes at once: with a task for each, a million images would take a gigabyte of tasks.
_BATCH = 32


class _Outcome(NamedTuple):
    """What became of one image; a good one has no reason, and one that the machine failed may be good later."""

    reason: str
    lasting: bool


def find_bad_images(
    root: Path, paths: Sequence[str], decoder: Decoder, cache_folder: Path | None, threads: int
) -> dict[str, str]:
    """Decode every image fully and return the reasons of the bad ones, by path, in the order of `paths`.

    `paths` are relative to `root`. With a `cache_folder`, an image is decoded again only after a change of its size,
    its modification time, the decoder's options or Pillow; a cache that cannot be read or written is done without.
    """
    cache = None if cache_folder is None else cache_folder / _cache_name(root)
    key = json.dumps([_FORMAT, PIL.__version__, dataclasses.asdict(decoder)])
    known = {} if cache is None else _read_cache(cache, key)
    # Taken before decoding: a file that changes meanwhile is then checked again by the next run.
    found = {path: file_state(os.path.join(root, path)) for path in paths}
    states = {path: [] if state is None else [state.size, state.modified] for path, state in found.items()}
    reasons = {path: known[path][2] for path, state in states.items() if path in known and known[path][:2] == state}
    outcomes = _decode_all(root, [path for path in states if path not in reasons], decoder, threads)
    lasting = {path: [*states[path], end.reason] for path, end in outcomes.items() if end.lasting and states[path]}
    if cache is not None and lasting:
        _write_cache(cache, key, known | lasting)
    reasons |= {path: outcome.reason for path, outcome in outcomes.items()}
    return {path: reasons[path] for path in states if reasons[path]}


def _decode_all(root: Path, paths: list[str], decoder: Decoder, threads: int) -> dict[str, _Outcome]:
    """Decode in threads, not processes: Pillow works without Python's lock, and threads start at once."""
    files = [os.path.join(root, path) for path in paths]
    batches = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(partial(_decode_batch, decoder), batches)
        return dict(zip(paths, (outcome for batch in results for outcome in batch), strict=True))


def _decode_batch(decoder: Decoder, files: list[str]) -> list[_Outcome]:
    return [_decode_one(decoder, file) for file in files]


def _decode_one(decoder: Decoder, file: str) -> _Outcome:
    try:
        decoder(file)
    except BadImageError as error:
        cause = error.__cause__
        # Only the operating system's errors have a number, those that Pillow raises for damaged bytes have none.
        of_machine = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
        return _Outcome(error.reason, lasting=not of_machine)
    return _Outcome("", lasting=True)


def _cache_name(root: Path) -> str:
    return f"decoded-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"


def _read_cache(cache: Path, key: str) -> dict[str, list]:
    """Read [size, time, reason] by path; nothing if the file is missing, damaged or made under another key."""
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        if content["key"] != key:
            return {}
        return {path: [size, time, str(reason)] for path, (size, time, reason) in content["pictures"].items()}
    # What a damaged file gives: no JSON, or JSON of another shape, or nested beyond Python's stack.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _write_cache(cache: Path, key: str, pictures: dict[str, list]) -> None:
    """Replace the file, so that of runs side by side the last one wins."""
    # A full or read-only disk costs the next run its time, which is no reason to end this one.
    with suppress(OutputError):
        write_text(cache, json.dumps({"key": key, "pictures": pictures}, separators=(",", ":")))
