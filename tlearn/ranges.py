"""Checks of single values, and the ranges shared by configuration and constructors."""

import math
import re
import string
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from tlearn.errors import ConfigError

# Returns None for a valid value, else a description of valid values.
Check = Callable[[Any], str | None]


def _is_whole(value: Any) -> bool:
    # 64 bits are what any library takes.
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def number(
    low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf, below: float = math.inf
) -> Check:
    """Accept finite numbers from `low` to `high` that are greater than `above` and less than `below`."""
    return _within("a number", _is_number, low, high, above, below)


def integer(low: float = -math.inf, high: float = math.inf) -> Check:
    """Accept whole numbers from `low` to `high`."""
    return _within("a whole number", _is_whole, low, high)


def _within(
    kind: str,
    is_kind: Callable[[Any], bool],
    low: float,
    high: float,
    above: float = -math.inf,
    below: float = math.inf,
) -> Check:
    limits = ((">=", low), (">", above), ("<=", high), ("<", below))
    bounds = " and ".join(f"{sign} {limit}" for sign, limit in limits if abs(limit) < math.inf)
    expected = f"{kind} {bounds}".strip()
    return lambda value: None if is_kind(value) and low <= value <= high and above < value < below else expected


def text(value: Any) -> str | None:
    """Accept strings that are not empty."""
    return None if isinstance(value, str) and value else "a text"


def package(value: Any) -> str | None:
    """Accept names of top-level packages."""
    return None if isinstance(value, str) and value.isidentifier() else "the name of a package, such as mylab"


def path(value: Any) -> str | None:
    """Accept file names."""
    if _is_number(value):
        # 2024.10 would already have lost its zero.
        return f"a path (write ./{value} for a file of that name)"
    return None if isinstance(value, str) and value else "a path"


def file_stem(value: Any) -> str | None:
    """Accept names of files without a folder."""
    return text(value) or ("a file name without a folder" if "/" in value or "\\" in value else None)


def keys(value: Any) -> str | None:
    """Accept what has keys below it."""
    return None if isinstance(value, dict) and value else "keys below it and not a value"


def file_name(expected: str, *endings: str) -> Check:
    """Accept file names with one of these endings in any case; an empty one stands for none."""
    return lambda value: (
        path(value) or (expected if value.endswith("/") or PurePath(value).suffix.lower() not in endings else None)
    )


def boolean(value: Any) -> str | None:
    """Accept true and false."""
    return None if isinstance(value, bool) else "true or false"


def anything(value: Any) -> str | None:
    """Accept what the constructor that receives it will check."""
    return None


def one_of(*choices: Any) -> Check:
    """Accept the given values only."""
    expected = "one of " + ", ".join(map(str, choices))
    return lambda value: None if value in choices and not isinstance(value, bool) else expected


def optional(check: Check) -> Check:
    """Accept null too."""
    return lambda value: None if value is None or (expected := check(value)) is None else f"{expected} or null"


def either(*checks: Check) -> Check:
    """Accept what one of the checks accepts."""

    def check(value: Any) -> str | None:
        answers = [one(value) for one in checks]
        return None if None in answers else " or ".join(map(str, answers))

    return check


def list_of(check: Check, length: int | None = None) -> Check:
    """Accept sequences of `length` values that the check accepts."""

    def checked(value: Any) -> str | None:
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        if is_list and length in (None, len(value)) and all(check(item) is None for item in value):
            return None
        item = next((check(item) for item in (value if is_list else [value]) if check(item)), "")
        return f"a list of {length or 'any number of'} values" + (f", each {item}" if item else "")

    return checked


def fractions(value: Any) -> str | None:
    """Accept the parts of train, val and test."""
    wrong = list_of(FRACTION, 3)(value)
    return wrong or (None if value[0] > 0 and abs(sum(value) - 1) <= 1e-6 else "3 values that sum to 1, the first > 0")


def descending(value: Any) -> str | None:
    """Accept numbers >= 0 from the largest to the smallest, one at least."""
    wrong = list_of(number(0))(value)
    falls = not wrong and len(value) > 0 and all(one >= other for one, other in pairwise(value))
    return wrong or (None if falls else "one value or more, from the strongest to the weakest")


def sha256(value: Any) -> str | None:
    """Accept a digest or how it starts."""
    known = isinstance(value, str) and 8 <= len(value) <= 64 and set(value) <= set(string.hexdigits)
    return None if known else "8 to 64 hex digits"


def label_pattern(value: Any) -> str | None:
    """Accept regular expressions with a group named label."""
    try:
        known = isinstance(value, str) and "label" in re.compile(value).groupindex
    except re.error:
        known = False
    return None if known else "a regular expression with a group (?P<label>...)"


def encoding(value: Any) -> str | None:
    """Accept names of encodings of text."""
    try:
        # Not codecs.lookup: it knows encodings of bytes, too.
        "".encode(value)
    except (LookupError, TypeError, ValueError):
        return "an encoding that Python knows, such as utf-8, cp1252 or cp932"
    return None


COUNT = integer(1)
# Images of a class, each of which is drawn
DRAWN = integer(1, 100_000)
FRACTION = number(0, 1)
# By the key that a configuration gives the value; what a constructor of tlearn takes is the same.
RANGES: dict[str, Check] = {
    "data.alpha_background": list_of(integer(0, 255), 3),
    "data.bit_depth": integer(8, 16),
    "data.encoding": encoding,
    "data.high_bit_depth": one_of("error", "scale"),
    "data.layout": one_of("auto", "classes", "splits", "nested"),
    "data.max_pixels": integer(1),
    "data.pattern": label_pattern,
    "data.sha256": sha256,
    "data.split.fractions": fractions,
    "data.split.val_fraction": number(above=0, below=1),
    "data.unlabelled_test": one_of("ignore", "error"),
    # A side beyond these would take gigabytes for each image.
    "transforms.resize": integer(1, 2**14),
    "transforms.size": integer(1, 2**14),
    "transforms.interpolation": one_of("nearest", "nearest-exact", "bilinear", "bicubic"),
    "transforms.mean": list_of(number(), 3),
    "transforms.std": list_of(number(above=0), 3),
    "transforms.fit": one_of("crop", "squash", "pad"),
    "transforms.average": list_of(one_of("crop", "flip", "squash", "pad")),
    "backbone.pooling": one_of("avg", "max", "avgmax"),
    "head.hidden": list_of(integer(1)),
    "head.dropout": FRACTION,
    "loss.label_smoothing": FRACTION,
    "loss.weight": optional(list_of(number(0))),
    "module.weight_decays": descending,
    "callbacks.last.every_seconds": number(0),
    "callbacks.prepare_head.weight_decays": list_of(number(0)),
    "trust": list_of(package),
    "topk": integer(1),
    "batch_size": integer(1),
    "num_workers": optional(integer(0)),
    "device": one_of("auto", "cpu", "cuda"),
}


def require(key: str, value: Any, check: Check | None = None) -> None:
    """Raise ConfigError, with what was expected, for a value that its range (in `RANGES` by default) does not hold."""
    if expected := (check or RANGES[key])(value):
        raise ConfigError(f"{key}={value}: expected {expected}")
