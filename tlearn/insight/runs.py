"""Runs beside each other: their curves in one figure."""

import csv
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def epochs_of(run: Path, metric: str) -> tuple[list[int], list[float]]:
    """Read the epochs and values of a figure from a run's metrics.csv."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get(metric)]
    return [int(row["epoch"]) for row in rows], [float(row[metric]) for row in rows]


def curves_figure(runs: Mapping[str, Path], metric: str = "val/top1") -> Figure:
    """Draw one figure over the epochs for each named run folder."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, run in runs.items():
        axes.plot(*epochs_of(Path(run), metric), marker="o", markersize=3, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if metric.endswith(("top1", "top5")):
        axes.set_ylim(0, 1)
    axes.legend()
    return figure
