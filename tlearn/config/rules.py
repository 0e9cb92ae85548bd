"""Check a configuration by the rules of its keys before anything is imported, read or written.

A key of your own option file needs no rule if another value refers to it (`${head.scale}`). Any other key without one
is an error, and so is one that only other options or programs read.
"""

import difflib
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any

from tlearn.config.declared import SEVERAL
from tlearn.config.meant_values import metric_line
from tlearn.config.signatures import OF_HYDRA, untaken
from tlearn.config.suggestions import did_you_mean
from tlearn.config.valid_values import DECODING, RULES, SEATS, rule_of, without
from tlearn.errors import ConfigError
from tlearn.ranges import require

# What other frameworks call a seat
_OTHERS = {
    "model": "module",
    "net": "backbone",
    "network": "backbone",
    "dataset": "data.source",
    "datamodule": "data.source",
}
# A group of which a program has nothing by default, and the key that tells the program
_EMPTY = {"images": "backbone", "seed": "backbone", "tta": "metrics", "resume": "tune"}
# Groups all of whose keys are read
_WHOLE = ("features", "paths")
_REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)")

# Groups whose options all build on one file, and a key that only this file has
_BASES = {"scheduler": "_target_", "transforms": "resize"}


class UnknownKeyError(ConfigError):
    """A key that nothing reads."""

    def __init__(self, key: str) -> None:
        super().__init__(f"unknown key {key} (notes of your own go under extra.)")
        self.key = key


class RefusedValueError(ConfigError):
    """A value of a wrong type or range."""

    def __init__(self, key: str, value: Any, expected: str) -> None:
        super().__init__(f"{key}={value}: expected {expected}")
        self.key, self.value, self.expected = key, value, expected


def references(config: dict[str, Any]) -> set[str]:
    """List the keys that values of an unresolved configuration refer to, such as ${head.scale}."""
    found = set()
    for key, value, _ in _leaves(config):
        for dots, name in _REFERENCE.findall(str(value)):
            # One dot is the node that holds the key, and each further one the node above.
            above = key.split(".")[: -len(dots)] if dots else []
            found.add(".".join([*above, name]))
    return found


