"""Range test of the learning rate: the loss at growing rates, the rate at which it falls fastest, and the figure."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tlearn.analysis.drawing import Drawing

# The first losses have too short a past to be smooth.
_FIRST = 10


def smoothed(losses: Sequence[float], memory: float = 0.9) -> list[float]:
    """Return the exponential moving average of losses, corrected for its start."""
    mean, means = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = memory * mean + (1 - memory) * loss
        means.append(mean / (1 - memory**count))
    return means


def steepest_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate at which the smoothed loss falls fastest per decade, or None where it never falls.

    Per decade and not per unit of the rate, which would reward the noise at the smallest rates (Smith 2017,
    arXiv:1506.01186). It has two significant digits, so that it can be typed.
    """
    smooth = smoothed(losses)
    lowest = int(np.argmin(smooth))
    if lowest <= _FIRST:
        return None
    slopes = np.gradient(smooth[: lowest + 1], np.log10(rates[: lowest + 1]))
    place = _FIRST + int(np.argmin(slopes[_FIRST:]))
    return float(f"{rates[place]:.1e}") if slopes[place] < 0 else None


def rate_figure(rates: Sequence[float], losses: Sequence[float], chosen: float | None) -> Figure:
    """Draw the losses of a range test over the rates; a line marks the chosen rate."""
    figure = Drawing(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="0.75", linewidth=1, label="loss of each step")
    axes.plot(rates, smoothed(losses), color="tab:blue", label="smoothed")
    if chosen is not None:
        axes.axvline(chosen, color="tab:red", linestyle="--", linewidth=1, label=f"chosen: {chosen:g}")
    # A loss that explodes would press the rest flat.
    seen = [loss for loss in losses[:_FIRST] if math.isfinite(loss)]
    if seen:
        axes.set_ylim(0, 1.5 * max(seen))
    axes.set(xscale="log", xlabel="learning rate of the head", ylabel="train/loss", title="Range test")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
