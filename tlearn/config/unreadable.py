"""What to type for arguments that Hydra cannot read, or reads as several values."""

import os
import re

from hydra.core.override_parser.overrides_parser import OverridesParser

from tlearn.config.arguments import is_readable, overridden
from tlearn.config.meant_values import separated
from tlearn.config.suggestions import Asked, unknown_key
from tlearn.config.valid_values import is_path, rule_of
from tlearn.errors import in_shell, quoted, typed

# What a path alone most likely is
_PATHS = {"train": "data.root", "explore": "data.root", "evaluate": "run", "predict": "images", "compare": "runs"}


def unreadable(argument: str, asked: Asked) -> str:
    """Say why an argument cannot be read, with the line to type."""
    said = f"cannot read the argument {argument}"
    if "=" not in argument:
        return f"{said}: {_without_equals(argument, asked)}"
    stripped = "=".join(part.strip() for part in argument.split("=", 1))
    if stripped != argument and is_readable(stripped):
        return f"{said}: no blanks go around =, so type {in_shell(stripped)}"
    key, value = overridden(argument)
    if not is_known(key, asked):
        return unknown_key(key, asked)
    plus = "+" if argument.startswith("+") or (key not in asked.keys and key.startswith("extra.")) else ""
    if line := _completed(plus + key, value) or separated(key, value):
        return f"{said}: type {line}"
    # A quote at one end alone is one too many.
    text = value.strip("'\"") if value.count("'") % 2 or value.count('"') % 2 else value
    text = text if text[:1] == value[:1] or text[-1:] == value[-1:] or text else value
    if (rule := rule_of(key)) and (expected := rule(text)):
        return f"{said}: expected {expected}"
    return f"{said}: {_reason(value)}; type {typed(plus + key, text)}"


def is_known(key: str, asked: Asked) -> bool:
    """Return whether a key may be given, a plus aside."""
    return key in asked.keys or key.partition(".")[0] in ("hydra", "extra") or rule_of(key) is not None


def _completed(key: str, value: str) -> str | None:
    """Return the list or dictionary that a value was meant to be, if closing it is enough."""
    if is_path(key.lstrip("+")) or value[:1] not in ("[", "{", "("):
        return None
    tries = [f"[{value[1:-1]}]"] if value[0] == "(" else [value + end for end in ("]", "}", "]}", "}]")]
    return next((in_shell(f"{key}={one}") for one in tries if is_readable(f"{key}={one}")), None)


def _reason(value: str) -> str:
    if value.count("'") % 2 or value.count('"') % 2:
        return "a quote has no other"
    found = [("blanks" if one == " " else one) for one in dict.fromkeys(re.findall(r"[^\w/.+@?|$%*:\\-]", value))]
    return f"quotes are needed around {' '.join(found)}" if found else "quotes are needed"


def _without_equals(argument: str, asked: Asked) -> str:
    """Say what an argument without = was meant to be."""
    given = list(asked.overrides)
    place = given.index(argument) if argument in given else 0
    before, after = given[place - 1] if place else "", [*given[place + 1 :], "", ""]
    if before.endswith("="):
        return f"no blank goes after =, so type {in_shell(before + argument)}"
    value = after[1] if after[0] == "=" else after[0].removeprefix("=")
    if is_known(argument, asked) and value:
        return f"no blanks go around =, so type {in_shell(f'{argument}={value}')}"
    if value:
        return unknown_key(argument, asked)
    key, _, start = before.partition("=")
    if is_path(key) and os.path.exists(f"{start} {argument}"):
        return f"a blank needs quotes, so type {typed(key, f'{start} {argument}')}"
    key, colon, value = argument.partition(":")
    if colon and is_known(key, asked):
        return f"type {in_shell(f'{key}={value}')}"
    if is_known(argument, asked):
        return f"write KEY=VALUE, as {argument}=..."
    if asked.program in _PATHS and ("/" in argument or os.path.exists(argument)):
        key = _PATHS[asked.program]
        line = Asked(asked.program, [f"{key}={argument}"], asked.config_dir).line(key, key)
        return f"a path needs its key, such as {line}"
    return "write KEY=VALUE"


def several(argument: str, asked: Asked) -> str:
    """Say what to type for an argument that gives several values where one run is asked for."""
    key, value = overridden(argument)
    if not is_known(key, asked):
        return unknown_key(key, asked)
    rule, lines = rule_of(key), [f"a sweep is python -m tlearn.{asked.program} -m {in_shell(argument)}"]
    listed = f"{key}=[{value}]"
    if rule and is_readable(listed) and rule(OverridesParser.create().parse_override(listed).value()) is None:
        lines.append(f"a list is {in_shell(listed)}")
    if rule and key in asked.keys and rule(value) is None:
        lines.append(f"a text with a comma is {in_shell(f'{key}={quoted(value)}')}")
    return f"{argument} gives several values, and one run takes one: {', '.join(lines)}"
