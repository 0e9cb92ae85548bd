"""Paths that stand alone on the command line, as a shell expands pics/*.jpg, in the place of images=."""

import os

from tlearn.config.arguments import key_of
from tlearn.config.declared import known_keys
from tlearn.errors import ConfigError, quoted


def with_images(arguments: list[str], overrides: list[str]) -> list[str]:
    """Return the arguments of predict with one `images=[...]` for all paths that stand alone, in their order.

    Args:
        arguments: the command line.
        overrides: what stands in it besides flags and their values.

    Raises:
        ConfigError: images= is given, too.
    """
    paths = [one for one in overrides if _is_path(one)]
    if not paths:
        return arguments
    others = [one for one in overrides if not _is_path(one)]
    if any(one.lstrip("+").startswith("images=") for one in others):
        raise ConfigError(f"{paths[0]} stands alone, and images= is given, too: give all paths in one of both ways")
    return replaced(arguments, overrides, [*others, f"images=[{','.join(map(quoted, paths))}]"])


def replaced(arguments: list[str], overrides: list[str], new: list[str]) -> list[str]:
    """Return arguments with other overrides, which go behind the flags."""
    if overrides == new:
        return arguments
    flags = list(arguments)
    for one in reversed(overrides):
        del flags[-1 - flags[::-1].index(one)]
    return [*(one for one in flags if one != "--"), *new]


def _is_path(argument: str) -> bool:
    """Return whether an argument is no override: it has no `=`, or names a file, and is not a key of predict."""
    if argument.startswith("hydra") or not ("=" not in argument or os.path.lexists(argument)):
        return False
    return key_of(argument) not in known_keys("predict")
