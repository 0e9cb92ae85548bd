"""A source of images that it draws itself, and a random transform."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tlearn.data.sources.base import Listing, Sample

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


class Tiles:
    """Noisy tiles of three colours."""

    def __init__(self, root: str, count: int = 8) -> None:
        self.root, self.count = Path(root), count

    def prepare(self) -> None:
        for name, colour in COLOURS.items():
            (self.root / name).mkdir(parents=True, exist_ok=True)
            for number in range(self.count):
                path = self.root / name / f"{number}.png"
                if not path.exists():
                    noise = np.random.default_rng(number).integers(-40, 41, (40, 40, 3))
                    Image.fromarray((noise + colour).clip(0, 255).astype("uint8")).save(path)

    def listing(self) -> Listing:
        return Listing(self.root, [Sample(f"{name}/{n}.png", name) for name in COLOURS for n in range(self.count)])


class Darken:
    """Darken an image [3, H, W] by a random share."""

    def __init__(self, most: float) -> None:
        self.most = most

    def __call__(self, image: Tensor) -> Tensor:
        return (image * (1 - self.most * torch.rand(()))).to(image.dtype)
