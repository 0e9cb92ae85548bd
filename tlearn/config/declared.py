"""What each option file declares, and so which option or program has a key: read from conf/, not from a table."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tlearn.config.options import SWITCHES
from tlearn.config.options import option as option_without_file
from tlearn.config.tree import CONF_DIR

PROGRAMS = ("train", "evaluate", "predict", "explore", "compare", "bench")
# Groups of which several options may be chosen
SEVERAL = ("metrics", "callbacks", "logger")
_GLOBAL = re.compile(r"# @package _global_")


def keys_of(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key of plain data and its value, those of nodes too."""
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{name}.")


@cache
def _content(path: Path) -> dict[str, Any]:
    if _GLOBAL.match(path.read_text(encoding="utf-8")):
        return {}
    found: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return found if isinstance(found, dict) else {}


@cache
def option_keys(group: str, option: str) -> dict[str, Any] | None:
    """Return the dotted keys below a group that a shipped option and what it builds on declare; None for others."""
    file = CONF_DIR / group / f"{option}.yaml"
    node = _content(file) if file.is_file() else option_without_file(f"{group}/{option}")
    if node is None:
        return None
    found: dict[str, Any] = {}
    for parent in node.get("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            name = parent.partition("@")[0].removeprefix(f"/{group}/")
            found |= option_keys(group, name) or {}
    return found | {key: value for key, value in keys_of(node) if key != "defaults"}


@cache
def program_keys(program: str) -> frozenset[str]:
    """Return the dotted keys that the file of a program declares, with those of all programs."""
    files = (CONF_DIR / f"{program}.yaml", CONF_DIR / "common.yaml")
    return frozenset(key for file in files for key, _ in keys_of(_content(file)) if key != "defaults")


@cache
def _default_choices(program: str) -> dict[str, str | None]:
    listed = _content(CONF_DIR / f"{program}.yaml")["defaults"]
    return {group: option for one in listed if isinstance(one, dict) for group, option in one.items()}


def program_groups(program: str) -> tuple[str, ...]:
    """Return the groups of a program, but for those of set-ups, whose keys are other groups'."""
    return tuple(group for group in _default_choices(program) if group not in ("experiment", "debug", "sweep"))


@cache
def known_keys(program: str) -> list[str]:
    """List every key of a program's default configuration; without composing it, which takes a tenth of a second."""
    keys = declared(program, _default_choices(program), ())
    return sorted(key for key in keys if key.partition(".")[0] != "hydra")


def declared(program: str, choices: Mapping[str, str | None], known: Sequence[str]) -> set[str]:
    """Return every key that a program reads from the options that are chosen.

    Args:
        program: its name.
        choices: the option of each group.
        known: the keys of its default options, which options of your own may have, too.
    """
    found = set(program_keys(program))
    for group in program_groups(program):
        chosen = choices.get(group)
        if chosen is None:
            continue
        keys = option_keys(group, chosen)
        mine = (key for key in known if key.startswith(f"{group}."))
        found |= {group, *(mine if keys is None else (f"{group}.{key}" for key in keys))}
    return found


def misplaced(program: str, choices: Mapping[str, str | None], config: Mapping[str, Any]) -> str | None:
    """Return a key beside a shipped `_target_` that only other options of its group declare, or None."""
    for group in program_groups(program):
        chosen, node = choices.get(group), config.get(group)
        keys = option_keys(group, chosen) if chosen and group not in SEVERAL else None
        if keys is None or not isinstance(node, dict):
            continue
        found = dict(keys_of(node))
        for key in found:
            target = f"{key.rpartition('.')[0]}._target_".lstrip(".")
            is_shipped = target in found and found[target] == keys.get(target)
            if is_shipped and key not in keys and holders(group, key):
                return f"{group}.{key}"
    return None


@cache
def options_of(group: str) -> tuple[str, ...]:
    """Return the shipped options of a group; of the backbones by name one, which has the keys of all."""
    files = (path.relative_to(CONF_DIR / group) for path in sorted((CONF_DIR / group).rglob("*.yaml")))
    named = ["resnet18"] if group == "backbone" else SWITCHES.get(group, {})
    return (*(path.with_suffix("").as_posix() for path in files), *named)


def holders(group: str, key: str, last: bool = False) -> list[tuple[str, str]]:
    """Return the options of a group that declare a key below it, and the key; with `last`, any that ends so."""
    found = []
    for option in options_of(group):
        for one in option_keys(group, option) or {}:
            if one == key or (last and one.rpartition(".")[2] == key):
                found.append((option, one))
    return found


def programs_with(key: str) -> list[str]:
    """Return the programs that read a key, with one option or another."""
    group, _, below = key.partition(".")
    return [
        program
        for program in PROGRAMS
        if key in program_keys(program)
        or key in program_groups(program)
        or (group in program_groups(program) and below and holders(group, below))
    ]
