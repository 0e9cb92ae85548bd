"""Small noisy pictures, so that a training takes a second."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30)}


def picture(seed: int, colour: tuple[int, int, int] = (120, 120, 120), size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Draw a picture of a colour, width and height in `size`."""
    noise = np.random.default_rng(seed).integers(-40, 41, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def draw_classes(root: Path, count: int = 8) -> Path:
    """Fill train/, val/ and test/ with `count` pictures of each of three classes."""
    for place, split in enumerate(("train", "val", "test")):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                picture(100 * place + number, colour).save(root / split / name / f"{number}.jpg")
    return root
