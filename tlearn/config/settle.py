"""Settle what a configuration leaves to its backbone's weights and its metric, before it becomes plain values."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlearn.config import seats
from tlearn.config.tree import Settings, settings_of
from tlearn.data.transforms import complete
from tlearn.errors import ConfigError
from tlearn.runs.trust import locate

# Preprocessing of most ImageNet weights, for looking at images without a backbone
IMAGENET: dict[str, Any] = {
    **{"resize": 256, "size": 224, "interpolation": "bilinear"},
    **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}


def settled(config: DictConfig, preprocessing: Mapping[str, Any]) -> Settings:
    """Return a configuration as plain values, with `transforms` and `monitor.mode` filled in where it has them.

    Augmentations, callbacks and schedules refer to them, such as `transforms.size`.

    Args:
        config: the configuration.
        preprocessing: what `transforms` starts from, as the weights of a backbone have it.

    Raises:
        ConfigError: they do not go together, or a metric cannot be built.
    """
    settings, found = settings_of(config), {}
    if settings.get("transforms"):
        found["transforms"] = complete(preprocessing, settings["transforms"])
    if "monitor" in settings:
        found["monitor"] = {"mode": _best_end(settings["monitor"], settings["metrics"])}
    return settings_of(OmegaConf.merge(config, found))  # type: ignore[arg-type]


def _best_end(monitor: Mapping[str, Any], nodes: Mapping[str, Any]) -> str:
    """Return min or max, as the metric says of itself, and refuse metrics that cannot be built."""
    metric, mode = monitor["metric"], monitor["mode"]
    higher = {"loss": False, **{name: _higher_is_better(name, node) for name, node in nodes.items()}}[
        metric.removeprefix("val/")
    ]
    if higher is None:
        if mode == "auto":
            raise ConfigError(f"{metric} does not say which end is best: give monitor.mode=min or max")
        return mode
    right = "max" if higher else "min"
    if mode not in ("auto", right):
        raise ConfigError(f"monitor.mode={mode}: {metric} is best at its {right}imum, so {right}")
    return right


def _higher_is_better(name: str, node: Any) -> bool | None:
    try:
        # Any number of classes for which every metric of tlearn's exists: the images are not listed yet.
        return next((built.higher_is_better for built in seats.metrics({name: node}, 10).values()), None)
    except seats.MetricError:
        # It may want another number of classes, such as a weight for each; then it is built again with theirs.
        higher = getattr(locate(node["_target_"]), "higher_is_better", None)
        return higher if isinstance(higher, bool) else None
