"""Gather rows that the processes of a run have computed, in the first of them alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

# Of a block, from all processes together
_BLOCK_BYTES = 64 * 2**20


def gathered(own: Mapping[str, Tensor], order: str, device: torch.device) -> dict[str, Tensor]:
    """Return the rows of all processes, sorted by the values of `order`, in the first process; nothing in others.

    They come in blocks that go to their places at once, so that no process holds more than what it returns and its own.

    Args:
        own: name -> rows [n, ...] of this process on the CPU; names, shapes and types are the same in all of them.
        order: the name of the values [n] to sort by.
        device: where the processes communicate.
    """
    group = _group(len(own[order]), device)
    keys = group.placed(own[order], torch.arange(sum(group.counts)))
    sorting = keys.argsort()
    places = sorting.argsort()
    whole = {name: group.placed(rows, places) for name, rows in own.items() if name != order}
    return {order: keys[sorting], **whole} if group.rank == 0 else {}


@dataclass(frozen=True)
class _Group:
    """The processes: how many rows each has, which this one is, and where they communicate."""

    counts: Sequence[int]
    rank: int
    device: torch.device

    def placed(self, own: Tensor, places: Tensor) -> Tensor:
        """Return the rows of all processes at their places [N] in the first process; in others, no rows."""
        whole = own.new_empty((sum(self.counts) if self.rank == 0 else 0, *own.shape[1:]))
        for before, rows in self._blocks(own):
            whole[places[before : before + len(rows)]] = rows
        return whole

    def _blocks(self, own: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Send rows to the first process, which yields those of all in turn, with the number of rows before them."""
        if len(self.counts) == 1:
            yield 0, own
            return
        most, row_bytes = max(self.counts), own.element_size() * math.prod(own.shape[1:])
        step = min(most, max(1, _BLOCK_BYTES // (len(self.counts) * max(1, row_bytes))))
        for start in range(0, most, step):
            # Of one size and type in all processes, as every backend takes it
            block = own.new_zeros((step, *own.shape[1:]))
            block[: len(own[start : start + step])] = own[start : start + step]
            sent = block.view(torch.uint8).to(self.device)
            received = [torch.empty_like(sent) for _ in self.counts] if self.rank == 0 else None
            distributed.gather(sent, received)
            for sender, part in enumerate(received or []):
                rows = part.cpu().view(own.dtype)[: max(0, self.counts[sender] - start)]
                yield sum(self.counts[:sender]) + start, rows


def _group(own: int, device: torch.device) -> _Group:
    """Describe the processes; `own` is the number of rows of this one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return _Group([own], 0, device)
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([own], device=device))
    return _Group([int(count) for count in counts], distributed.get_rank(), device)
