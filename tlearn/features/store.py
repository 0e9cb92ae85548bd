"""Features on disk: written once, whole or not at all, keyed by everything that they depend on.

A *space* is a folder for one feature key (body, cut, transform, precision, versions), named by its hash. It holds
segments: immutable safetensors files with the features and keys of some images, and digests of blocks of features, each
checked before it is used, and of all else. The key of an image is a hash of its path, size, modification time and
augmentation, so a changed image has another key.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from zlib import crc32

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

_KEYS, _FEATURES, _DIGESTS, _DIGEST = "keys", "features", "digests", "digest"
# Bytes that have a digest of their own, unless one image has more
_BLOCK = 2**20
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


@dataclass
class _Segment:
    """Mapped features [n, ...], their keys, and what they are checked by if they come from a file.

    Args:
        keys: as arrays of bytes have them, in memory.
        features: not read yet.
        path: the file; None for those in memory.
        file: the same, open, as long as it is mapped.
        digests: CRC-32 of each block.
        checked: the blocks that have been.
    """

    keys: np.ndarray
    features: Tensor
    path: Path | None = None
    file: IO[bytes] | None = None
    digests: Sequence[int] = ()
    checked: set[int] = field(default_factory=set)

    def check(self, rows: Sequence[int]) -> None:
        """Check the blocks of rows that have not been checked; ValueError for one that is damaged.

        The file is read, as pages of a mapped one would stay in memory.
        """
        size = _rows_of_block(self.features)
        blocks = sorted({row // size for row in rows} - self.checked)
        if self.path is None or not blocks:
            return
        with self.path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            start = 8 + header + json.loads(file.read(header))[_FEATURES]["data_offsets"][0]
            for block in blocks:
                part = self.features[block * size : (block + 1) * size]
                file.seek(start + block * size * self.features[:1].nbytes)
                if crc32(file.read(part.nbytes)) != self.digests[block]:
                    raise ValueError("its content is not what was written")
        self.checked.update(blocks)


class FeatureRows:
    """Rows of several mapped tensors as if they were one tensor [N, ...].

    Args:
        parts: tensors [n, ...] of equal dtype and shape behind the first dimension.
        part: the tensor of each row [N].
        row: its place in that tensor [N].
        lock: kept open as long as the rows are in use.
        files: what is mapped.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        part: Tensor,
        row: Tensor,
        lock: IO[str] | None = None,
        files: Sequence[IO[bytes]] = (),
    ) -> None:
        self._parts, self._part, self._row, self._lock = list(parts), part, row, lock
        self._files = [(file, _size(file)) for file in files]

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
        """Copy rows [n] into memory as float32 [n, ...]; raise OutputError where a file has become shorter."""
        for file, size in self._files:
            # The system ends a process that reads mapped memory behind the end of its file.
            if _size(file) < size:
                raise OutputError(f"{file.name} was shortened while its features were in use: start the program again")
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
        files = [file for file, _ in self._files]
        return FeatureRows(self._parts, self._part[indices], self._row[indices], self._lock, files)


class Space:
    """The features of one feature key; constructing it does not touch the disk."""

    def __init__(self, root: Path, recipe: Mapping[str, Any]) -> None:
        text = json.dumps(recipe, indent=2, sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._text = text
        self._opened: dict[str, _Segment] = {}

    def find(self, keys: Sequence[bytes]) -> tuple[FeatureRows | None, list[int]]:
        """Return the rows of the keys, or the indices of the missing ones; rows in use are not pruned."""
        readers = self._read_lock()
        while True:
            segments = self._segments()
            places: dict[bytes, tuple[int, int]] = {}
            for number, segment in enumerate(segments):
                places |= {key: (number, row) for row, key in enumerate(segment.keys.tolist())}
            missing = [place for place, key in enumerate(keys) if key not in places]
            if missing or not keys:
                return None, missing
            if self._all_whole(segments, [places[key] for key in keys]):
                break
        found = torch.tensor([places[key] for key in keys])
        # Marks the recent use that pruning goes by
        with suppress(OSError):
            os.utime(self.folder / RECIPE)
        self._tidy()
        parts = [segment.features for segment in segments]
        files = [segment.file for segment in segments if segment.file is not None]
        return FeatureRows(parts, found[:, 0].contiguous(), found[:, 1].contiguous(), readers, files), []

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
            content = {_KEYS: packed, _FEATURES: features.contiguous(), _DIGESTS: _digests(features.contiguous())}
            save_file(content, file, metadata={_DIGEST: _digest(content)})

    def hold(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Keep features in memory, for this process alone."""
        self._opened[uuid.uuid4().hex] = _Segment(_packed(keys), features)

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
        for name, segment in self._opened.items():
            if not wanted.intersection(segment.keys.tolist()):
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

    def _all_whole(self, segments: Sequence[_Segment], places: Sequence[tuple[int, int]]) -> bool:
        """Check the rows at these places; a damaged segment is removed."""
        rows: dict[int, list[int]] = {}
        for number, row in places:
            rows.setdefault(number, []).append(row)
        whole = True
        for number, wanted in rows.items():
            segment = segments[number]
            try:
                segment.check(wanted)
            except (OSError, ValueError, LookupError) as error:
                assert segment.path is not None
                self._remove(segment.path, error)
                whole = False
        return whole

    def _remove(self, path: Path, error: Exception) -> None:
        warn(f"{path} is damaged and will be computed again ({error})")
        self._opened.pop(path.name, None)
        with suppress(OSError):
            path.unlink()

    def _segments(self) -> list[_Segment]:
        """Map all segments, those first that were there first; a damaged one is removed and computed again."""
        for path in self.folder.glob("*.safetensors"):
            if path.name not in self._opened:
                try:
                    self._opened[path.name] = _map_segment(path)
                except (SafetensorError, ValueError) as error:
                    self._remove(path, error)
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


def _map_segment(path: Path) -> _Segment:
    """Map one segment: its keys as an array of bytes, its features without reading them."""
    opened = path.open("rb")
    with safe_open(path, framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata() or {}
        if names != {_KEYS, _FEATURES, _DIGESTS}:
            raise ValueError("it carries no digests, as an earlier version wrote it")
        content = {name: file.get_tensor(name) for name in names}
    if metadata.get(_DIGEST) != _digest(content):
        raise ValueError("its content is not what was written")
    keys, features = content[_KEYS], content[_FEATURES]
    return _Segment(
        keys.numpy().view(f"V{_KEY_BYTES}").reshape(-1).copy(), features, path, opened, content[_DIGESTS].tolist()
    )


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _rows_of_block(features: Tensor) -> int:
    return max(1, _BLOCK // max(1, features[:1].nbytes))


def _digests(features: Tensor) -> Tensor:
    """Compute CRC-32 of each block of rows."""
    return torch.tensor([crc32(_bytes(part)) for part in features.split(_rows_of_block(features))], dtype=torch.int64)


def _digest(content: Mapping[str, Tensor]) -> str:
    """Hash all of a segment, which for features is how they are stored, and their digests."""
    digest = hashlib.sha256(f"{content[_FEATURES].dtype} {list(content[_FEATURES].shape)}".encode())
    for name in (_KEYS, _DIGESTS):
        digest.update(_bytes(content[name]))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
