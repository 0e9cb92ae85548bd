"""Learning curves: train and val of one run, and several runs in one figure."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlearn.analysis.drawing import Drawing, fonts, shown

# Panels of metrics side by side
_MOST_COLUMNS = 4

Table = list[dict[str, Any]]


def learning_curves(run: Path) -> Table:
    """Read losses and accuracies of a run from metrics.csv: a row per validation or end of an epoch.

    The columns are epoch, step and the logged ones of `train/loss`, `val/loss`, `train/top1`, ...; missing values are
    None. Without a metrics.csv the result is empty.
    """
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for logged in _logged(run):
        found = {name: float(text) for name, text in logged.items() if text and _is_curve(name)}
        if found and logged.get("epoch") and logged.get("step"):
            # A step can have several lines; of lines that a resumed run has repeated, the later ones count.
            place = int(logged["epoch"]), int(logged["step"])
            rows[place] = rows.get(place, {}) | found
    names = {name for row in rows.values() for name in row}
    ordered = sorted(names, key=lambda name: (not name.endswith("loss"), name.partition("/")[2], name))
    return [
        {"epoch": epoch, "step": step, **{name: rows[epoch, step].get(name) for name in ordered}}
        for epoch, step in sorted(rows)
    ]


def _logged(run: Path) -> Iterator[dict[str, str]]:
    try:
        with (Path(run) / "metrics.csv").open(encoding="utf-8", newline="") as file:
            # A killed run can leave an incomplete line, of which the last number may lack digits.
            yield from csv.DictReader(line for line in file if line.endswith("\n"))
    except FileNotFoundError:
        return


def _is_curve(name: str) -> bool:
    return name.startswith(("train/", "val/")) and name != "train/step_loss"


def learning_figure(table: Sequence[Mapping[str, Any]], best_epoch: int | None = None) -> Figure:
    """Draw losses and accuracies of train and val; a line marks the best epoch.

    Args:
        table: from `learning_curves`.
        best_epoch: the epoch whose weights were kept.
    """
    kinds = list(dict.fromkeys(name.partition("/")[2] for row in table[:1] for name in row if "/" in name))
    columns = min(_MOST_COLUMNS, max(1, len(kinds)))
    lines = max(1, -(-len(kinds) // columns))
    figure = Drawing(figsize=(4 * columns, 3.3 * lines), layout="constrained")
    axis, grid = _axis(table), figure.subplots(lines, columns, squeeze=False).flat
    for axes in grid[len(kinds) :]:
        axes.axis("off")
    for axes, kind in zip(grid, kinds, strict=False):
        for split, colour in (("train", "tab:orange"), ("val", "tab:blue")):
            places, values = _points(table, axis, f"{split}/{kind}")
            # Of most metrics there are none of train.
            if places:
                axes.plot(places, values, marker="o", markersize=3, label=split, color=colour)
        _mark(axes, table, axis, best_epoch)
        axes.set(title=kind.replace("_", " "), xlabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _axis(table: Sequence[Mapping[str, Any]]) -> str:
    """Choose epochs, or steps where an epoch has several validations."""
    epochs = [row["epoch"] for row in table if any(value is not None for name, value in row.items() if "val/" in name)]
    return "epoch" if len(set(epochs)) == len(epochs) else "step"


def _points(table: Sequence[Mapping[str, Any]], axis: str, name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in table if row.get(name) is not None]
    return [row[axis] for row in rows], [row[name] for row in rows]


def _mark(axes: Axes, table: Sequence[Mapping[str, Any]], axis: str, best_epoch: int | None) -> None:
    places = [row[axis] for row in table if row["epoch"] == best_epoch]
    if places:
        axes.axvline(places[-1], color="0.6", linestyle="--", linewidth=1, label="kept", zorder=0)


def epochs_of(run: Path, metric: str) -> tuple[list[int], list[float]]:
    """Read the epochs and values of a metric from a run's metrics.csv; of several in an epoch, the last."""
    values = {int(row["epoch"]): float(row[metric]) for row in _logged(run) if row.get(metric) and row.get("epoch")}
    return list(values), list(values.values())


def curves_table(runs: Mapping[str, Path], metric: str = "val/top1") -> Table:
    """List the data of `curves_figure`: a row per run and epoch."""
    curves = {name: zip(*epochs_of(run, metric), strict=True) for name, run in runs.items()}
    return [{"run": name, "epoch": epoch, metric: value} for name, curve in curves.items() for epoch, value in curve]


def curves_figure(runs: Mapping[str, Path], metric: str = "val/top1") -> Figure:
    """Draw a metric over the epochs, one curve per named run folder."""
    figure = Drawing(figsize=(8 if len(runs) > 4 else 6, 3.8), layout="constrained")
    axes = figure.subplots()
    drawn: list[float] = []
    for place, (name, run) in enumerate(runs.items()):
        epochs, values = epochs_of(run, metric)
        drawn += values
        # Colours repeat after ten.
        line = ("-", "--", ":")[place // 10 % 3]
        axes.plot(epochs, values, marker="o", markersize=3, linestyle=line, label=shown(name, 60))
    axes.set_xlabel("epoch")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    # Curves of similar runs would overlap.
    if metric.endswith(("top1", "top5")) and drawn and max(drawn) - min(drawn) > 0.3:
        axes.set_ylim(0, 1)
    if axes.lines:
        _legend(axes, len(runs))
    return figure


def _legend(axes: Axes, count: int) -> None:
    """Add the legend, outside of the axes where many runs would cover them."""
    beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False} if count > 4 else {}
    legend = axes.legend(prop={"family": fonts(), "size": 8}, **beside)
    for text in legend.get_texts():
        text.set_parse_math(False)
