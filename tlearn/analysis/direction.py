"""Whether a metric is minimised or maximised, by its name."""


def lower_is_better(metric: str) -> bool:
    """Return whether lower is better, as for losses, errors, times and numbers of parameters."""
    kind = metric.rpartition("/")[2].removesuffix("_scaled").removesuffix("_change")
    return metric.startswith(("time/", "params/")) or kind.endswith(("loss", "error", "ece", "nll"))


def direction(metric: str, mode: str = "auto") -> str:
    """Return min or max: the given `mode`, or for auto the direction of the metric."""
    return ("min" if lower_is_better(metric) else "max") if mode == "auto" else mode
