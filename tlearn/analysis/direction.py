"""Which end of a metric is its best, read from its name."""


def lower_is_better(metric: str) -> bool:
    """Return whether a metric is best at its minimum, as losses, errors, times and numbers of parameters are."""
    kind = metric.rpartition("/")[2].removesuffix("_scaled").removesuffix("_change")
    return metric.startswith(("time/", "params/")) or kind.endswith(("loss", "error", "ece", "nll"))


def direction(metric: str, mode: str = "auto") -> str:
    """Return min or max: the `mode` that was chosen, or with auto the end at which the metric is best."""
    return ("min" if lower_is_better(metric) else "max") if mode == "auto" else mode
