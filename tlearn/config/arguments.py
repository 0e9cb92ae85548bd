"""The arguments of a command line before Hydra reads them: paths and patterns are text, and ~ is the home folder."""

import os
from collections.abc import Collection, Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tlearn.config.valid_values import is_path
from tlearn.errors import quoted

# Keys whose values are text whatever they look like: Hydra would parse the brackets of a regular expression.
_TEXTS = ("data.pattern",)
# Folders that Hydra makes itself, without a look at ~
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
_CONFIG_DIR = ("--config-dir", "-cd")
_QUOTES = ("'", '"')


def overridden(argument: str) -> tuple[str, str]:
    """Return the key and the value of KEY=VALUE as they were typed, without a plus or a tilde."""
    key, _, value = argument.partition("=")
    return key.strip().lstrip("+~"), value


def key_of(argument: str) -> str:
    """Return the key of an override."""
    return overridden(argument)[0]


def is_readable(argument: str) -> bool:
    """Return whether Hydra can parse an override."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def is_sweep(arguments: Collection[str]) -> bool:
    """Return whether arguments ask for several runs."""
    return "-m" in arguments or "--multirun" in arguments


def readable(arguments: Iterable[str]) -> list[str]:
    """Quote what can only be text, where a shell has taken the quotes away, and expand ~ where Hydra would not."""
    given = list(arguments)
    sweeps = is_sweep(given)
    before = ["", *given]
    return [_readable(one, sweeps, previous) for one, previous in zip(given, before, strict=False)]


def _readable(argument: str, sweeps: bool, previous: str) -> str:
    typed, equals, value = argument.partition("=")
    if previous in _CONFIG_DIR:
        return os.path.expanduser(argument)
    if equals and typed in _CONFIG_DIR:
        return f"{typed}={os.path.expanduser(value)}"
    key, bare = typed.lstrip("+"), value[:1] not in _QUOTES and value[-1:] not in _QUOTES
    if key in _TEXTS and value and value[0] not in _QUOTES:
        return f"{typed}={quoted(value)}"
    if key in _FOLDERS and value.lstrip("'\"").startswith("~"):
        inner = value if bare else value[1:-1]
        return f"{typed}={quoted(os.path.expanduser(inner))}"
    # Of several values of a sweep, each has quotes of its own.
    is_text = equals and bare and not (sweeps and "," in value) and (key in _FOLDERS or is_path(key))
    return f"{typed}={quoted(value)}" if is_text and not is_readable(argument) else argument
