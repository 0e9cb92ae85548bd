"""What the name of a metric says: whether lower is better, and whether every run has it."""

from collections.abc import Mapping

# What is measured of val and test whatever metrics a run has
MEASURED = ("loss", "loss_scaled", "ece", "ece_scaled")


def lower_is_better(metric: str) -> bool:
    """Return whether lower is better, as for losses, errors, times and numbers of parameters."""
    kind = metric.rpartition("/")[2].removesuffix("_scaled").removesuffix("_change")
    return metric.startswith(("time/", "params/")) or kind.endswith(("loss", "error", "ece", "nll", "brier"))


def direction(metric: str, mode: str = "auto") -> str:
    """Return min or max: the given `mode`, or for auto the direction of the metric."""
    return ("min" if lower_is_better(metric) else "max") if mode == "auto" else mode


def further_metrics(metrics: Mapping[str, float], split: str) -> dict[str, float]:
    """Return the metrics of a split that not every run has, by their names without the split."""
    names = {name.removeprefix(f"{split}/"): value for name, value in metrics.items() if name.startswith(f"{split}/")}
    return {name: value for name, value in names.items() if "/" not in name and name not in (*MEASURED, "top1", "top5")}
