"""Draw images beside their most probable classes."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from PIL import Image

from tlearn.analysis.drawing import Drawing, lettering, shown
from tlearn.data.decode import Decoder
from tlearn.data.image_inputs import ImageInput, decode_input
from tlearn.errors import BadImageError

# For display only: no metric uses these pixels.
DISPLAY_DECODER = Decoder(high_bit_depth="scale")


class Answer(NamedTuple):
    """An image, a title above it, its most probable classes with their probabilities, and its true class if known."""

    image: ImageInput
    title: str
    best: Sequence[tuple[str, float]]
    target: str | None = None


def draw_answers(answers: Sequence[Answer]) -> Drawing:
    """Draw each image beside its most probable classes, the true one in green; for up to 12 images."""
    columns = min(3, len(answers)) or 1
    rows = -(-len(answers) // columns) or 1
    figure = Drawing(figsize=(4.4 * columns, 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 1] * columns)
    for axes in grid.flat:
        axes.axis("off")
    for place, answer in enumerate(answers):
        left, right = grid[place // columns, 2 * (place % columns) :][:2]
        _draw_image(left, answer.image)
        left.set_title(shown(answer.title, 26), **lettering(9))
        _draw_classes(right, answer.best, answer.target)
    return figure


def shown_image(image: ImageInput) -> Image.Image | str:
    """Return an image, or the reason why it cannot be shown."""
    try:
        pixels = decode_input(DISPLAY_DECODER, image).pixels
    except BadImageError as error:
        return shown(error.reason, 60)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _draw_image(axes: Axes, image: ImageInput) -> None:
    tile = shown_image(image)
    if isinstance(tile, str):
        axes.text(0.5, 0.5, tile, ha="center", va="center", wrap=True, **lettering(7))
        return
    # More than can be seen would only make drawing slow.
    tile.thumbnail((400, 400))
    axes.imshow(tile)


def _draw_classes(axes: Axes, best: Sequence[tuple[str, float]], target: str | None) -> None:
    """Draw classes as bars with their names on them, the most probable above."""
    axes.set(xlim=(0, 1), ylim=(4.6, -0.6))
    for place, (name, share) in enumerate(best):
        colour = "tab:green" if name == target else "tab:blue"
        axes.barh(place, share, height=0.85, color=colour, alpha=0.35)
        text = f"{share:.2f}  {shown(name, 22)}"
        axes.text(0.02, place, text, va="center", **lettering(8))
