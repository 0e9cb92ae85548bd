"""Compose the configuration of a program with every value checked, as its command line does before it runs."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from tlearn.config import rules
from tlearn.config.declared import PROGRAMS, SEVERAL, declared, known_keys, misplaced, program_groups
from tlearn.config.meant_values import hint
from tlearn.config.messages import plain_error
from tlearn.config.suggestions import Asked, did_you_mean, scalar, unknown_key
from tlearn.config.tree import compose_unchecked, plain
from tlearn.errors import ConfigError, typed
from tlearn.runs.trust import check_installed


def compose(
    overrides: Iterable[str] = (),
    program: str = "train",
    *,
    config_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
) -> DictConfig:
    """Compose and check the configuration of a program; nothing is run or written.

    Args:
        overrides: what would stand on the command line, such as `["backbone=resnet18", "data.batch_size=16"]`.
        program: train, evaluate, predict, explore, compare or bench.
        config_dir: a folder with option files of your own.
        output_dir: the run folder; None: a new one, as the command line would make it.

    Raises:
        ConfigError: what the command line would refuse, with its message.
    """
    if program not in PROGRAMS:
        raise ConfigError(f"program={program}: expected {', '.join(PROGRAMS)}{did_you_mean(program, PROGRAMS)}")
    arguments = override_list(overrides)
    try:
        return compose_checked(arguments, program, config_dir, output_dir)
    except Exception as error:
        raise plain_error(error, Asked(program, arguments, config_dir)) from None


def compose_checked(
    overrides: list[str], program: str, config_dir: str | Path | None, output_dir: str | Path | None = None
) -> DictConfig:
    """Do the work of `compose`, and raise the errors of Hydra and OmegaConf as they are."""
    config = compose_unchecked(overrides, program, config_dir)
    if output_dir is None:
        check_home("hydra.run.dir", str(config.hydra.run.dir))
    folder = Path(str(config.hydra.run.dir) if output_dir is None else output_dir)
    choices = config.hydra.runtime.choices
    if not isinstance(config.paths, DictConfig):
        raise ConfigError(f"paths={config.paths}: expected keys below it, such as paths.cache=FOLDER")
    check_run_folder(plain(config.paths, resolve=False))
    typed, sweep = Asked(program, overrides).given, choices.get("sweep")
    # A run of a search names one point of it.
    if sweep and (wanted := [key for key in config.hydra.sweeper.get("params") or {} if key not in typed]):
        raise ConfigError(f"sweep={sweep} searches {', '.join(wanted)}: add -m, or give a value of each")
    with open_dict(config):
        config.pop("hydra")
        config.paths.output_dir = str(folder.absolute())
    check_rules(plain(config), plain(config, resolve=False), choices, Asked(program, overrides, config_dir))
    return config


def check_home(key: str, folder: str) -> None:
    """Refuse a folder that Hydra would make under the name ~, as it does with one of an option file."""
    if (whole := os.path.expanduser(folder)) != folder:
        raise ConfigError(f"{key}={folder}: ~ is the home folder on a command line alone; give {typed(key, whole)}")


def check_run_folder(paths: Mapping[str, Any]) -> None:
    """Refuse another run folder than Hydra's, which makes it and writes to it, too; `paths` are unresolved."""
    given = paths.get("output_dir")
    if given != "${hydra:runtime.output_dir}":
        raise ConfigError(f"paths.output_dir={given}: the run folder is given as hydra.run.dir=FOLDER")


def check_rules(
    content: dict[str, Any], unresolved: dict[str, Any], choices: Mapping[str, str | None], asked: Asked
) -> None:
    """Refuse unknown keys and values of a wrong type or range, with what was meant.

    Args:
        content: the composed configuration.
        unresolved: the same with its references.
        choices: the option of each group.
        asked: how it was asked for.
    """
    known, referred = known_keys(asked.program), rules.references(unresolved)
    keys = declared(asked.program, choices, known)
    for key, raw in asked.given.items():
        if raw[:1] == "[" and key in program_groups(asked.program) and key not in SEVERAL:
            tried = "".join(raw.strip("[]").split())
            # Hydra would merge them, and the last would win.
            raise ConfigError(f"{key}={raw}: expected one option; a sweep tries several: -m {key}={tried}")
        is_node = "." in key and any(one.startswith(f"{key}.") for one in keys)
        if is_node and (told := scalar(key, asked)):
            raise ConfigError(told)
    try:
        if wrong := misplaced(asked.program, choices, content):
            raise rules.UnknownKeyError(wrong)
        rules.check(content, known, referred, keys)
        check_installed(content.get("trust") or [])
    except rules.UnknownKeyError as error:
        raise ConfigError(unknown_key(error.key, asked)) from None
    except rules.RefusedValueError as error:
        raise ConfigError(f"{error}{hint(error.key, error.value, error.expected, asked)}") from None


def override_list(overrides: Iterable[str]) -> list[str]:
    """Return overrides given in Python as a list.

    Raises:
        ConfigError: they are not a list of texts, or one is for a command line alone.
    """
    form = 'expected a list of texts such as ["backbone=resnet18", "optimizer.lr=0.01"]'
    if isinstance(overrides, str | bytes | Mapping) or not isinstance(overrides, Iterable):
        raise ConfigError(f"overrides={overrides!r}: {form}")
    found = list(overrides)
    for one in found:
        if not isinstance(one, str):
            raise ConfigError(f"{one!r} among the overrides: {form}")
        if one in ("-m", "--multirun") or one.startswith("hydra.mode="):
            raise ConfigError(f"{one} is for the command line: run a sweep as a loop, with one fit for each value")
        if one.startswith("--config-dir"):
            raise ConfigError(f"{one} is for the command line: give the folder as config_dir=")
        if one.startswith("-"):
            raise ConfigError(f"{one} is for the command line: {form}")
    return found
