"""Which images come in which batch: a pure function of seed and epoch, for any number of workers or processes."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import torch
from torch.utils.data import Sampler

# (index of the image, seed of its augmentation)
Draw = tuple[int, int]


def draw_seed(seed: int, epoch: int, place: int | str) -> int:
    """Return the seed of the augmentation at one place of an epoch: an image drawn twice is augmented in two ways."""
    # surrogateescape: file names need not be text
    text = f"{seed}/{epoch}/{place}".encode(errors="surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1


class TrainSampler(Sampler[Draw]):
    """Shuffle in each epoch; every process gets its own, equally long part.

    Args:
        count: number of training images.
        seed: decides order and augmentation together with the epoch.
        weights: relative frequency of each image (drawn with replacement), or None for each once.
        fixed: repeat the order and augmentation of the first epoch, to overfit some batches.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        fixed: bool = False,
    ) -> None:
        self.fixed = fixed
        self.count, self.seed, self.rank, self.world_size = count, seed, rank, world_size
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self.epoch = 0 if self.fixed else epoch

    def __len__(self) -> int:
        return -(-self.count // self.world_size)

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(draw_seed(self.seed, self.epoch, -1))
        if self.weights is None:
            order = torch.randperm(self.count, generator=generator).tolist()
        else:
            order = torch.multinomial(self.weights, self.count, replacement=True, generator=generator).tolist()
        # Training needs equal numbers of steps: the first images fill up the last round.
        for place in range(self.rank, len(self) * self.world_size, self.world_size):
            yield order[place % self.count], draw_seed(self.seed, self.epoch, place)


class TrainBatches(Sampler[list[Draw]]):
    """Cut the draws of a sampler into batches; a last batch of one joins the one before it.

    BatchNorm cannot train on a single image, and dropping it would lose data.
    """

    def __init__(self, sampler: TrainSampler, batch_size: int) -> None:
        # Lightning looks for `sampler` to call its set_epoch where this is a loader's batch_sampler, and calls the one
        # below where this is the sampler of a loader that takes whole batches (batch_size=None).
        self.sampler, self.batch_size = sampler, batch_size
        # Batches of the next epoch that a resumed run has had
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the sampler."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 1 or (rest == 1 and full == 0))

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = list(self.sampler)
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        skipped, self.skip = self.skip, 0
        for start in starts[skipped:]:
            yield draws[start:] if start == starts[-1] else draws[start : start + self.batch_size]


class EvaluationSampler(Sampler[int]):
    """Divide the images over the processes, none twice: padding would count some images twice."""

    def __init__(self, count: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, count, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
