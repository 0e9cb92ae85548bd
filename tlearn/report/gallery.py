"""Galleries: images with class and prediction."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor

from tlearn.analysis.answers import DISPLAY_DECODER, Answer, draw_answers, shown_image
from tlearn.analysis.drawing import Drawing, lettering, shown
from tlearn.analysis.outputs import Outputs
from tlearn.data.sampling import draw_seed
from tlearn.data.transforms import Transform, visible
from tlearn.errors import BadImageError
from tlearn.report.page import Card

# Pixels of an image and its margin in a gallery, and of an inch: the images are drawn pixel by pixel.
_CELL, _DPI = 192, 120


def confident_mistakes(outputs: Outputs, count: int) -> list[int]:
    """Choose the wrong predictions with the highest probability, highest first."""
    return _surest(outputs, ~outputs.correct(), count)


def confident_correct(outputs: Outputs, count: int) -> list[int]:
    """Choose the right predictions with the highest probability, highest first."""
    return _surest(outputs, outputs.correct(), count)


def random_images(outputs: Outputs, count: int, seed: int = 0) -> list[int]:
    """Choose images at random, in random order; the same seed chooses the same ones."""
    order = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(seed))
    return order[:count].tolist()


def least_certain(outputs: Outputs, count: int) -> list[int]:
    """Choose the images whose prediction has the lowest probability, right or wrong, lowest first."""
    return outputs.confidences.argsort(stable=True)[:count].tolist()


def mistakes_of(outputs: Outputs, class_index: int, count: int) -> list[int]:
    """Choose the misclassified images of a class, the most confident mistakes first."""
    return _surest(outputs, ~outputs.correct() & (outputs.targets == class_index), count)


def _surest(outputs: Outputs, chosen: Tensor, count: int) -> list[int]:
    indices = chosen.nonzero()[:, 0]
    return indices[outputs.confidences[indices].argsort(descending=True, stable=True)][:count].tolist()


class Thumbnails:
    """Small JPEGs of images, at most `most` of them; each image is decoded once.

    Args:
        root: what the paths are relative to.
        most: how many there may be, as they make up most of a page's size.
        side: the longer side, in pixels.
        bit_depth: as the decoder takes it, for images of more than 8 bits.
    """

    def __init__(self, root: Path, most: int = 400, side: int = 160, bit_depth: int | None = None) -> None:
        self.root, self.left, self._side = root, most, side
        self._decode = replace(DISPLAY_DECODER, bit_depth=bit_depth)
        self._made: dict[str, bytes | str] = {}

    def __call__(self, path: str) -> bytes | str:
        """Return an image as a JPEG, or the reason why there is none."""
        if self.left <= 0:
            return "not shown: there are too many"
        self.left -= 1
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def _make(self, path: str) -> bytes | str:
        try:
            pixels = self._decode(self.root / path)
        except BadImageError as error:
            return error.reason
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        image.thumbnail((self._side, self._side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        return buffer.getvalue()


def card(outputs: Outputs, index: int, thumbnails: Thumbnails) -> Card:
    """Build the card of an image with its class and predictions."""
    target = outputs.classes[int(outputs.targets[index])]
    best = outputs.best(index)
    facts = [("class", target), *([("taken for", best[0][0])] if best[0][0] != target else [])]
    path = outputs.paths[index]
    return Card(thumbnails(path), path, facts, [(name, share, name == target) for name, share in best])


def gallery_figure(
    pictures: Sequence[Path | str | Tensor], titles: Sequence[str], columns: int = 6, colours: Sequence[str] = ()
) -> Figure:
    """Draw images in rows with a title above each, whose lines are separated by newlines.

    Args:
        pictures: files, or pixels as uint8 [3, H, W].
        titles: one for each image.
        columns: how many in a row.
        colours: of the titles; black where there are none.
    """
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    above, rows = 19 * lines + 5, -(-len(pictures) // columns)
    # One drawing of all: matplotlib takes 50 ms for each that stands alone.
    canvas = Image.new("RGB", (columns * _CELL, max(1, rows * (_CELL + above))), "white")
    figure = Drawing(figsize=(canvas.width / _DPI, canvas.height / _DPI), dpi=_DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    for place, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left, top = place % columns * _CELL, place // columns * (_CELL + above)
        middle, text = left + _CELL / 2, "\n".join(shown(line, 22) for line in title.split("\n"))
        colour = colours[place] if colours else "black"
        axes.text(middle, top + above - 2, text, ha="center", va="bottom", color=colour, **lettering(8))
        tile = shown_image(picture)
        if isinstance(tile, str):
            axes.text(middle, top + above + _CELL / 2, tile, ha="center", va="center", wrap=True, **lettering(7))
        else:
            tile = ImageOps.contain(tile, (_CELL - 10, _CELL - 10))
            canvas.paste(tile, (left + (_CELL - tile.width) // 2, top + above))
    axes.imshow(canvas)
    return figure


def predictions_figure(outputs: Outputs, indices: Sequence[int]) -> Figure:
    """Draw images titled prediction / target, wrong ones in red."""
    right, predictions, targets = (
        values[indices].tolist() for values in (outputs.correct(), outputs.predictions, outputs.targets)
    )
    titles = [
        f"{outputs.classes[prediction]}\n/ {outputs.classes[target]}"
        for prediction, target in zip(predictions, targets, strict=True)
    ]
    files = [outputs.root / outputs.paths[index] for index in indices]
    return gallery_figure(files, titles, colours=["black" if one else "tab:red" for one in right])


def augmentation_figure(picture: Path | Tensor, transform: Transform, path: str, count: int = 16) -> Figure:
    """Draw an image as it is, then as training sees it.

    Args:
        picture: its file, or pixels as uint8 [3, H, W].
        transform: of training images; one that is not random is drawn once, with each version that is averaged.
        path: seeds the draws: the first ones are the views of this image that `features.views` keeps.
        count: how many draws.
    """
    pixels = picture if isinstance(picture, Tensor) else DISPLAY_DECODER(picture)
    if transform.is_random:
        seen = [visible(transform.pixels(pixels, draw_seed(0, view, path)))[0] for view in range(count)]
        titles = [f"draw {number}" for number in range(1, count + 1)]
    else:
        seen = visible(transform.pixels(pixels))
        titles = transform.versions
    return gallery_figure([pixels, *seen], ["as it is", *titles])


def answers_figure(outputs: Outputs, indices: Sequence[int]) -> Figure:
    """Draw each image beside its five most probable classes, the true one in green; for up to 12 images."""
    answers = []
    for index in indices:
        target = outputs.classes[int(outputs.targets[index])]
        answers.append(Answer(outputs.root / outputs.paths[index], target, outputs.best(index), target))
    return draw_answers(answers)
