"""The paths of many images in one block of bytes: an object for each would take ten times as much memory."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import overload

import numpy as np

# Two different paths of a billion have the same digest with a probability of 1e-21.
_DIGEST = 16


class ImagePaths(Sequence[Path]):
    """Paths in their order; a part of them shares their bytes.

    Args:
        paths: as text.
        part: bytes and ends of others, which are shared, in their place.
    """

    def __init__(self, paths: Iterable[str] = (), part: "tuple[bytearray, array[int]] | None" = None) -> None:
        self._bytes, self._ends = part or (bytearray(), array("Q", [0]))
        for path in paths:
            self._bytes += os.fsencode(path)
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> "ImagePaths": ...

    def __getitem__(self, index: int | slice) -> "Path | ImagePaths":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return ImagePaths(str(self[number]) for number in range(start, stop, step))
            return ImagePaths(part=(self._bytes, self._ends[start : max(start, stop) + 1]))
        number = range(len(self))[index]
        return Path(os.fsdecode(bytes(self._bytes[self._ends[number] : self._ends[number + 1]])))

    def __iter__(self) -> Iterator[Path]:
        return (self[number] for number in range(len(self)))

    def each_once(self) -> "ImagePaths":
        """Return the paths without those of a file that an earlier one leads to, as far as names tell."""
        digests = (blake2b(os.fsencode(os.path.abspath(path)), digest_size=_DIGEST).digest() for path in self)
        first = np.unique(np.fromiter(digests, f"S{_DIGEST}", len(self)), return_index=True)[1]
        return self if len(first) == len(self) else ImagePaths(str(self[number]) for number in np.sort(first).tolist())
