"""Pictures as tensors: with their labels for training and evaluation, without for prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from tlearn.data.decode import Decoder
from tlearn.data.samples import Sample
from tlearn.data.sampling import Draw
from tlearn.data.transforms import Transform
from tlearn.errors import BadImageError


class ImageDataset(Dataset):
    """Give (picture [3, S, S], target, index) for an index, or for an index and the seed of its augmentation."""

    def __init__(
        self, root: Path, samples: Sequence[Sample], classes: Sequence[str], decoder: Decoder, transform: Transform
    ) -> None:
        index_of = {name: index for index, name in enumerate(classes)}
        self.root, self.decoder, self.transform = root, decoder, transform
        self.paths = [sample.path for sample in samples]
        self.targets = [index_of[sample.label] for sample in samples]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int | Draw) -> tuple[Tensor, int, int]:
        index, draw = item if isinstance(item, tuple) else (item, None)
        image = self.decoder(self.root / self.paths[index])
        return self.transform(image, draw), self.targets[index], index


class PictureDataset(Dataset):
    """Give (picture [3, S, S], "") for an index, or (None, reason) for a picture that cannot be read."""

    def __init__(self, paths: Sequence[Path], decoder: Decoder, transform: Transform) -> None:
        self.paths, self.decoder, self.transform = paths, decoder, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor | None, str]:
        try:
            return self.transform(self.decoder(self.paths[index])), ""
        except BadImageError as error:
            return None, error.reason


def class_counts(samples: Sequence[Sample], classes: Sequence[str]) -> Mapping[str, int]:
    """Count the pictures of each class, zero included."""
    counts = dict.fromkeys(classes, 0)
    for sample in samples:
        counts[sample.label] += 1
    return counts
