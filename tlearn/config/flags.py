"""The flags of a command line, parsed as Hydra will parse them."""

import argparse
from itertools import pairwise
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from tlearn.config.suggestions import Asked, flag
from tlearn.errors import ConfigError, in_shell


def parsed(config_name: str, arguments: list[str]) -> argparse.Namespace:
    """Parse arguments as Hydra will; raise ConfigError where argparse would print its usage and exit."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        if message.startswith("ambiguous option: --config "):
            message = "--config is not a flag: a file of options is FOLDER/experiment/NAME.yaml, in --config-dir FOLDER"
        raise ConfigError(f"{message}: see --help")

    parser.error = refuse  # type: ignore[method-assign]
    namespace, others = parser.parse_known_args(arguments)
    # A flag of Hydra's that does nothing here, but a key of ours
    own = [one for one, value in pairwise(arguments) if one == "--run" and "=" not in value]
    if others := [*own, *others]:
        if told := flag(arguments, others, Asked(config_name)):
            raise ConfigError(told)
        # argparse takes KEY=VALUE arguments before a flag or after it, but not both.
        line = sorted(arguments, key=lambda one: one in (*namespace.overrides, *others))
        raise ConfigError(f"flags go first: python -m tlearn.{config_name} {' '.join(map(in_shell, line))}")
    return namespace