def _leaves(node: dict[str, Any], prefix: str = "", free: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Yield (dotted key, value, is an argument of what is built) for all values that are not dictionaries.

    Raises:
        RefusedValueError: there are keys where a single value belongs.
    """
    free = free or ("_target_" in node and _is_built(f"{prefix}_target_"))
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            # What has a `_target_` is built.
            if "_target_" not in value and (rule := RULES.get(key)) and (expected := rule(value)):
                raise RefusedValueError(key, value, expected)
            yield from _leaves(value, f"{key}.", free)
        else:
            yield key, value, free


def _is_built(key: str) -> bool:
    """Return whether a key lies in a seat."""
    return any(fnmatchcase(key, f"{seat}.*") for seat in SEATS)


def check(
    config: dict[str, Any], known: list[str], referred: Collection[str] = (), declared: Collection[str] | None = None
) -> None:
    """Refuse unknown keys and values of a wrong type or range.

    Args:
        config: the composed configuration as plain data.
        known: the keys of the program by default.
        referred: keys that values refer to, see `references`.
        declared: keys that the program reads, see `tlearn.config.declared.declared`; None: all that have a rule.

    Raises:
        ConfigError: names the key, the value and what was expected.
    """
    removed = [key for key in known if key.rpartition(".")[0] in ("", *_WHOLE) and not _has(config, key)]
    if removed:
        raise ConfigError(f"{removed[0]} is missing: it can be changed, not removed")
    empty = [group for key, group in _EMPTY.items() if key in known]
    groups = {*(key.partition(".")[0] for key in known), *empty} or config.keys()
    for key, value, free in _leaves(config):
        # A group of another program is not built by this one.
        read = free and key.partition(".")[0] in groups
        _check_place(key, value, read or _is_referred(key, referred), known)
        if not read and not _is_read(key, referred, declared):
            raise UnknownKeyError(key)
        if (rule := rule_of(key)) and (expected := rule(value)):
            raise RefusedValueError(key, value, expected)
    for group in SEVERAL:
        _check_named(group, config.get(group) or {}, known)
    if wrong := untaken({group: config[group] for group in groups & config.keys() - {"extra"}}):
        raise UnknownKeyError(wrong)
    if config.get("transforms"):
        _check_transforms(config["transforms"])
    for group, key in _BASES.items():
        if isinstance(config.get(group), dict) and key not in config[group]:
            raise ConfigError(f"{group}.{key} is missing: an option of your own begins with defaults: [none, _self_]")
    try:
        _check_together(config)
    except KeyError as error:
        raise ConfigError(f"{error.args[0]} is missing: it can be changed, not removed") from None


def _has(config: dict[str, Any], key: str) -> bool:
    """Return whether a key, at most one level deep, is there; a value in place of a node is another mistake."""
    group, _, name = key.partition(".")
    node = config.get(group)
    return group in config if not name else not isinstance(node, dict) or name in node


def _check_named(group: str, parts: Any, known: list[str]) -> None:
    """Refuse a group of named parts one of which is nothing that can be built."""
    if not isinstance(parts, dict):
        raise ConfigError(f"{group}={parts}: expected an option of the group, or names that each have a _target_")
    for name, part in parts.items():
        if part is not None and not (isinstance(part, dict) and "_target_" in part):
            key = f"{group}.{name}"
            others = [one for one in known if one.startswith(f"{group}.") and one.count(".") == 1]
            meant = f"; did you mean {key}=null?" if without(key, str(part)) else did_you_mean(key, others)
            if isinstance(part, str) and "." in part:
                meant = f"; did you mean +{key}._target_={part}?"
            raise ConfigError(f"{key} has no _target_{meant}")


def _check_place(key: str, value: Any, free: bool, known: list[str]) -> None:
    """Refuse a key that nothing reads; a `free` one needs no rule."""
    node, _, last = key.rpartition(".")
    if last == "_target_" and not free and node.partition(".")[0] != "extra":
        raise ConfigError(f"nothing is built at {node}, so {key}={value} would be ignored{_seat_like(node, known)}")
    if last.startswith("_") and last not in OF_HYDRA and node.partition(".")[0] != "extra":
        raise ConfigError(f"unknown key {key}{did_you_mean(last, OF_HYDRA)}")
    if not free and rule_of(key) is None:
        raise UnknownKeyError(key)


def _is_read(key: str, referred: Collection[str], declared: Collection[str] | None) -> bool:
    if declared is None or key in declared or key.partition(".")[0] in ("extra", *SEVERAL):
        return True
    return _is_referred(key, referred)


def _is_referred(key: str, referred: Collection[str]) -> bool:
    """Return whether a value refers to a key, or to a node above it that has no rules of its own."""
    nodes = (one for one in referred if key.startswith(f"{one}."))
    return key in referred or any(not any(known.startswith(f"{one}.") for known in RULES) for one in nodes)


def _seat_like(node: str, known: list[str]) -> str:
    """Return "; did you mean ...?" for a node that is like a seat, or the seats that there are."""
    seats = [seat.replace("*", "NAME") for seat in SEATS if not known or seat.partition(".")[0] in known]
    # What others call it; the group that a seat lies in; what is alike
    close = [_OTHERS[node]] if _OTHERS.get(node) in seats else [seat for seat in seats if seat.startswith(f"{node}.")]
    close = close or difflib.get_close_matches(node, seats, n=2)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; own code goes to {', '.join(seats)}"


def _check_together(config: dict[str, Any]) -> None:
    """Refuse combinations of values that are valid one by one."""
    monitor, tuning = config.get("monitor"), config.get("finetune")
    if "run" not in config:
        for name in set(DECODING[:3]) & set(config.get("data") or {}):
            require(f"data.{name}", config["data"][name])
    if monitor:
        _check_monitor(monitor, {"loss": True, **(config["metrics"] or {})})
    features = config.get("features")
    if features and features["views"] is not None and not config["transforms"]["train"]:
        raise ConfigError(f"features.views={features['views']} needs augmentation: choose transforms=light or another")
    trainer = config.get("trainer")
    if trainer and trainer["check_val_every_n_epoch"] is None and isinstance(trainer["val_check_interval"], float):
        raise ConfigError(
            "trainer.check_val_every_n_epoch=null counts batches over epochs: set trainer.val_check_interval "
            "to a number of them"
        )
    if tuning and (tuning["unfreeze_epoch"] is None) != (not tuning["later_stages"]):
        raise ConfigError(
            "finetune.later_stages and finetune.unfreeze_epoch only work together: choose finetune=gradual"
        )
    # explore, which alone has a seed, too, needs neither.
    if "run" in config and "seed" not in config:
        _check_model(config)
    if "seed" in config and "finetune" not in config:
        _check_looked_at(config)
    opened = config["resume"] if "resume" in config else config.get("run")
    if config.get("trust") and opened is None:
        raise ConfigError(f"trust={config['trust']} is for the code that a stored run names, and none is opened here")


def _check_monitor(monitor: dict[str, Any], nodes: dict[str, Any]) -> None:
    """Refuse a metric that there is not, and a mode that loss does not have; a metric of a class says its own."""
    metric = monitor["metric"]
    if not (metric.startswith("val/") and nodes.get(metric.removeprefix("val/"))):
        raise ConfigError(f"monitor.metric={metric}: {metric_line('monitor.metric', metric, nodes)}")
    if monitor["metric"] == "val/loss" and monitor["mode"] == "max":
        raise ConfigError("monitor.mode=max: val/loss is best at its minimum, so min")


def _check_model(config: dict[str, Any]) -> None:
    """Refuse two models, none, and class names for a model that has its own."""
    backbone = config.get("backbone")
    if config["run"] is None and backbone is None:
        instead = ", or backbone=NAME for the classes of its own weights" if "images" in config else ""
        raise ConfigError(f"run is required: run=RUN_FOLDER{instead}")
    if config["run"] is not None and backbone is not None:
        raise ConfigError(f"run={config['run']} and a backbone are two models: give one of them")
    if config["run"] is not None and config.get("classes") is not None:
        raise ConfigError("classes names those of a backbone, and a run knows its own: leave it out")


def _check_looked_at(config: dict[str, Any]) -> None:
    """Refuse what looking at a data set would ignore."""
    transforms = config.get("transforms")
    if config.get("backbone") and not transforms:
        raise ConfigError("backbone= only says what transforms start from here: add transforms=NAME, or leave it out")
    if transforms and (transforms["mixup_alpha"] or transforms["cutmix_alpha"]):
        raise ConfigError("transforms.mixup_alpha and cutmix_alpha mix several images, and one is drawn here: set 0")


def _check_transforms(transforms: dict[str, Any]) -> None:
    steps = transforms.get("train")
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "_target_" in step for step in steps):
        raise ConfigError("transforms.train: expected a list of steps, each with a _target_")
