"""Profile of a data set before training: tables and figures from lists of images."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_high
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from tlearn.analysis.drawing import Drawing, lettering, shown
from tlearn.data.header import image_size
from tlearn.data.sources.base import Sample, Splits

# A longer figure would exceed the limits of viewers and PNG writers.
_MOST_NAMES = 300
_MEDIANS = ("median_width", "median_height")


def class_table(
    splits: Splits, classes: Sequence[str], sizes: Mapping[str, tuple[int, int]] | None = None
) -> list[dict[str, Any]]:
    """Count the images of each class in each split; with `sizes` by path, add the median width and height in pixels."""
    counts = {name: Counter(sample.label for sample in samples) for name, samples in splits.items()}
    rows: list[dict[str, Any]] = [
        {"class": label, **{name: counts[name][label] for name in splits}} for label in classes
    ]
    if sizes is None:
        return rows
    known: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for sample in (sample for samples in splits.values() for sample in samples if sample.path in sizes):
        known[sample.label].append(sizes[sample.path])
    for row in rows:
        # Of images whose headers could be read
        sides = zip(*known[row["class"]], strict=True) if known[row["class"]] else (None, None)
        row |= dict(zip(_MEDIANS, (side and median_high(side) for side in sides), strict=True))
    return rows


def image_sizes(root: Path, splits: Splits) -> dict[str, tuple[int, int]]:
    """Read width and height in pixels of every image from its header; unreadable images are left out."""
    paths = [sample.path for samples in splits.values() for sample in samples]
    return {path: size for path in paths if (size := image_size(root / path)) is not None}


def size_summary(sizes: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Compute minimum, median and maximum of width and height, and count images with a side under 10 pixels."""
    widths, heights = sorted(w for w, _ in sizes.values()), sorted(h for _, h in sizes.values())
    if not sizes:
        return {}
    middle = len(sizes) // 2
    return {
        **{f"width/{name}": widths[at] for name, at in (("min", 0), ("median", middle), ("max", -1))},
        **{f"height/{name}": heights[at] for name, at in (("min", 0), ("median", middle), ("max", -1))},
        "tiny": sum(min(size) < 10 for size in sizes.values()),
    }


def size_table(sizes: Mapping[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Build a row per image with width and height."""
    return [{"path": path, "width": width, "height": height} for path, (width, height) in sizes.items()]


def duplicate_table(groups: Sequence[Sequence[tuple[str, str]]]) -> list[dict[str, Any]]:
    """Build a row per duplicated file with the number of its group."""
    return [
        {"group": number, "split": split, "path": path} for number, group in enumerate(groups) for split, path in group
    ]


def few_of_each(samples: Sequence[Sample], count: int) -> dict[str, list[str]]:
    """Choose at most `count` images of each class, evenly from first to last."""
    paths: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        paths[sample.label].append(sample.path)
    few = {}
    for label, found in sorted(paths.items()):
        chosen = min(count, len(found))
        few[label] = [found[place * len(found) // chosen] for place in range(chosen)]
    return few


def class_figure(table: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> Figure:
    """Draw the images per class as stacked bars, largest class first; without names beyond some hundred classes."""
    rows = sorted(table, key=lambda row: -sum(row[name] for name in splits))
    counts = {name: [row[name] for row in rows] for name in splits}
    figure, axes = _class_axes("Images per class", len(rows))
    if len(rows) <= _MOST_NAMES:
        _draw_bars(axes, counts, [shown(row["class"]) for row in rows])
    else:
        axes.stackplot(range(len(rows)), *counts.values(), labels=list(counts), step="mid")
        axes.set(xlabel=f"{len(rows)} classes, largest first", ylabel="images", xlim=(-0.5, len(rows) - 0.5))
    # Outside of the axes: with few classes, bars fill all of them.
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(splits), frameon=False)
    return figure


def _draw_bars(axes: Axes, counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> None:
    left = [0] * len(names)
    for split, values in counts.items():
        axes.barh(range(len(names)), values, left=left, label=split)
        left = [total + value for total, value in zip(left, values, strict=True)]
    _name_rows(axes, names)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("images")


def _class_axes(title: str, count: int) -> tuple[Figure, Axes]:
    """Make a figure with a line for each class, or one of fixed height where there are too many."""
    figure = Drawing(figsize=(8, 0.22 * count + 1.8 if count <= _MOST_NAMES else 5), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots()


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, **lettering(8))
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)


def class_size_figure(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the median width and height of each class, the smallest area first; the table is that of `class_table`."""
    rows = [row for row in table if row["median_width"] is not None]
    rows.sort(key=lambda row: row["median_width"] * row["median_height"])
    figure, axes = _class_axes("Median image size of each class", len(rows))
    axes.grid(axis="x", alpha=0.3)
    for side, marker in zip(_MEDIANS, "_|", strict=True):
        # Crossed strokes: equal sides stay visible.
        style: dict[str, Any] = {"markersize": 10, "markeredgewidth": 2.5, "label": side.removeprefix("median_")}
        axes.plot([row[side] for row in rows], range(len(rows)), marker, **style)
    axes.set(xlabel="pixels", xlim=(0, 1.05 * max((row[side] for row in rows for side in _MEDIANS), default=1)))
    if len(rows) <= _MOST_NAMES:
        _name_rows(axes, [shown(row["class"]) for row in rows])
    else:
        axes.set(ylabel=f"{len(rows)} classes, smallest first", ylim=(len(rows) - 0.5, -0.5))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def size_figure(sizes: Mapping[str, tuple[int, int]]) -> Figure:
    """Draw the distributions of the shorter side and of the aspect ratio."""
    figure = Drawing(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    shorter, sides = [min(size) for size in sizes.values()], [side for size in sizes.values() for side in size]
    most, largest = 1.05 * max(shorter, default=1), 1.05 * max(sides, default=1)
    left.hist(shorter, bins=50, range=(0, most))
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(title="Shorter sides", xlabel="pixels", ylabel="images", xlim=(0, most))
    right.scatter([w for w, _ in sizes.values()], [h for _, h in sizes.values()], s=6, alpha=0.4)
    limits = (0.0, largest)
    if sides and largest > 20 * min(sides):
        # One panorama would compress the rest into a corner.
        right.loglog()
        limits = (min(sides) / 1.2, 1.2 * largest)
        for axis in (right.xaxis, right.yaxis):
            axis.set_major_formatter("{x:,.0f}")
            axis.set_minor_formatter(NullFormatter())
    right.set(title="Shapes", xlabel="width (pixels)", ylabel="height (pixels)", xlim=limits, ylim=limits)
    return figure
