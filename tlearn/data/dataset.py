"""Images as tensors: with their labels for training and evaluation, without for prediction."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from tlearn.data.decode import Decoder
from tlearn.data.image_inputs import ImageInput, decode_input
from tlearn.data.pixel_cache import Decode
from tlearn.data.sampling import Draw
from tlearn.data.sources.base import Sample
from tlearn.errors import BadImageError


class ImageDataset(Dataset):
    """Return (image, target, index) for an index, or for an index and the seed of its augmentation.

    Args:
        root: what the samples' paths are relative to.
        samples: the images.
        classes: names in the order of their indices.
        decode: the file at a path -> uint8 [3, H, W].
        transform: that, and the seed of the augmentation or None -> what is returned.
    """

    def __init__(
        self,
        root: Path,
        samples: Sequence[Sample],
        classes: Sequence[str],
        decode: Decode,
        transform: Callable[[Tensor, int | None], Tensor],
    ) -> None:
        index_of = {name: index for index, name in enumerate(classes)}
        self.root, self.decode, self.transform = root, decode, transform
        self.paths = [sample.path for sample in samples]
        self.targets = [index_of[sample.label] for sample in samples]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int | Draw) -> tuple[Tensor, int, int]:
        index, draw = item if isinstance(item, tuple) else (item, None)
        image = self.decode(self.root / self.paths[index])
        return self.transform(image, draw), self.targets[index], index

    def file(self, index: int) -> str:
        """Return the file of an image."""
        return str(self.root / self.paths[index])


class ImageInputDataset(Dataset):
    """Return (transformed image, "", bits of `Decoded`) for an index; (None, reason, 0) for an unreadable image."""

    def __init__(self, images: Sequence[ImageInput], decoder: Decoder, transform: Callable[[Tensor], Tensor]) -> None:
        self.images, self.decoder, self.transform = images, decoder, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor | None, str, int]:
        try:
            pixels, bits = decode_input(self.decoder, self.images[index])
        except BadImageError as error:
            return None, error.reason, 0
        return self.transform(pixels), "", bits

    def file(self, index: int) -> str:
        """Return the file of an image; workers decode nothing else."""
        return str(self.images[index])


def class_counts(samples: Sequence[Sample], classes: Sequence[str]) -> Mapping[str, int]:
    """Count the images of each class, zero included."""
    counts = dict.fromkeys(classes, 0)
    for sample in samples:
        counts[sample.label] += 1
    return counts
