"""The Lightning face of a run's pictures: one loader per split."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from tlearn.data.dataset import ImageDataset, class_counts
from tlearn.data.decode import Decoder
from tlearn.data.prepare import Pictures, available_cpus
from tlearn.data.sampling import EvaluationSampler, TrainBatches, TrainSampler
from tlearn.data.transforms import Transform
from tlearn.errors import DataError


def default_workers(processes: int = 1) -> int:
    """Leave one CPU per process for the network, and use at most eight of the others to decode."""
    return min(8, max(0, available_cpus() // processes - 1))


class ImageDataModule(LightningDataModule):
    """Load batches of (pictures [N, 3, S, S], targets [N], indices [N]).

    Args:
        pictures: the splits, made and checked before.
        train_transform: for training pictures.
        transform: for all others.
        balance: "sampler" draws the classes of train equally often.
    """

    def __init__(
        self,
        pictures: Pictures,
        decoder: Decoder,
        train_transform: Transform,
        transform: Transform,
        batch_size: int,
        num_workers: int | None = None,
        balance: str = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.pictures, self.batch_size, self.balance, self.seed = pictures, batch_size, balance, seed
        self.num_workers = num_workers
        self.datasets = {
            split: ImageDataset(
                pictures.root, samples, pictures.classes, decoder, train_transform if split == "train" else transform
            )
            for split, samples in pictures.splits.items()
        }

    def files(self, split: str, indices: Sequence[int]) -> list[str]:
        """Name the pictures of a batch."""
        return [str(self.pictures.root / self.datasets[split].paths[index]) for index in indices]

    def class_weights(self) -> list[float]:
        """Give a weight for each class that makes all classes count the same: pictures / (classes x its pictures)."""
        counts = class_counts(self.pictures.splits["train"], self.pictures.classes)
        present = sum(count > 0 for count in counts.values())
        return [sum(counts.values()) / (present * count) if count else 0.0 for count in counts.values()]

    def train_dataloader(self) -> DataLoader:
        """Shuffle and augment."""
        dataset = self.datasets["train"]
        per_class = self.class_weights()
        weights = [per_class[target] for target in dataset.targets] if self.balance == "sampler" else None
        by_heart = bool(getattr(self.trainer, "overfit_batches", 0))
        sampler = TrainSampler(len(dataset), self.seed, weights, *self._place("train"), fixed=by_heart)
        return self._loader("train", batch_sampler=TrainBatches(sampler, self.batch_size))

    def val_dataloader(self) -> DataLoader:
        """Give each validation picture once, in order."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader:
        """Give each test picture once, in order."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> DataLoader:
        sampler = EvaluationSampler(len(self.datasets[split]), *self._place(split))
        return self._loader(split, sampler=sampler, batch_size=self.batch_size)

    def _place(self, split: str) -> tuple[int, int]:
        """Give this process's rank and the number of processes, each of which must have a picture."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        count = len(self.datasets[split])
        if count < world_size:
            raise DataError(
                f"{count} pictures in {split} are too few for {world_size} processes: set trainer.devices={count}"
            )
        return rank, world_size

    def _loader(self, split: str, **how: Any) -> DataLoader:
        processes = self.trainer.num_devices if self.trainer and self.trainer.world_size > 1 else 1
        workers = default_workers(processes) if self.num_workers is None else self.num_workers
        return DataLoader(
            self.datasets[split],
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # The loader draws a seed at every start: from its own generator, so that the run's stays as it is
            generator=torch.Generator().manual_seed(self.seed),
            **how,
        )
