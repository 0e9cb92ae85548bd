"""Feature extraction: decode, transform and a forward pass, as fast as the machine allows."""

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tlearn.data.loader import EpochLoader, worker_options
from tlearn.data.pixel_cache import Decode
from tlearn.data.sampling import draw_seed
from tlearn.data.transforms import Transform, stack
from tlearn.errors import TlearnError
from tlearn.machine import available_cpus
from tlearn.models.allocator import keep_memory
from tlearn.models.device import Arriving, FittingParts
from tlearn.models.graph.fold import fold

# (file, seed of its augmentation)
Item = tuple[str | Path, int | None]

# The activations of more images fall out of a CPU's caches; a GPU needs more to be busy, and workers, of which each
# reads a whole batch, not too many.
_CPU_BATCH, _GPU_BATCH = 16, 64


@dataclass(frozen=True)
class Items(Sequence[Item]):
    """Images below a root, as they are, or so many augmented views of all; made one by one, to save memory."""

    root: Path
    paths: Sequence[str]
    views: int | None = None

    def __len__(self) -> int:
        return len(self.paths) * (self.views or 1)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        view, place = divmod(index, len(self.paths))
        path = self.paths[place]
        return os.path.join(self.root, path), None if self.views is None else draw_seed(0, view, path)


@dataclass(frozen=True)
class Reader:
    """Decode and transform one image: uint8 [3, S, S], or [V, 3, S, S] where the transform makes several versions.

    `fixed` is the transform of images without a draw, `random` of those with one.
    """

    decode: Decode
    fixed: Transform
    random: Transform

    def __call__(self, item: Item) -> Tensor:
        """Read one image; BadImageError if it cannot be read."""
        path, draw = item
        transform = self.fixed if draw is None else self.random
        return transform.pixels(self.decode(path), draw)


class Extractor:
    """Compute features of images.

    Args:
        frozen: images [N, 3, S, S] -> features [N, ...]; a folded copy of it runs, itself stays as it is.
        reader: reads the images.
        dtype: the precision of the body, float32 or bfloat16; features have it too.
        average: take the mean over the versions of an image; otherwise they stay, [N, V, ...].
        devices: which compute, batch by batch in turn: the CPU, or GPUs of one kind.
        workers: processes that decode for GPUs; None: as many as there are other CPUs.
    """

    def __init__(
        self,
        frozen: nn.Module,
        reader: Reader,
        dtype: torch.dtype = torch.float32,
        devices: Sequence[torch.device] = (torch.device("cpu"),),
        average: bool = True,
        workers: int | None = None,
    ) -> None:
        self.reader, self.dtype, self.devices = reader, dtype, tuple(devices)
        self._workers = max(0, available_cpus() - 1) if workers is None else workers
        self._bodies = [fold(frozen).to(self.devices[0], dtype)]
        self._average, self._fitting = average, FittingParts()

    def __call__(self, items: Sequence[Item]) -> Generator[Tensor, None, None]:
        """Yield features [n, ...] of consecutive images, in order, on the CPU.

        Raises:
            BadImageError: an image cannot be read; the features of those before it have been yielded.
        """
        return self._on_cpu(items) if self.devices[0].type == "cpu" else self._on_devices(items)

    def _forward(self, pixels: Tensor, body: nn.Module) -> Tensor:
        """Compute the features of a batch, in parts if the device has too little memory for all at once."""
        return self._fitting(partial(self._features, body), pixels)

    @torch.inference_mode()
    def _features(self, body: nn.Module, pixels: Tensor) -> Tensor:
        """Compute features of uint8 images [N, 3, S, S] or [N, V, 3, S, S] on the device of the body."""
        versions = pixels.shape[1] if pixels.ndim == 5 else 0
        images = self.reader.fixed.normalise(pixels.flatten(0, 1) if versions else pixels)
        features = body(images.to(self.dtype, memory_format=torch.channels_last))
        if not versions:
            return features
        features = features.unflatten(0, (-1, versions))
        # The mean of half-precision numbers would lose what they have
        return features.float().mean(1).to(self.dtype) if self._average else features

    def _on_cpu(self, items: Sequence[Item]) -> Generator[Tensor, None, None]:
        """Let each thread decode and run the body by itself: no thread waits for another."""
        starts = range(0, len(items), _CPU_BATCH)
        # Made one by one: all would take several times the memory of their files' names.
        batches = ([items[place] for place in range(len(items))[start : start + _CPU_BATCH]] for start in starts)
        threads = min(available_cpus(), len(starts))
        with keep_memory(self.devices[0]), _single_math_threads(threads) as pool:
            yield from _in_order(pool, self._batch, batches, ahead=2 * threads)

    def _batch(self, items: Sequence[Item]) -> Tensor:
        return self._forward(stack([self.reader(item) for item in items]), self._bodies[0])

    def _on_devices(self, items: Sequence[Item]) -> Generator[Tensor, None, None]:
        """Let loader workers decode while the devices compute, and copies to them and back run."""
        devices = self.devices[: math.ceil(len(items) / _GPU_BATCH)]
        for device in devices[len(self._bodies) :]:
            self._bodies.append(deepcopy(self._bodies[0]).to(device))
        turns = cycle(zip(devices, self._bodies, strict=False))
        held: deque[Arriving] = deque()
        try:
            # CUDA keeps what is still to be sent; Apple's GPUs would read memory that holds other pixels by then.
            at_once = self.devices[0].type == "cuda"
            for pixels, (device, body) in zip(self._loader(items), turns, strict=False):
                held.append(Arriving(self._forward(pixels.to(device, non_blocking=at_once), body)))
                # Fetched when its device has work again, so that none idles while the CPU waits
                if len(held) > len(devices):
                    yield held.popleft().get()
        # An image that cannot be read: what came before it is done, or will be soon.
        except TlearnError:
            yield from (one.get() for one in held)
            raise
        finally:
            # The other GPUs are those of other processes, which need their memory.
            while len(self._bodies) > 1:
                self._bodies.pop().cpu()
                torch.cuda.empty_cache()
        yield from (one.get() for one in held)

    def _loader(self, items: Sequence[Item]) -> EpochLoader:
        fixed = self.reader.fixed
        # A random step may leave float32.
        each = len(fixed.versions) if items[0][1] is None else 4
        batch_bytes = each * 3 * fixed.size**2 * _GPU_BATCH
        workers = min(self._workers, math.ceil(len(items) / _GPU_BATCH))
        return EpochLoader(
            _Pixels(self.reader, items),
            _GPU_BATCH,
            collate_fn=stack,
            pin_memory=self.devices[0].type == "cuda",
            # The loader draws a seed: from its own generator, so that a run draws the same as on kept features.
            generator=torch.Generator().manual_seed(0),
            **worker_options(workers, batch_bytes),
        )


class _Pixels(Dataset):
    """Images for loader workers, which must not be sent the body."""

    def __init__(self, reader: Reader, items: Sequence[Item]) -> None:
        self._reader, self._items = reader, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Tensor:
        return self._reader(self._items[index])

    def file(self, index: int) -> str:
        """Return the file of an image."""
        return str(self._items[index][0])


@contextmanager
def _single_math_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads that each calculate alone, and restore torch's number of threads afterwards."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)


def _in_order(
    pool: ThreadPoolExecutor, task: Callable[[Sequence[Item]], Tensor], batches: Iterable[Sequence[Item]], ahead: int
) -> Iterator[Tensor]:
    """Yield results in order, with few batches in progress: a million at once would fill the memory."""
    running: deque[Future[Tensor]] = deque()
    for batch in batches:
        running.append(pool.submit(task, batch))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
