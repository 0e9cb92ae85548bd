"""Figures of many runs: a metric of each in order, and the same metric over each setting."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tlearn.analysis.drawing import Drawing, lettering, shown
from tlearn.runs.ranking import Group, metric_words, short_names

_MOST_SETTINGS = 12


def ranking_figure(groups: Mapping[str, Group], metric: str) -> Figure:
    """Draw a metric of each named group, the first at the top: each seed's value, the mean and standard deviation."""
    figure = Drawing(figsize=(6.4, 0.28 * len(groups) + 1), layout="constrained")
    axes = figure.subplots()
    for place, group in enumerate(groups.values()):
        values = group.values(metric)
        if len(values) > 1:
            axes.plot(values, [place] * len(values), "o", markersize=4, alpha=0.5, color="tab:blue")
        axes.errorbar(fmean(values), place, xerr=group.spread(metric), fmt="D", markersize=4, color="0.2")
    axes.set_yticks(range(len(groups)), [shown(name, 44) for name in groups], **lettering(9))
    axes.set(ylim=(len(groups) - 0.5, -0.5), xlabel=metric_words(metric))
    axes.grid(alpha=0.3)
    return figure


def settings_figure(groups: Sequence[Group], metric: str) -> Figure:
    """Draw a metric of all runs against each setting that has several values among them, at most twelve."""
    points = [
        (entry.settings, value)
        for group in groups
        for entry in group.entries
        if math.isfinite(value := entry.metrics.get(metric, math.nan))
    ]
    names = settings_drawn(groups)[:_MOST_SETTINGS]
    short = short_names(names)
    columns = min(3, max(1, len(names)))
    lines = max(1, -(-len(names) // columns))
    figure = Drawing(figsize=(3.6 * columns, 3.2 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    for axes, name in zip(grid.flat, names, strict=False):
        having = [(settings[name], value) for settings, value in points if settings.get(name) is not None]
        _draw_setting(axes, [one for one, _ in having], [value for _, value in having])
        axes.set_xlabel(shown(short[name]), parse_math=False)
    for axes in grid[:, 0]:
        axes.set_ylabel(metric_words(metric))
    return figure


def settings_drawn(groups: Sequence[Group]) -> list[str]:
    """Name the settings other than the seed that have several values among the runs of groups."""
    found = [entry.settings for group in groups for entry in group.entries]
    names = dict.fromkeys(name for settings in found for name in settings if name != "seed")
    return [name for name in names if len({settings.get(name) for settings in found} - {None}) > 1]


def _draw_setting(axes: Axes, settings: Sequence[Any], values: Sequence[float]) -> None:
    axes.grid(alpha=0.3)
    numbers = [value for value in settings if isinstance(value, int | float)]
    if len(numbers) == len(settings):
        axes.plot(numbers, values, "o", alpha=0.6)
        if min(numbers) > 0 and max(numbers) >= 20 * min(numbers):
            axes.set_xscale("log")
        return
    kinds = sorted({str(value) for value in settings})
    axes.plot([kinds.index(str(value)) for value in settings], values, "o", alpha=0.6)
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    names = [shown(kind, 18) for kind in kinds]
    few = len(kinds) <= 3 and max(map(len, names)) < 12
    axes.set_xticks(range(len(kinds)), names, **lettering(8))
    axes.tick_params(axis="x", rotation=0 if few else 40)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("center" if few else "right")
