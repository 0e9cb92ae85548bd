"""Decoded images kept as uint8, in memory or on disk, so that training on the fly decodes every file once."""

import errno
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from zlib import crc32

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from tlearn.data.decode import Decoder
from tlearn.data.file_state import file_state
from tlearn.data.header import heif_version
from tlearn.data.transforms import Transform
from tlearn.data.verify import Unchanged
from tlearn.errors import ConfigError, OutputError
from tlearn.files import writing
from tlearn.machine import available_memory

# The file at a path -> uint8 [3, H, W]
Decode = Callable[[str | Path], Tensor]

# Part of the cache key: increment it when the file format or the pixels change.
_FORMAT = 2
# CRC-32 of all that follows; height and width; then the pixels
_HEADER = np.dtype(("<u4", 3))
# Free bytes to leave: on a full disk, writing a checkpoint would end the run.
_RESERVE = 2**30
# Images by which the memory for all is estimated
_SAMPLED = 64


@dataclass(frozen=True)
class Shrink:
    """Decode a file and bring its short side down to `short_side` pixels; smaller images stay as they are."""

    decoder: Decoder | Unchanged
    short_side: int
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __call__(self, path: str | Path) -> Tensor:
        """Return uint8 [3, H, W] in the memory order H, W, 3; raise BadImageError as the decoder does."""
        image = self.decoder(path)
        if min(image.shape[-2:]) <= self.short_side:
            return image
        return functional.resize(image, [self.short_side], self.interpolation, antialias=True)


class MemoryPixels:
    """Keep shrunk images in memory, which worker processes share that are forked after `prepare`."""

    def __init__(self, shrink: Shrink) -> None:
        self._shrink = shrink
        self._kept: dict[str, Tensor] = {}

    def prepare(self, paths: Sequence[str | Path], threads: int) -> None:
        """Decode all images now; raise ConfigError if they would not fit."""
        missing = [path for path in map(str, paths) if path not in self._kept]
        with ThreadPoolExecutor(threads) as pool:
            first = list(pool.map(self._shrink, missing[:_SAMPLED]))
            _check_memory(first, len(missing))
            rest = pool.map(self._shrink, missing[_SAMPLED:])
            self._kept.update(zip(missing, chain(first, rest), strict=True))

    def __call__(self, path: str | Path) -> Tensor:
        """Return the kept image, or decode one that is not."""
        kept = self._kept.get(str(path))
        return self._shrink(path) if kept is None else kept


class DiskPixels:
    """Keep shrunk images in a folder, a file for each, when they are first asked for.

    The name of a file is a hash of all that its pixels depend on, so a file that is found is valid and never changes.
    """

    def __init__(self, shrink: Shrink, folder: Path) -> None:
        self._shrink, self._folder, self._writing = shrink, folder, True
        how = {
            "decoder": shrink.decoder.key(),
            "short_side": shrink.short_side,
            "interpolation": shrink.interpolation.value,
        }
        self._key = [_FORMAT, how, PIL.__version__, torchvision.__version__]

    def prepare(self, paths: Sequence[str | Path], threads: int) -> None:
        """Keep one image, so that a folder that cannot be written to is warned of here and not by every worker."""
        for path in paths[:1]:
            self(path)

    def __call__(self, path: str | Path) -> Tensor:
        """Return the kept image, or decode and keep it."""
        # Taken before decoding: a file that changes meanwhile is then decoded again.
        file = self._file(path)
        if file is None:
            return self._shrink(path)
        kept = _read(file)
        if kept is None:
            kept = self._shrink(path)
            self._write(file, kept)
        return kept

    def _file(self, path: str | Path) -> Path | None:
        """Return the file that keeps an image; None if the image is not there."""
        state = file_state(path)
        if state is None:
            return None
        name = hashlib.sha256(json.dumps([*state, *self._key, *heif_version([path]).values()]).encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:]}.pixels"

    def _write(self, file: Path, image: Tensor) -> None:
        """Write a file; after a failure, stop writing."""
        if not self._writing:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(file.parent).free < _RESERVE:
                raise OSError(errno.ENOSPC, "less than 1 GiB is free")
            with writing(file) as stream:
                size, content = _size(*image.shape[-2:]), image.permute(1, 2, 0).contiguous().numpy().data
                stream.write(crc32(content, crc32(size)).to_bytes(4, "little") + size)
                stream.write(content)
        except (OSError, OutputError) as error:
            self._writing = False
            warnings.warn(f"data.cache=disk keeps no more images in {self._folder}: {error}", stacklevel=2)


def pixel_cache(
    kind: str, decoder: Decoder | Unchanged, transform: Transform, folder: Path
) -> MemoryPixels | DiskPixels | None:
    """Build what keeps images for a transform, by name: memory, disk (in a folder of its own), or none."""
    shrink = Shrink(decoder, transform.resize, transform.interpolation)
    if kind == "none":
        return None
    return MemoryPixels(shrink) if kind == "memory" else DiskPixels(shrink, folder)


def _size(height: int, width: int) -> bytes:
    return height.to_bytes(4, "little") + width.to_bytes(4, "little")


def _read(file: Path) -> Tensor | None:
    """Read a kept image; return None if it is missing or, which is said, damaged."""
    try:
        # Not mapped into memory: a crop touches most pages, and a fault for each takes longer than reading all at once.
        with file.open("rb") as stream:
            content = bytearray(stream.read())
    except OSError:
        return None
    height = width = 0
    if len(content) > _HEADER.itemsize:
        digest, height, width = np.frombuffer(content, _HEADER, 1)[0].tolist()
    if not height or len(content) != _HEADER.itemsize + height * width * 3 or crc32(memoryview(content)[4:]) != digest:
        warnings.warn(f"{file} is damaged: its image is decoded again", stacklevel=2)
        return None
    pixels = torch.frombuffer(content, dtype=torch.uint8, offset=_HEADER.itemsize)
    return pixels.view(height, width, 3).permute(2, 0, 1)


def _check_memory(sample: Sequence[Tensor], count: int) -> None:
    """Refuse images that would not fit: the system would kill the run without a message."""
    needed = sum(image.nbytes for image in sample) * count // max(1, len(sample))
    available = available_memory()
    if available is not None and needed > available:
        raise ConfigError(
            f"data.cache=memory would take {needed / 2**30:.1f} GiB for {count:,} images and "
            f"{available / 2**30:.1f} GiB are free: choose data.cache=disk or none"
        )
