"""The text of --help, read from the comments in conf/: of each program, group and key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlearn.config.options import SWITCHES


@dataclass(frozen=True)
class Comments:
    """The comments of one file.

    Args:
        header: the lines that it opens with.
        groups: what stands above each group of its defaults list.
        keys: the first line of what stands above each dotted key.
        parents: the other files of its folder that it builds on.
    """

    header: list[str] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    parents: list[str] = field(default_factory=list)


def read_comments(path: Path) -> Comments:
    """Read the comments of a YAML file whose keys are indented by two spaces a level."""
    found = Comments()
    stack: list[str] = []
    above: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        words, depth = line.strip(), (len(line) - len(line.lstrip())) // 2
        if words.startswith("#"):
            if number == len(found.header):
                found.header.append(words.lstrip("# "))
            else:
                above = above or words.lstrip("# ")
        elif key := re.match(r"([\w.]+):", words):
            stack[depth:] = [key[1]]
            if above:
                found.keys[".".join(stack)] = above
            above = None
        elif stack == ["defaults"] and (item := re.fullmatch(r"- (\w+)(: .*)?", words)):
            if item[2] is None and item[1] != "_self_":
                found.parents.append(item[1])
            elif above:
                found.groups[item[1]] = above
            above = None
        else:
            above = None
    return found


def key_meanings(program: str, choices: dict[str, str | None], folders: Sequence[Path]) -> dict[str, str]:
    """Return the comment of each dotted key, chosen options first.

    Args:
        program: whose own file says more than any option.
        choices: the option of each group.
        folders: conf/, and the user's own.
    """
    found: dict[str, str] = {}
    for group, option in choices.items():
        files = {
            path.stem: read_comments(path) for folder in folders for path in sorted((folder / group).glob("*.yaml"))
        }
        for one in (*files, *_ancestry(group, str(option), files)):
            found |= {f"{group}.{key}": meaning for key, meaning in files[one].keys.items()}
    own = read_comments(folders[0] / f"{program}.yaml")
    for name in (*own.parents, program):
        found |= read_comments(folders[0] / f"{name}.yaml").keys
    return found


def _ancestry(group: str, option: str, files: dict[str, Comments]) -> list[str]:
    """List the files that an option is composed of, the most general first."""
    if option not in files:
        parents = SWITCHES.get(group, {}).get(option, {}).get("defaults", [])
        return [name for name in parents if name in files]
    return [*(name for parent in files[option].parents for name in _ancestry(group, parent, files)), option]
