"""Confusion matrix and confused pairs of classes."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, PercentFormatter
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from tlearn.analysis.drawing import Drawing, lettering, shown
from tlearn.analysis.outputs import Outputs

# With more classes, cells have no numbers and confused classes are put side by side.
_MOST_NUMBERS = 20
# With more classes, names would be illegible: only some classes are drawn.
_MOST_NAMES, _DRAWN = 120, 60


def confusion_matrix(outputs: Outputs) -> Tensor:
    """Count images by class (rows) and prediction (columns), int64 [C, C]."""
    found: Tensor = multiclass_confusion_matrix(
        outputs.predictions, outputs.targets, num_classes=len(outputs.classes), validate_args=False
    )
    return found.long()


def confused_pairs(matrix: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """List confused pairs of classes, most images first.

    `of` is the number of images of the class, `fraction` the share of them predicted as the other.
    """
    pictures = matrix.sum(1).tolist()
    rows = []
    for one, other in matrix.nonzero().tolist():
        if one != other:
            count, of = int(matrix[one, other]), pictures[one]
            pair = {"class": classes[one], "taken_for": classes[other], "count": count}
            rows.append({**pair, "of": of, "fraction": count / of})
    return sorted(rows, key=lambda row: (-row["count"], -row["fraction"]))


def matrix_table(matrix: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Build a row per class: how many of its images were predicted as each class."""
    # A class may be called "class".
    columns = [f"predicted {name}" for name in classes]
    return [
        {"class": name, **dict(zip(columns, counts, strict=True))}
        for name, counts in zip(classes, matrix.tolist(), strict=True)
    ]


def confusion_figure(matrix: Tensor, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix, normalised by class: the diagonal in one hue, mistakes in another.

    Beyond twenty classes, confused classes are put side by side; of very many, only the worst are drawn.
    """
    kept, title = _chosen(matrix)
    shares = (matrix / matrix.sum(1, keepdim=True))[kept][:, kept]
    count = len(kept)
    side = min(5 + 0.09 * count, 0.45 * count + 4.5)
    # Compressed layout keeps the cells square; constrained layout would clip the names.
    figure = Drawing(figsize=(side + 1.2, side), layout="compressed")
    figure.suptitle(title)
    axes = figure.subplots()
    # Grey: classes without images have no share.
    axes.set_facecolor("0.93")
    right, wrong = _draw_shares(axes, shares)
    _draw_names(axes, [shown(classes[index], 30) for index in kept.tolist()])
    if count <= _MOST_NUMBERS:
        _draw_numbers(axes, matrix[kept][:, kept], shares, float(wrong.get_clim()[1] or 1))
    for image, label in ((wrong, "wrong"), (right, "right")):
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.015, aspect=2.5 * side, shrink=0.7)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        bar.ax.tick_params(labelsize=7)
        bar.ax.set_title(label, fontsize=7, loc="left")
    return figure


def _chosen(matrix: Tensor) -> tuple[Tensor, str]:
    """Choose the classes to draw, their order and the title."""
    count, title = len(matrix), "Confusion: the shares of each class"
    kept = torch.arange(count)
    if count <= _MOST_NUMBERS:
        return kept, title
    if count > _MOST_NAMES:
        kept = _most_confused(matrix)
        title = f"Confusion: the shares of {_DRAWN} of {count:,} classes, those confused most"
    shares = (matrix / matrix.sum(1, keepdim=True).clamp_min(1))[kept][:, kept]
    return kept[torch.tensor(_order(shares + shares.T))], title


def _most_confused(matrix: Tensor) -> Tensor:
    """Choose both classes of the pairs with the most mistakes, so that these are visible."""
    both = (matrix + matrix.T).triu(1).flatten()
    pairs = both.argsort(descending=True, stable=True)[: _DRAWN * len(matrix)]
    # Pairs without mistakes only fill the figure.
    chosen = dict.fromkeys(index for pair in pairs.tolist() for index in divmod(pair, len(matrix)))
    return torch.tensor(list(chosen)[:_DRAWN]).sort().values


def _order(likeness: Tensor) -> list[int]:
    """Order items so that similar ones are neighbours: repeatedly join the two chains with the highest mean similarity.

    Args:
        likeness: symmetric similarity [C, C]; 0 for none.
    """
    chains = [[index] for index in range(len(likeness))]
    between = likeness.double().fill_diagonal_(0)
    while len(chains) > 1 and between.max() > 0:
        one, other = divmod(int(between.argmax()), len(chains))
        one, other = min(one, other), max(one, other)
        sizes = len(chains[one]), len(chains[other])
        joined = (sizes[0] * between[one] + sizes[1] * between[other]) / sum(sizes)
        joined[one] = 0
        between[one], between[:, one] = joined, joined
        rest = [index for index in range(len(chains)) if index != other]
        between = between[rest][:, rest]
        # Reversed if needed, so that the two most similar ends meet
        ways = product((chains[one], chains[one][::-1]), (chains[other], chains[other][::-1]))
        left, right = max(ways, key=lambda way: float(likeness[way[0][-1], way[1][0]]))
        chains[one] = left + right
        del chains[other]
    return [index for chain in chains for index in chain]


def _draw_shares(axes: Axes, shares: Tensor) -> tuple[AxesImage, AxesImage]:
    """Draw the diagonal and the rest in two colour maps."""
    diagonal = torch.eye(len(shares), dtype=torch.bool)
    hidden = torch.tensor(float("nan"))
    right = axes.imshow(shares.where(diagonal, hidden).numpy(), cmap="Blues", vmin=0, vmax=1)
    most = max(float(shares.where(~diagonal, 0.0).nan_to_num().max()), 0.25)
    # One mistake in twenty must be visible: a step from none to the smallest, and a square-root scale.
    reds = matplotlib.colormaps["Reds"]
    shades = LinearSegmentedColormap.from_list("mistakes", [reds(0.2 + 0.7 * step / 9) for step in range(10)])
    colours = shades.with_extremes(under="white")
    norm = PowerNorm(0.5, 1e-9, most)
    wrong = axes.imshow(shares.where(~diagonal, hidden).numpy(), cmap=colours, norm=norm)
    return right, wrong


def _draw_names(axes: Axes, names: Sequence[str]) -> None:
    size = 8 if len(names) <= 60 else 6
    places = range(len(names))
    style = lettering(size)
    axes.set_yticks(places, names, **style)
    upright = sum(map(len, names)) > 60
    axes.set_xticks(places, names, rotation=90 if upright else 0, **style)
    axes.set(xlabel="prediction", ylabel="class")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(FixedLocator([place - 0.5 for place in range(len(names) + 1)]))
    axes.grid(which="minor", color="0.85", linewidth=0.3)
    axes.tick_params(which="minor", length=0)


def _draw_numbers(axes: Axes, counts: Tensor, shares: Tensor, most: float) -> None:
    for row, column in product(range(len(counts)), repeat=2):
        if count := int(counts[row, column]):
            share = float(shares[row, column])
            # The scale of mistakes is the square root.
            depth = share if row == column else (share / most) ** 0.5
            colour = "white" if depth > 0.55 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=colour)
