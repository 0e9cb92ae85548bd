"""Calibration: reliability bins, expected calibration error and temperature scaling."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from tlearn.analysis.drawing import Drawing
from tlearn.analysis.outputs import Outputs, compute_metrics

# Double-precision values in memory per step
_CHUNK = 2_000_000
# Half of the 95 % quantile of the chi-squared distribution with one degree of freedom
_SIGNIFICANT = 1.92


def reliability(outputs: Outputs, bins: int = 15) -> list[dict[str, Any]]:
    """Build the reliability table: images in equal-width bins of the prediction's probability.

    Each row has low, high (the bin's ends), pictures, confidence (the mean) and accuracy, None where the bin is empty.
    """
    confidences = outputs.confidences.double()
    which = (confidences * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(which, minlength=bins)
    means = torch.bincount(which, confidences, bins) / counts
    shares = torch.bincount(which, outputs.correct().double(), bins) / counts
    return [
        {
            "low": index / bins,
            "high": (index + 1) / bins,
            "pictures": count,
            "confidence": mean if count else None,
            "accuracy": share if count else None,
        }
        for index, (count, mean, share) in enumerate(zip(counts.tolist(), means.tolist(), shares.tolist(), strict=True))
    ]


def calibration_error(table: Sequence[Mapping[str, Any]]) -> float:
    """Compute the expected calibration error: the mean gap between accuracy and confidence, weighted by images."""
    filled = [row for row in table if row["pictures"]]
    total = sum(row["pictures"] for row in filled)
    return sum(row["pictures"] * abs(row["accuracy"] - row["confidence"]) for row in filled) / max(total, 1)


def choose_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature of `fit_temperature`, or 1 where the difference is not significant.

    The fit is kept if a likelihood-ratio test at 5 % (Wilks 1938) rejects T = 1: on a few hundred images with a handful
    of mistakes, it overfits as often as it helps.
    """
    temperature = fit_temperature(logits, targets)
    if temperature == 1.0:
        return 1.0
    prior = math.log(temperature) ** 2 / 2
    scaled = _objective(logits, targets, math.log(temperature))[0] - prior
    return temperature if _objective(logits, targets, 0.0)[0] - scaled > _SIGNIFICANT else 1.0


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Find the temperature T > 0 with the smallest sum of the cross-entropies of logits / T, plus (log T)^2 / 2.

    The second term, a prior, weighs less than one image and keeps T finite where every prediction is right. Returns 1
    where a logit is not finite. Source: Guo et al. 2017, arXiv:1706.04599.

    Args:
        logits: [N, C].
        targets: true class indices [N].
    """
    if not bool(logits.isfinite().all()):
        return 1.0
    log_t = torch.tensor(_start(logits, targets), dtype=torch.float64)

    def closure() -> Tensor:
        objective, slope = _objective(logits, targets, float(log_t))
        log_t.grad = torch.tensor(slope, dtype=torch.float64)
        return torch.tensor(objective, dtype=torch.float64)

    # Up to the rounding of the objective, so that T is accurate to 1e-6
    optimizer = torch.optim.LBFGS(
        [log_t], max_iter=100, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    optimizer.step(closure)
    return math.exp(float(log_t))


def _start(logits: Tensor, targets: Tensor) -> float:
    """Choose the initial log T: 0 where T > 1 is better, as there is only one minimum.

    Where T < 1 is better, the prior can cause several minima, so search a grid with steps of a factor e.
    """
    if _objective(logits, targets, 0.0)[1] <= 0:
        return 0.0
    spread = float((logits.amax(1).double() - logits.amin(1).double()).mean())
    # Beyond a mean distance of logits of e^8, only the prior changes.
    last = max(1, math.ceil(8 - math.log(spread)))
    return min((-float(step) for step in range(last + 1)), key=lambda log_t: _objective(logits, targets, log_t)[0])


def _objective(logits: Tensor, targets: Tensor, log_t: float) -> tuple[float, float]:
    """Compute the objective and its derivative with respect to log T, in double precision."""
    beta = math.exp(-log_t)
    sums = torch.zeros(2, dtype=torch.float64)
    rows = max(1, _CHUNK // logits.shape[1])
    for part, wanted in zip(logits.split(rows), targets.split(rows), strict=True):
        # Relative to the logit of the true class: the objective is a log-sum-exp of these.
        distances = part.double()
        distances = distances.sub_(distances.gather(1, wanted[:, None]))
        powers = beta * distances
        highest = powers.amax(1)
        powers = powers.sub_(highest[:, None]).exp_()
        total = powers.sum(1)
        means = torch.linalg.vecdot(powers, distances) / total
        sums += torch.stack([(highest + total.log()).sum(), means.sum()])
    loss, slope = sums.tolist()
    return loss + log_t**2 / 2, log_t - beta * slope


def calibrate(outputs: Mapping[str, Outputs]) -> dict[str, float]:
    """Fit the temperature on val; return it with the calibration metrics of val and test before and after.

    Without outputs, as in further processes, return nothing.
    """
    if not outputs:
        return {}
    val = outputs["val"]
    temperature = choose_temperature(val.logits, val.targets)
    metrics = {"temperature": temperature}
    for split in (name for name in ("val", "test") if name in outputs):
        metrics |= calibration_metrics(outputs[split], temperature)
    return metrics


def calibration_metrics(outputs: Outputs, temperature: float) -> dict[str, float]:
    """Compute the expected calibration error before and after scaling, and the cross-entropy after it."""
    scaled, split = outputs.scaled(temperature), outputs.split
    return {
        f"{split}/ece": calibration_error(reliability(outputs)),
        f"{split}/ece_scaled": calibration_error(reliability(scaled)),
        f"{split}/loss_scaled": compute_metrics(scaled)["loss"],
    }


def reliability_figure(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]] | None = None) -> Figure:
    """Draw accuracy against confidence, and below it the share of images in each bin.

    Args:
        before: bins of the network's probabilities.
        after: bins of the probabilities scaled by the temperature, if any.
    """
    figure = Drawing(figsize=(5, 5.4), layout="constrained")
    figure.suptitle("Reliability")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfectly calibrated")
    tables = {"before": before} if after is None else {"before scaling": before, "after scaling": after}
    for at, (name, table) in enumerate(tables.items()):
        _draw(top, below, table, "" if after is None else name, at, len(tables))
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    top.legend(loc="upper left", fontsize=8)
    below.set(xlabel="confidence", ylabel="images", ylim=(0, None))
    below.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (top, below):
        axes.grid(alpha=0.3)
    return figure


def _draw(top: Axes, below: Axes, table: Sequence[Mapping[str, Any]], name: str, at: int, count: int) -> None:
    """Draw one reliability table in colour number `at`: a point per filled bin, sized by its images, and bars."""
    filled = [row for row in table if row["pictures"]]
    total = max(1, sum(row["pictures"] for row in filled))
    shares = [row["pictures"] / total for row in filled]
    x, y = [row["confidence"] for row in filled], [row["accuracy"] for row in filled]
    label = f"{name}: ECE {calibration_error(table):.3f}" if name else f"ECE {calibration_error(table):.3f}"
    top.plot(x, y, color=f"C{at}", linewidth=1.2, label=label)
    # A bin of two images is noise; the largest bin is often at the edge.
    top.scatter(x, y, [8 + 120 * share for share in shares], color=f"C{at}", zorder=3, clip_on=False)
    width = (table[0]["high"] - table[0]["low"]) * 0.9 / count
    left = [row["low"] + (row["high"] - row["low"]) * 0.05 + at * width for row in filled]
    below.bar(left, shares, width, align="edge", color=f"C{at}")
