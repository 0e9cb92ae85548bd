"""The data module of a run: one loader per split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from tlearn.data.dataset import ImageDataset, class_counts
from tlearn.data.decode import Decoder
from tlearn.data.loader import EpochLoader, worker_options
from tlearn.data.pixel_cache import DiskPixels, MemoryPixels
from tlearn.data.prepare import ImageSet
from tlearn.data.sampling import EvaluationSampler, TrainBatches, TrainSampler, draw_seed
from tlearn.data.transforms import Transform, normalised, stack, visible
from tlearn.data.verify import Unchanged
from tlearn.data.workers import default_workers
from tlearn.errors import DataError, counted
from tlearn.machine import available_cpus


class SplitDataModule(LightningDataModule):
    """What loaders of images and of their features share: which images come, in which order and in which process.

    Args:
        image_set: the checked splits.
        datasets: one for each split, with the `targets` and `paths` of its images.
        batch_size: of training, per process.
        balance: "sampler" draws the classes of train equally often.
    """

    def __init__(
        self,
        image_set: ImageSet,
        datasets: Mapping[str, Any],
        batch_size: int,
        num_workers: int | None = None,
        balance: str = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.image_set, self.datasets = image_set, dict(datasets)
        self.batch_size, self.num_workers, self.balance, self.seed = batch_size, num_workers, balance, seed

    def files(self, split: str, indices: Sequence[int]) -> list[str]:
        """Return the files of a batch."""
        return [str(self.image_set.root / self.datasets[split].paths[index]) for index in indices]

    def class_weights(self) -> list[float]:
        """Compute the weight of each class with which all count the same: images / (classes x its images)."""
        counts = class_counts(self.image_set.splits["train"], self.image_set.classes)
        present = sum(count > 0 for count in counts.values())
        return [sum(counts.values()) / (present * count) if count else 0.0 for count in counts.values()]

    def val_dataloader(self) -> DataLoader:
        """Load each validation image once, in order."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """Load each test image once, in order."""
        return self._evaluation("test")

    def plain_train_dataloader(self) -> DataLoader:
        """Load each training image once, in order, with the transform of validation."""
        return self._evaluation("train")

    def _evaluation(self, split: str) -> DataLoader:
        raise NotImplementedError

    def count_train_batches(self, processes: int) -> int:
        """Count the batches of an epoch in one of the processes."""
        sampler = TrainSampler(len(self.datasets["train"]), self.seed, world_size=processes)
        return len(TrainBatches(sampler, self.batch_size))

    def _train_batches(self) -> TrainBatches:
        """Choose the training images of each batch."""
        dataset = self.datasets["train"]
        per_class = self.class_weights()
        weights = [per_class[target] for target in dataset.targets] if self.balance == "sampler" else None
        by_heart = bool(getattr(self.trainer, "overfit_batches", 0))
        sampler = TrainSampler(len(dataset), self.seed, weights, *self._place(), fixed=by_heart)
        self._batches = TrainBatches(sampler, self.batch_size)
        return self._batches

    def skip_batches(self, count: int) -> None:
        """Leave out the first batches of the epoch that comes next, which a resumed run has had."""
        self._batches.skip = count

    def check_processes(self, processes: int) -> None:
        """Refuse more processes than a split has images: each must have one.

        Raises:
            DataError: names the split, and how many there may be.
        """
        for split, dataset in self.datasets.items():
            count = len(dataset)
            if count < processes:
                raise DataError(
                    f"{split} has {counted(count, 'image')}, too few for {processes} processes: trainer.devices={count}"
                )

    def _place(self) -> tuple[int, int]:
        """Return this process's rank and the number of processes."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        self.check_processes(world_size)
        return rank, world_size

    def _processes(self) -> int:
        """Count the run's processes on this machine."""
        return self.trainer.num_devices if self.trainer and self.trainer.world_size > 1 else 1

    def _device_type(self) -> str:
        strategy = getattr(self.trainer, "strategy", None)
        return "cpu" if strategy is None else strategy.root_device.type

    def _workers(self) -> int:
        return default_workers(self._processes()) if self.num_workers is None else self.num_workers


@dataclass
class Pixels:
    """A batch of images [N, ..., 3, S, S] in uint8, which becomes the network's input where it is moved to a device.

    Workers hand over, and a GPU receives, a quarter of the bytes.

    Args:
        values: as `Transform.pixels` returns them.
        levels: mean and standard deviation per channel.
        kind: an empty tensor with the dtype of the input; a Trainer converts it as it does all tensors.
    """

    values: Tensor
    levels: tuple[tuple[float, ...], tuple[float, ...]]
    kind: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float32))

    def to(self, device: torch.device | str, **how: Any) -> Tensor:
        """Return the normalised images on a device; Lightning moves whatever has this method."""
        # Lightning asks for this for tensors alone; a copy that blocks waits for all queued work of a GPU.
        how = {"non_blocking": torch.device(device).type == "cuda", **how}
        return normalised(self.values.to(device, **how), *self.levels).to(self.kind.dtype)

    def pin_memory(self) -> Self:
        """Pin what is sent, as loaders ask for."""
        return replace(self, values=self.values.pin_memory())


