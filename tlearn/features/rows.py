"""Rows of features in use: of several mapped files as if they were one tensor."""

import os
from collections.abc import Sequence
from typing import IO

import torch
from torch import Tensor

from tlearn.errors import OutputError


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

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
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

    def in_storage_order(self) -> Tensor:
        """Return the indices of all rows [N] in the order in which they lie on the disk."""
        order = self._row.argsort(stable=True)
        return order[self._part[order].argsort(stable=True)]

    def chosen(self, indices: Tensor) -> "FeatureRows":
        """Select rows without copying features."""
        files = [file for file, _ in self._files]
        return FeatureRows(self._parts, self._part[indices], self._row[indices], self._lock, files)


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size
