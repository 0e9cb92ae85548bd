"""Features on disk: written once, whole or not at all, keyed by everything that they depend on.

A *space* is a folder for one feature key (body, cut, transform, precision, versions), named by its hash. It holds
segments. The key of an image is a hash of its path, size, modification time and augmentation, so a changed image has
another key.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from tlearn.console import warn
from tlearn.data.file_state import FileState
from tlearn.errors import OutputError
from tlearn.features.prune import LOCK, READERS, RECIPE
from tlearn.features.rows import FeatureRows
from tlearn.features.segments import KEY, KEY_BYTES, Segment, map_segment, write_segment
from tlearn.files import remove_temporaries, write_text
from tlearn.locks import lock, lock_after

# Free bytes to leave: on a full disk, writing a checkpoint would end the run.
_RESERVE = 2**30


def image_key(state: FileState, version: str = "") -> bytes:
    """Hash everything that the features of one image depend on beside the space.

    Args:
        state: of its file.
        version: identifies its augmentation; empty for none.
    """
    text = b"%s\0%d\0%d\0%s" % (os.fsencode(state.path), state.size, state.modified, version.encode())
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


class Space:
    """The features of one feature key; constructing it does not touch the disk."""

    def __init__(self, root: Path, recipe: Mapping[str, Any]) -> None:
        text = json.dumps(recipe, indent=2, sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._text = text
        self._opened: dict[str, Segment] = {}
        self._damaged: set[str] = set()

    def find(self, keys: np.ndarray) -> tuple[FeatureRows | None, np.ndarray]:
        """Return the rows of keys S16 [n], or the places of the missing ones; rows in use are not pruned."""
        readers = self._read_lock()
        while True:
            segments = self._segments()
            number, row = _places([segment.keys for segment in segments], keys)
            missing = np.flatnonzero(row < 0)
            if len(missing) or not len(keys):
                return None, missing
            if self._all_whole(segments, number, row):
                break
        # Marks the recent use that pruning goes by
        with suppress(OSError):
            os.utime(self.folder / RECIPE)
        self._tidy()
        parts = [segment.features for segment in segments]
        files = [segment.file for segment in segments if segment.file is not None]
        return FeatureRows(parts, torch.from_numpy(number), torch.from_numpy(row), readers, files), missing

    def add(self, keys: np.ndarray, features: Tensor) -> None:
        """Write one segment, whole or not at all.

        Raises:
            OutputError: the disk is full or the folder cannot be written to.
        """
        try:
            self._prepare()
            if shutil.disk_usage(self.folder).free < features.nbytes + _RESERVE:
                raise OSError(errno.ENOSPC, "less than 1 GiB would be left on the disk")
        except OSError as error:
            raise OutputError(f"cannot keep features in {self.folder}: {error}") from error
        write_segment(self.folder / f"{uuid.uuid4().hex}.safetensors", keys, features)

    def hold(self, keys: np.ndarray, features: Tensor) -> None:
        """Keep features in memory, for this process alone."""
        self._opened[uuid.uuid4().hex] = Segment(keys, features)

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Hold the space for writing, after waiting while another process does.

        Raises:
            OutputError: the folder cannot be written to.
        """
        with self._lock():
            # Of a killed process: nobody else writes now.
            remove_temporaries(self.folder)
            yield

    def drop_others(self, keys: np.ndarray) -> None:
        """Remove the segments in which none of the keys is, as far as they can be."""
        for name, segment in self._opened.items():
            if not np.isin(segment.keys, keys).any():
                with suppress(OSError):
                    (self.folder / name).unlink()

    def size(self) -> int:
        """Sum the bytes of all segments on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def _tidy(self) -> None:
        """Remove what a killed writer has left, unless another one writes now."""
        if any(self.folder.glob(".*.tmp")):
            with suppress(OSError), (self.folder / LOCK).open("a") as writers:
                lock(writers)
                remove_temporaries(self.folder)

    def _read_lock(self) -> IO[str] | None:
        """Keep the space from being pruned while the file is open; None where there is nothing or it is read-only."""
        try:
            readers = (self.folder / READERS).open("a")
            lock(readers, shared=True)
        except OSError:
            return None
        return readers

    def _lock(self) -> IO[str]:
        while True:
            try:
                self._prepare()
                writers = (self.folder / LOCK).open("a")
                lock_after(writers, "another process computes these features: waiting for it")
            except OSError as error:
                raise OutputError(f"cannot keep features in {self.folder}: {error}") from error
            # Pruning may have removed the folder meanwhile, and with it the file that others would lock.
            if os.fstat(writers.fileno()).st_nlink:
                return writers
            writers.close()

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = self.folder / RECIPE
        if not recipe.exists():
            write_text(recipe, self._text + "\n")

    def _all_whole(self, segments: Sequence[Segment], number: np.ndarray, row: np.ndarray) -> bool:
        """Check the rows [n] of segments by number [n]; a damaged segment is removed."""
        whole = True
        for wanted in np.unique(number).tolist():
            segment = segments[wanted]
            try:
                segment.check(row[number == wanted])
            except (OSError, ValueError, LookupError) as error:
                assert segment.path is not None
                self._remove(segment.path, error)
                whole = False
        return whole

    def _remove(self, path: Path, error: Exception) -> None:
        warn(f"{path} is damaged and will be computed again ({error})")
        self._opened.pop(path.name, None)
        # It stays where the folder cannot be written to.
        self._damaged.add(path.name)
        with suppress(OSError):
            path.unlink()

    def _segments(self) -> list[Segment]:
        """Map all segments, those first that were there first; a damaged one is removed and computed again."""
        for path in self.folder.glob("*.safetensors"):
            if path.name not in self._opened.keys() | self._damaged:
                try:
                    self._opened[path.name] = map_segment(path)
                except (SafetensorError, ValueError) as error:
                    self._remove(path, error)
                # Pruned meanwhile, another user's, or a machine in trouble: not the segment's fault
                except (OSError, RuntimeError):
                    continue
        return list(self._opened.values())


def _places(known: Sequence[np.ndarray], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look keys [n] up in arrays; return the number of the last one that has each, and its place there, or -1."""
    every = np.concatenate([np.empty(0, KEY), *known])
    order = every.argsort(kind="stable")
    found = every.searchsorted(keys, side="right", sorter=order) - 1
    # Before the first one, and where nothing is known
    place = np.append(order, -1)[found]
    ends = np.cumsum([0, *map(len, known)])
    number = ends.searchsorted(place, side="right") - 1
    is_there = (place >= 0) & (np.append(every, b"")[place] == keys)
    return number, np.where(is_there, place - ends[number], -1)
