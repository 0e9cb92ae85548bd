"""A data module on cached features: the same batches in the same order, without images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tlearn.data.datamodule import SplitDataModule
from tlearn.data.loader import EpochLoader
from tlearn.data.sampling import EvaluationSampler, TrainBatches
from tlearn.features.rows import FeatureRows

# Evaluation reads as much at once as a processor's cache holds.
_EVALUATION_BYTES = 16 * 2**20

# (indices of the images, view); None for all images
Choice = tuple[list[int] | None, int]


class FeatureDataset(Dataset):
    """Return a whole batch (features [n, ...], targets [n], indices [n]) for the indices of its images and a view.

    Of all images, features are not read: they are `FeatureRows`, in the order in which they lie on the disk.

    Args:
        views: the features of all images, once for each view.
        targets: the class of each image.
        paths: its file, for messages.
    """

    def __init__(self, views: Sequence[FeatureRows], targets: Sequence[int], paths: Sequence[str]) -> None:
        self.views, self.targets, self.paths = views, list(targets), list(paths)
        self._targets = torch.tensor(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, choice: Choice) -> tuple[Tensor | FeatureRows, Tensor, Tensor]:
        if choice[0] is None:
            rows = self.views[choice[1]]
            order = rows.in_storage_order()
            return rows.chosen(order), self._targets[order], order
        indices, view = torch.tensor(choice[0]), choice[1]
        return self.views[view][indices], self._targets[indices], indices


class FeatureDataModule(SplitDataModule):
    """Load batches of (features [N, ...], targets [N], indices [N]).

    Args:
        images: the images that the features are of; splits, order and batches are theirs.
        rows: the features of each split, once for each view.
        full_batch: give out all training images as one batch, whose features are read by slicing.
    """

    def __init__(
        self, images: SplitDataModule, rows: Mapping[str, Sequence[FeatureRows]], full_batch: bool = False
    ) -> None:
        datasets = {
            split: FeatureDataset(rows[split], dataset.targets, dataset.paths)
            for split, dataset in images.datasets.items()
        }
        size = len(datasets["train"]) if full_batch else images.batch_size
        super().__init__(images.image_set, datasets, size, 0, images.balance, images.seed)
        self._images_batch_size, self._full_batch = images.batch_size, full_batch

    def train_dataloader(self) -> DataLoader:
        """Shuffle as with images, and take one view per epoch in turn."""
        dataset = self.datasets["train"]
        if self._full_batch:
            return self._batches_of(dataset, [(None, 0)])
        batches = _Choices(self._train_batches(), len(dataset.views))
        return self._batches_of(dataset, batches)

    def _evaluation(self, split: str) -> DataLoader:
        dataset = self.datasets[split]
        indices = list(EvaluationSampler(len(dataset), *self._place()))
        count = max(1, _EVALUATION_BYTES // dataset.views[0].row_bytes)
        limit = getattr(self.trainer, f"limit_{split}_batches", 1.0)
        # 1.0 means all batches, and 1 a single one: whoever limits them counts batches of images.
        if limit != 1.0 or isinstance(limit, int):
            count = self._images_batch_size
        choices = [(indices[start : start + count], 0) for start in range(0, len(indices), count)]
        return self._batches_of(dataset, choices)

    def _batches_of(self, dataset: FeatureDataset, choices: Any) -> DataLoader:
        # The loader draws a seed at every start: from its own generator, so that the run's stays as it is
        return EpochLoader(
            dataset, batch_size=None, sampler=choices, generator=torch.Generator().manual_seed(self.seed)
        )


class _Choices(Sampler[Choice]):
    """Batches of indices without the seeds of their augmentation, with the epoch's view."""

    def __init__(self, batches: TrainBatches, views: int) -> None:
        self._batches, self._views = batches, views

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Choice]:
        view = self._batches.sampler.epoch % self._views
        for batch in self._batches:
            yield [index for index, _ in batch], view
