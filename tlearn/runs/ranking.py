"""Runs in the order of a metric: those that differ only in their seed as one, settings by short names, four digits."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tlearn.analysis.direction import direction

# What tables show first
MAIN_METRICS = ("val/top1", "val/loss", "test/top1", "test/loss", "time/fit_s")
_WORDS = {"time/fit_s": "fit (s)", "time/total_s": "total (s)"}
_WIDEST = 24
# With more settings than this, a table has no column for each.
MOST_SETTINGS = 6
# Ends of dotted keys that say nothing without what they belong to
_VAGUE = ("name", "metric", "mode")


@dataclass(frozen=True)
class Entry:
    """A finished run in a ranking.

    Args:
        name: as tables call it.
        settings: what sets it apart, by dotted keys; one is called seed.
        metrics: its results.
    """

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """Entries that differ in nothing but their seed, the best first.

    Args:
        settings: what to show of what they share.
        entries: the runs.
    """

    settings: Mapping[str, Any]
    entries: Sequence[Entry]

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric over the seeds; None where no entry has it."""
        values = self.values(metric)
        return math.fsum(values) / len(values) if values else None

    def spread(self, metric: str) -> float | None:
        """Return the sample standard deviation of a metric over the seeds; None with fewer than two values."""
        values = self.values(metric)
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return None
        mean = math.fsum(values) / len(values)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))

    def values(self, metric: str) -> list[float]:
        """Return a metric of each entry that has it."""
        return [entry.metrics[metric] for entry in self.entries if metric in entry.metrics]

    def is_finite(self, metric: str) -> bool:
        """Return whether the mean of a metric is a number that can be drawn and be the best."""
        mean = self.mean(metric)
        return mean is not None and math.isfinite(mean)

    def text(self, metric: str) -> str:
        """Write a metric: `0.9120 ± 0.0040`, or its value alone where there is one seed."""
        mean, spread = self.mean(metric), self.spread(metric)
        text = "" if mean is None else four_digits(mean)
        return text if spread is None else f"{text} \N{PLUS-MINUS SIGN} {as_precise_as(text, spread)}"

    def words(self, metric: str) -> str:
        """Say what the group is and what it reached: `head=mlp, lr=0.01: val top-1 0.9120 ± 0.0040 (3 seeds)`."""
        reached = f"{metric_words(metric)} {self.text(metric)}"
        seeds = f" ({len(self.entries)} seeds)" if len(self.entries) > 1 else ""
        return ": ".join(filter(None, (settings_words(self.settings), reached + seeds)))


def ranked(entries: Sequence[Entry], metric: str | None, mode: str = "auto") -> list[Group]:
    """Take seeds together and put the best mean of a metric first; without a metric the order stays.

    `mode` says which end of it is best: min, max, or auto as its name says. Where more than `MOST_SETTINGS` settings
    differ, a group shows those that most others do not share.
    """
    together: dict[str, list[Entry]] = {}
    seen: Counter[str] = Counter()
    for entry in (
        sorted(entries, key=lambda entry: rank_key(entry.metrics.get(metric), metric, mode)) if metric else entries
    ):
        settings = json.dumps(_unseeded(entry), default=str)
        one = f"{settings} {entry.settings.get('seed')}"
        seen[one] += 1
        # The same seed once more is another row: it would make the spread too small.
        together.setdefault(f"{seen[one]} {settings}", []).append(entry)
    settings_of = [_unseeded(found[0]) for found in together.values()]
    names = dict.fromkeys(name for settings in settings_of for name in settings)
    usual = {name: Counter(settings.get(name) for settings in settings_of).most_common(1)[0][0] for name in names}
    groups = [
        Group(
            {key: value for key, value in settings.items() if len(names) <= MOST_SETTINGS or value != usual[key]}, found
        )
        for settings, found in zip(settings_of, together.values(), strict=True)
    ]
    return sorted(groups, key=lambda group: rank_key(group.mean(metric), metric, mode)) if metric else groups


def _unseeded(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in entry.settings.items() if key != "seed"}


def rank_key(value: float | None, metric: str, mode: str = "auto") -> float:
    """Return the sort key that puts the best value of a metric first, and none or NaN last."""
    if value is None or not math.isfinite(value):
        return math.inf
    return value if direction(metric, mode) == "min" else -value


def metric_order(name: str) -> tuple[int, str]:
    """Return the sort key that puts the main metrics first, then those of val, of test, and others."""
    first = (*MAIN_METRICS, "val/", "test/", "params/", "time/")
    return next((place for place, start in enumerate(first) if name.startswith(start)), len(first)), name


def entry_names(entries: Sequence[Entry], most: int = 1) -> str:
    """Name entries: numbers as ranges, of other names the first ones and how many more there are."""
    names = [entry.name for entry in entries]
    if all(name.isdecimal() for name in names):
        return number_ranges(map(int, names))
    more = f" +{len(names) - most}" if len(names) > most else ""
    return ", ".join(shortened(name, 30) for name in names[:most]) + more


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Name settings by the end of their dotted keys, as far as it tells them apart: lr for optimizer.lr."""
    names = list(names)
    parts = {name: name.split(".") for name in names}

    def end(name: str, length: int) -> str:
        return ".".join(parts[name][-length:])

    def is_clear(name: str, length: int) -> bool:
        if parts[name][-length].startswith("_") or end(name, length) in _VAGUE:
            return False
        return all(end(name, length) != end(other, length) for other in names if other != name)

    return {name: next((end(name, n) for n in range(1, len(parts[name])) if is_clear(name, n)), name) for name in names}


def settings_words(settings: Mapping[str, Any], brief: bool = False) -> str:
    """Write settings as a line: `head=mlp, lr=0.01`, or briefly `mlp, lr=0.01`."""
    short = short_names(settings)

    def written(name: str, value: Any) -> str:
        # An option says by its name what it is.
        alone = brief and "." not in name and value != "null"
        return setting_text(value) if alone else f"{short[name]}={setting_text(value)}"

    return ", ".join(written(name, value) for name, value in settings.items() if value is not None)


def setting_text(value: Any) -> str:
    """Write a setting: a long number with four digits, a long text without its middle."""
    if value is None:
        return ""
    try:
        return f"{float(str(value)):.4g}" if len(str(value)) > 8 else str(value)
    except ValueError:
        return shortened(str(value), _WIDEST)


def shortened(text: str, most: int) -> str:
    """Leave out the middle of a long text."""
    end = most // 2
    return text if len(text) <= most else f"{text[: most - end - 1]}\N{HORIZONTAL ELLIPSIS}{text[-end:]}"


def metric_words(metric: str) -> str:
    """Write the name of a metric as text: `val top-1`."""
    return _WORDS.get(metric) or re.sub(r"\btop(\d+)", r"top-\1", metric.replace("/", " ").replace("_", " "))


def four_digits(value: float) -> str:
    """Write a number with the four digits that matter, and a whole one in full."""
    if isinstance(value, int) or abs(value) >= 9_999.5:
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")


def as_precise_as(text: str, value: float) -> str:
    """Write a number with the decimals that another has."""
    return f"{value:.1e}" if "e" in text else f"{value:.{len(text.partition('.')[2])}f}"


def number_ranges(numbers: Iterable[int]) -> str:
    """Write numbers in order with those that follow each other as ranges: `0-2, 5`."""
    ordered = sorted(numbers)
    gaps = [place for place, (one, following) in enumerate(pairwise(ordered), 1) if following != one + 1]
    runs = [ordered[start:end] for start, end in pairwise([0, *gaps, len(ordered)])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
