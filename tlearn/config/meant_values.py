"""What was meant by a refused value: the line to type instead."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tlearn.config.arguments import is_readable
from tlearn.config.declared import option_keys, options_of
from tlearn.config.suggestions import Asked, did_you_mean
from tlearn.config.valid_values import NOTHING, is_path, rule_of, without
from tlearn.data.sources.base import SPLIT_NAMES
from tlearn.errors import in_shell, typed

# What others call a metric, without signs and the split before it
_METRICS = {
    **dict.fromkeys(("acc", "accuracy", "acc1", "top1acc", "top1accuracy", "accuracytop1"), "top1"),
    **dict.fromkeys(("acc5", "top5acc", "top5accuracy", "accuracytop5"), "top5"),
    **dict.fromkeys(("auc", "rocauc"), "auroc"),
    **dict.fromkeys(
        ("balancedaccuracy", "balancedacc", "bacc", "macroaccuracy", "meanaccuracy"), "class_mean_accuracy"
    ),
    **dict.fromkeys(("f1score", "macrof1", "f1macro", "fscore"), "f1"),
    **dict.fromkeys(("ce", "crossentropy", "nll", "logloss"), "loss"),
}
# What others call a device or a split
_CALLED = {
    "gpu": "cuda",
    **SPLIT_NAMES,
    "dev": "val",
    "eval": "val",
    "training": "train",
    "testing": "test",
    "holdout": "test",
}
_SPLIT = re.compile(
    r"(val|valid|validation|eval|dev|test|train|training)[\W_]+|(val|test|train)(?=[a-z])", re.IGNORECASE
)


def hint(key: str, value: Any, expected: str, asked: Asked) -> str:
    """Return what to type for a refused value, after a semicolon, or nothing."""
    raw, rule = asked.given.get(key), rule_of(key)
    if raw is None or rule is None:
        return ""
    if line := without(key, raw):
        return f"; did you mean {line}?"
    if key == "monitor.mode" and _says_its_end(asked):
        return "; did you mean monitor.mode=auto?"
    if is_path(key) and not isinstance(value, int | float):
        return f"; type {typed(key, raw)}" if raw and rule(raw) is None else ""
    if line := separated(key, raw):
        return f"; type {line}"
    if not isinstance(value, list | dict) and rule([value]) is None:
        return f"; type {in_shell(f'{key}=[{raw}]')}"
    choices = re.findall(r"one of ([\w, -]+?)(?: or |$)", expected)
    names = [name for one in choices for name in one.split(", ")]
    if (called := _CALLED.get(str(value).casefold())) in names:
        return f"; did you mean {key}={called}?"
    return did_you_mean(str(value), names, f"{key}={{}}") if isinstance(value, str) else ""


def option_name(asked: Asked) -> str | None:
    """Return what to type for the first group whose option is no name: a number, true, null or a mapping."""
    for key, raw in asked.given.items():
        options = options_of(key) if "." not in key else ()
        if options and not isinstance(OverridesParser.create().parse_override(f"{key}={raw}").value(), str | list):
            nothing = [one for one in options if one in NOTHING and raw.casefold() in NOTHING]
            meant = f"; did you mean {key}={nothing[0]}?" if nothing else ""
            return f"{key}={raw}: expected an option of {key}: {', '.join(options)}{meant}"
    return None


def separated(key: str, raw: str) -> str | None:
    """Return the list that other signs than commas were to part: [512;256], 512x256, 0.8/0.1/0.1."""
    parts = re.split(r"[\s;:|x/,]+", raw.strip("[](){} "))
    rule, line = rule_of(key), f"{key}=[{','.join(parts)}]"
    if rule is None or is_path(key) or len(parts) < 2 or not is_readable(line):
        return None
    return in_shell(line) if rule(OverridesParser.create().parse_override(line).value()) is None else None


def metric_line(key: str, name: str, nodes: Mapping[str, Any], split: str = "val") -> str:
    """Return the metrics that there are, and what was meant by a name that is none of them.

    Args:
        key: the key that asked for it.
        name: what was asked for.
        nodes: what is measured, by name, with the configuration of a metric.
        split: of which it is measured.
    """
    there = [one for one, node in nodes.items() if node]
    more = [one.removesuffix("._target_") for one in option_keys("metrics", "full") or {} if one.endswith("._target_")]
    names = {_bare(one): one for one in (*more, *there)}
    bare = _bare(_SPLIT.sub("", name.casefold(), count=1))
    bare = _bare(_METRICS.get(bare, bare))
    close = [bare] if bare in names else difflib.get_close_matches(bare, names, n=1)
    meant = "".join(
        f"; did you mean {'' if names[one] in there else 'metrics=full '}{key}={split}/{names[one]}?" for one in close
    )
    known = ", ".join(f"{split}/{one}{_needs(nodes[one])}" for one in there)
    others = " (metrics=full has more)" if not {*more} <= {*there} else ""
    return f"there are {known}{others}{meant}"


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _needs(node: Any) -> str:
    """Say how many classes a metric needs."""
    k = node.get("k", 1) if isinstance(node, Mapping) else 1
    return f" for more than {k} classes" if k > 1 else ""


def _says_its_end(asked: Asked) -> bool:
    """Return whether the metric that is monitored says which end is best, as all shipped ones do."""
    metric = asked.given.get("monitor.metric") or OmegaConf.select(asked.config, "monitor.metric") or ""
    name = str(metric).removeprefix("val/")
    return name == "loss" or f"{name}._target_" in (option_keys("metrics", "full") or {})
