"""Features on disk: written once, whole or not at all, keyed by everything that they depend on.

A *space* is a folder for one feature key (body, cut, transform, precision, versions), named by its hash. It holds
segments: immutable safetensors files with the features and keys of some images. The key of an image is a hash of its
path, size, modification time and augmentation, so a changed image has another key.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tlearn.console import say, warn
from tlearn.data.file_state import file_state
from tlearn.errors import OutputError
from tlearn.features.prune import LOCK, READERS, RECIPE
from tlearn.files import lock, remove_temporaries, write_text, written_by_library

_KEYS, _FEATURES = "keys", "features"
_KEY_BYTES = 16
# Free bytes to leave: on a full disk, writing a checkpoint would end the run.
_RESERVE = 2**30


def image_key(path: str | Path, version: str = "") -> bytes:
    """Hash everything that the features of one image depend on beside the space.

    Args:
        path: the file; FileNotFoundError if there is none.
        version: identifies its augmentation; empty for none.
    """
    state = file_state(path)
    if state is None:
        raise FileNotFoundError(path)
    text = b"%s\0%d\0%d\0%s" % (os.fsencode(state.path), state.size, state.modified, version.encode())
    return hashlib.blake2b(text, digest_size=_KEY_BYTES).digest()


class FeatureRows:
    """Rows of several mapped tensors as if they were one tensor [N, ...].

    Args:
        parts: tensors [n, ...] of equal dtype and shape behind the first dimension.
        part: the tensor of each row [N].
        row: its place in that tensor [N].
        lock: kept open as long as the rows are in use.
    """

    def __init__(self, parts: Sequence[Tensor], part: Tensor, row: Tensor, lock: IO[str] | None = None) -> None:
        self._parts, self._part, self._row, self._lock = list(parts), part, row, lock

    def __len__(self) -> int:
        return len(self._row)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as of a tensor."""
        return (len(self), *self._parts[0].shape[1:])

    @property
    def row_bytes(self) -> int:
        """The size of one row in bytes."""
        return self._parts[0][:1].nbytes

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Copy rows [n] into memory as float32 [n, ...]."""
        part, row = self._part[indices], self._row[indices]
        if len(self._parts) == 1:
            return self._parts[0][row].float()
        chosen = torch.empty((len(row), *self.shape[1:]), dtype=torch.float32)
        for number in part.unique().tolist():
            here = part == number
            chosen[here] = self._parts[number][row[here]].float()
        return chosen

    def chosen(self, indices: Tensor) -> "FeatureRows":
        """Select rows without copying features."""
        return FeatureRows(self._parts, self._part[indices], self._row[indices], self._lock)


class Space:
    """The features of one feature key; constructing it does not touch the disk."""

    def __init__(self, root: Path, recipe: Mapping[str, Any]) -> None:
        text = json.dumps(recipe, indent=2, sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._text = text
        self._opened: dict[str, tuple[np.ndarray, Tensor]] = {}

    def find(self, keys: Sequence[bytes]) -> tuple[FeatureRows | None, list[int]]:
        """Return the rows of the keys, or the indices of the missing ones; rows in use are not pruned."""
        readers = self._read_lock()
        parts: list[Tensor] = []
        places: dict[bytes, tuple[int, int]] = {}
        for number, (segment_keys, features) in enumerate(self._segments()):
            parts.append(features)
            places |= {key: (number, row) for row, key in enumerate(segment_keys.tolist())}
        missing = [place for place, key in enumerate(keys) if key not in places]
        if missing or not keys:
            return None, missing
        found = torch.tensor([places[key] for key in keys])
        # Marks the recent use that pruning goes by
        with suppress(OSError):
            os.utime(self.folder / RECIPE)
        return FeatureRows(parts, found[:, 0].contiguous(), found[:, 1].contiguous(), readers), []

    def add(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Write one segment, whole or not at all.

        Raises:
            OutputError: the disk is full or the folder cannot be written to.
        """
        packed = torch.from_numpy(_packed(keys).view(np.uint8).reshape(len(keys), _KEY_BYTES))
        try:
            self._prepare()
            if shutil.disk_usage(self.folder).free < features.nbytes + _RESERVE:
                raise OSError(errno.ENOSPC, "less than 1 GiB would be left on the disk")
        except OSError as error:
            raise OutputError(f"cannot keep features in {self.folder}: {error}") from error
        # Durable: after a loss of power, a damaged file could look like valid features.
        segment = self.folder / f"{uuid.uuid4().hex}.safetensors"
        with written_by_library(segment, SafetensorError, durable=True) as file:
            save_file({_KEYS: packed, _FEATURES: features.contiguous()}, file)

    def hold(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Keep features in memory, for this process alone."""
        self._opened[uuid.uuid4().hex] = (_packed(keys), features)

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

    def drop_others(self, keys: Sequence[bytes]) -> None:
        """Remove the segments in which none of the keys is, as far as they can be."""
        wanted = set(keys)
        for name, (segment_keys, _) in self._opened.items():
            if not wanted.intersection(segment_keys.tolist()):
                with suppress(OSError):
                    (self.folder / name).unlink()

    def size(self) -> int:
        """Sum the bytes of all segments on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

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
                _wait_for(writers)
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

    def _segments(self) -> list[tuple[np.ndarray, Tensor]]:
        """Map all segments, those first that were there first; a damaged one is removed and computed again."""
        for path in self.folder.glob("*.safetensors"):
            if path.name not in self._opened:
                try:
                    self._opened[path.name] = _map_segment(path)
                except (SafetensorError, ValueError) as error:
                    warn(f"{path} is damaged and will be computed again ({error})")
                    with suppress(OSError):
                        path.unlink()
                # Pruned meanwhile, another user's, or a machine in trouble: not the segment's fault
                except (OSError, RuntimeError):
                    continue
        return list(self._opened.values())


def _wait_for(writers: IO[str]) -> None:
    try:
        lock(writers)
    except BlockingIOError:
        say("another process computes these features: waiting for it")
        lock(writers, wait=True)


def _packed(keys: Sequence[bytes]) -> np.ndarray:
    # Not numpy's S: it would drop zeros at the end of a key. A copy, since torch wants memory that it may write to.
    return np.frombuffer(b"".join(keys), dtype=f"V{_KEY_BYTES}").copy()


def _map_segment(path: Path) -> tuple[np.ndarray, Tensor]:
    """Map one segment: its keys as an array of bytes, its features without reading them."""
    with safe_open(path, framework="pt") as file:
        keys, features = file.get_tensor(_KEYS), file.get_tensor(_FEATURES)
    if len(keys) != len(features):
        raise ValueError(f"{len(keys)} keys for {len(features)} features")
    return keys.numpy().view(f"V{_KEY_BYTES}").reshape(-1), features