class ImageDataModule(SplitDataModule):
    """Load batches of (images [N, 3, S, S], targets [N], indices [N]); the images are `Pixels`.

    Images whose transform averages V versions come as [N, V, 3, S, S].

    Args:
        image_set: the checked splits.
        train_transform: for training images.
        transform: for all others.
        balance: "sampler" draws the classes of train equally often.
        cache: keeps what every epoch of a fit decodes, for transforms that take shrunk images.
    """

    def __init__(
        self,
        image_set: ImageSet,
        decoder: Decoder,
        train_transform: Transform,
        transform: Transform,
        batch_size: int,
        num_workers: int | None = None,
        balance: str = "none",
        seed: int = 0,
        cache: MemoryPixels | DiskPixels | None = None,
    ) -> None:
        self.transforms = {split: train_transform if split == "train" else transform for split in image_set.splits}
        cached = ("train", "val") if cache is not None else ()
        self._cached = [split for split in cached if split in image_set.splits and self.transforms[split].takes_shrunk]
        # A file that has changed since it was checked is found where it is read.
        self.decode = Unchanged(decoder, image_set.files.opened_digest)
        datasets = {
            split: ImageDataset(
                image_set.root,
                samples,
                image_set.classes,
                cache if cache is not None and split in self._cached else self.decode,
                self.transforms[split].pixels,
            )
            for split, samples in image_set.splits.items()
        }
        super().__init__(image_set, datasets, batch_size, num_workers, balance, seed)
        self.cache = cache
        self.decoder, self._plain = decoder, transform

    def setup(self, stage: str) -> None:
        """Fill the cache before workers start."""
        if stage == "fit" and self.cache is not None:
            paths = [file for split in self._cached for file in self.files(split, range(len(self.datasets[split])))]
            self.cache.prepare(paths, max(1, available_cpus() // self._processes()))

    def train_dataloader(self) -> DataLoader:
        """Shuffle and augment."""
        return self._loader(self.datasets["train"], batch_sampler=self._train_batches())

    def first_batch(self, most: int, fixed_views: bool = False) -> list[tuple[Tensor, int, str]]:
        """Return up to `most` images of the first training batch of one process: uint8 [3, S, S], target and path.

        `fixed_views` draws them as cached features are drawn, where augmentation does not depend on the epoch.
        """
        dataset, shown = self.datasets["train"], []
        for index, draw in next(iter(self._train_batches()))[:most]:
            path = dataset.paths[index]
            pixels, target, _ = dataset[index, draw_seed(0, 0, path) if fixed_views else draw]
            shown.append((visible(pixels)[0], target, path))
        return shown

    def _evaluation(self, split: str) -> DataLoader:
        sampler = EvaluationSampler(len(self.datasets[split]), *self._place())
        return self._loader(self._plain_dataset(split), sampler=sampler, batch_size=self.batch_size)

    def _plain_dataset(self, split: str) -> ImageDataset:
        if not self.transforms[split].is_random:
            return self.datasets[split]
        image_set = self.image_set
        return ImageDataset(image_set.root, image_set.splits[split], image_set.classes, self.decode, self._plain.pixels)

    def _loader(self, dataset: ImageDataset, **how: Any) -> DataLoader:
        # One loader for training and one for validation, of each process; a random step may leave float32.
        each = 4 if any(transform.is_random for transform in self.transforms.values()) else 1
        batch_bytes = each * 3 * self._plain.size**2 * len(self._plain.versions) * self.batch_size
        options = worker_options(self._workers(), batch_bytes, loaders=2 * self._processes())
        return EpochLoader(
            dataset,
            **options,
            # mean and standard deviation are those of training, too
            collate_fn=partial(_collate, self._plain.levels),
            persistent_workers=options["num_workers"] > 0,
            # Pinning opens a context on a GPU, also where the CPU trains.
            pin_memory=self._device_type() == "cuda",
            # The loader draws a seed at every start: from its own generator, so that the run's stays as it is
            generator=torch.Generator().manual_seed(self.seed),
            **how,
        )


def _collate(
    levels: tuple[tuple[float, ...], tuple[float, ...]], rows: Sequence[tuple[Tensor, int, int]]
) -> tuple[Pixels, Tensor, Tensor]:
    images, targets, indices = zip(*rows, strict=True)
    return Pixels(stack(images), levels), torch.tensor(targets), torch.tensor(indices)
