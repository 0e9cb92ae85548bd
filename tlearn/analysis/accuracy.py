"""Accuracy per class with confidence intervals, and against the number of training images."""

import math
import warnings
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import Bbox
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from tlearn.analysis.drawing import Drawing, lettering, shown
from tlearn.analysis.outputs import Outputs

# With more classes, only the worst are drawn.
_MOST_CLASSES, _DRAWN = 60, 40
# With fewer classes, a rank correlation is meaningless.
_FEWEST = 5
# Names in the scatter plot, and classes tried for a name
_MOST_NAMED, _MOST_TRIED = 12, 60


def wilson(right: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval of `right` successes in `count` trials at the confidence `level`.

    Unlike the normal approximation it stays within 0 and 1 and has a width for 0 and `count` successes. Returns (0, 1)
    where `count` is 0. Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = right / count, z**2 / count
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    # Rounding must not exclude the accuracy itself where it is 0 or 1.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def per_class(outputs: Outputs, train_counts: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
    """List the accuracies of each class with their intervals, and the class it is most often confused with.

    `train_counts` are training images by class. Values are None where unknown; top5 needs more than five classes. Top-1
    of a class is its recall; precision is None for a class that was never predicted, F1 where there are no images of it
    either.
    """
    count = len(outputs.classes)
    pictures = torch.bincount(outputs.targets, minlength=count).tolist()
    right = {top: _right(outputs, top) for top in ((1, 5) if count > 5 else (1,))}
    predicted = torch.bincount(outputs.predictions, minlength=count).tolist()
    most = _most_taken_for(outputs)
    table = []
    for index, name in enumerate(outputs.classes):
        row: dict[str, Any] = {"class": name}
        row["train_pictures"] = None if train_counts is None else train_counts.get(name, 0)
        row["pictures"] = pictures[index]
        for top, counts in right.items():
            known = pictures[index] > 0
            low, high = wilson(counts[index], pictures[index]) if known else (None, None)
            share = counts[index] / pictures[index] if known else None
            row |= {f"top{top}": share, f"top{top}_low": low, f"top{top}_high": high}
        both = pictures[index] + predicted[index]
        row |= {
            "precision": right[1][index] / predicted[index] if predicted[index] else None,
            "recall": row["top1"],
            "f1": 2 * right[1][index] / both if both else None,
        }
        other, times = most.get(index, (None, 0))
        row |= {"most_taken_for": None if other is None else outputs.classes[other], "taken_for_count": times}
        table.append(row)
    return table


def _right(outputs: Outputs, top: int) -> list[int]:
    return torch.bincount(outputs.targets[outputs.correct(top)], minlength=len(outputs.classes)).tolist()


def _most_taken_for(outputs: Outputs) -> dict[int, tuple[int, int]]:
    """Return the most frequent wrong prediction, and its count, of each class with mistakes."""
    wrong = outputs.predictions != outputs.targets
    pairs = torch.stack([outputs.targets[wrong], outputs.predictions[wrong]], 1)
    found: dict[int, tuple[int, int]] = {}
    for (one, other), times in zip(*(part.tolist() for part in pairs.unique(dim=0, return_counts=True)), strict=True):
        if times > found.get(one, (0, 0))[1]:
            found[one] = other, times
    return found


def accuracy_figure(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the accuracy of each class with its interval, worst first; with many classes only the worst."""
    # Stable sort: classes of equal accuracy keep their order.
    rows = sorted((row for row in table if row["pictures"]), key=lambda row: row["top1"])
    title = "Accuracy per class, with 95 % intervals"
    if len(rows) > _MOST_CLASSES:
        title = f"{title}: the worst {_DRAWN} of {len(rows):,} classes"
        rows = rows[:_DRAWN]
    figure = Drawing(figsize=(8, 0.2 * len(rows) + 1.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    places, shares = range(len(rows)), [row["top1"] for row in rows]
    below = [row["top1"] - row["top1_low"] for row in rows]
    above = [row["top1_high"] - row["top1"] for row in rows]
    axes.barh(places, shares, color="C0", alpha=0.35)
    axes.errorbar(shares, places, xerr=(below, above), fmt="o", markersize=4, linewidth=1.2, color="C0")
    names = [f"{shown(row['class'])} ({row['pictures']:,})" for row in rows]
    axes.set_yticks(places, names, **lettering(8))
    axes.set(xlim=(0, 1.01), ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy (images of the class in brackets)")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", alpha=0.3)
    return figure


def counts_figure(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw accuracy against the number of training images per class, with the names of outliers."""
    rows = [row for row in table if row["pictures"] and row["train_pictures"] is not None]
    x, y = [row["train_pictures"] for row in rows], [row["top1"] for row in rows]
    title = "Accuracy and training images per class"
    if (correlation := _spearman(x, y)) is not None:
        title += f" (rank correlation {correlation:.2f})"
    figure = Drawing(figsize=(7, 4.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    axes.scatter(x, y, s=14, alpha=0.6)
    axes.set(xlabel="training images", ylabel="accuracy", ylim=(-0.05, 1.05))
    if x and max(x) > 20 * max(1, min(x)):
        axes.set_xscale("symlog")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    if rows:
        _name_outliers(axes, rows)
    return figure


def _name_outliers(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Annotate classes that are worse than others of their size, where the name fits."""
    x, y = [row["train_pictures"] for row in rows], [row["top1"] for row in rows]
    order = (_ranks(y) - _ranks(x)).argsort(stable=True).tolist()
    figure = axes.figure
    assert isinstance(figure, Figure)
    layout = figure.get_layout_engine()
    assert layout is not None
    with warnings.catch_warnings():
        # As in `drawing`: characters that no font has are not warned of.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        # Names inside the axes leave the layout as it is: it is computed once.
        layout.execute(figure)
        figure.set_layout_engine("none")
        points = axes.transData.transform(list(zip(x, y, strict=True)))
        taken: list[Bbox] = []
        for index in order[:_MOST_TRIED]:
            if len(taken) < _MOST_NAMED and (box := _name(axes, rows[index], points, taken)) is not None:
                taken.append(box)


def _name(axes: Axes, row: Mapping[str, Any], points: Any, taken: Sequence[Bbox]) -> Bbox | None:
    """Write a class name beside its point, unless it would cover points or other names everywhere."""
    for side, away in (("left", (6, 0)), ("right", (-6, 0)), ("left", (5, -8)), ("left", (5, 8))):
        name = axes.annotate(
            shown(row["class"], 24),
            (row["train_pictures"], row["top1"]),
            xytext=away,
            textcoords="offset points",
            horizontalalignment=side,
            verticalalignment="center",
            **lettering(8),
        )
        box = name.get_window_extent()
        inside = Bbox.intersection(box, axes.bbox)
        free = not box.count_contains(points) and not box.count_overlaps(taken)
        if free and inside is not None and abs(inside.width - box.width) + abs(inside.height - box.height) < 1:
            return box.padded(2)
        name.remove()
    return None


def _spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Compute Spearman's rank correlation; None where one variable is constant or there are too few classes."""
    if len(x) < _FEWEST or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(spearman_corrcoef(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)))


def _ranks(values: Sequence[float]) -> Tensor:
    """Rank values; ties get their mean rank."""
    _, which, counts = torch.tensor(values, dtype=torch.float64).unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[which].double()
