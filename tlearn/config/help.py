"""The --help page of a program: purpose, groups of options, and its own options with defaults and meanings."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlearn.config.comments import key_meanings, read_comments
from tlearn.config.options import SWITCHES, TORCHVISION
from tlearn.config.programs import PROGRAMS
from tlearn.config.tree import CONF_DIR, compose_unchecked

_WIDTH, _COLUMN = 80, 32
# Trainer settings that an evaluation inherits and does not use
_OF_TRAINING = re.compile(
    r"trainer\.(max_epochs|check_val_every_n_epoch|val_check_interval|accumulate_grad_batches|gradient_clip_val"
    r"|log_every_n_steps|num_sanity_val_steps)"
)
_TEXT = """\
usage: python -m tlearn.{program}{usage} [KEY=VALUE ...]

{purpose}

{examples}
{groups}Options: KEY=VALUE
{options}
-m KEY=A,B runs a trial for each value. hydra.run.dir=FOLDER chooses the run
folder, --config-dir FOLDER adds option files of your own, --cfg job prints the
whole configuration, --version the version.
Exit status: 0 done, 1 bug in tlearn or in your own code, 2 configuration,
3 data, 4 checkpoint or output, 5 download, 6 diverged training, 7 part of a
sweep failed, 8 out of memory, 129, 130 and 143 after a signal.
HYDRA_FULL_ERROR=1 shows an error's full trace.
"""


def help_text(program: str, overrides: Sequence[str], config_dir: str | None, name: str = "") -> str:
    """Describe a program and its options, with the values that they have after the overrides.

    `name` is that of a program which takes the options of another.
    """
    folders = [CONF_DIR, *([Path(config_dir)] if config_dir else [])]
    config = compose_unchecked(overrides, program, config_dir)
    choices = dict(config.hydra.runtime.choices)
    del config.hydra
    own = read_comments(CONF_DIR / f"{program}.yaml")
    groups = [
        line
        for group, purpose in own.groups.items()
        for line in _entry(group, choices.get(group), f"{purpose}: {_options(program, group, folders)}")
    ]
    meanings = key_meanings(program, {group: choices.get(group) for group in own.groups}, folders)
    values = [(key, value) for key, value in _leaves(config) if key in meanings]
    if program != "train":
        values = [(key, value) for key, value in values if not _OF_TRAINING.fullmatch(key)]
    # Options outside of groups come first, except paths and notes.
    order = ["", *own.groups, "paths", "extra"]
    values.sort(key=lambda entry: order.index(top) if (top := entry[0].partition(".")[0]) in order else 0)
    return _TEXT.rstrip("\n").format(
        program=name or program,
        usage=" [GROUP=OPTION ...]" if groups else "",
        purpose=PROGRAMS[name or program],
        examples="".join(f"  {line}\n" for line in own.header[1:]).replace(
            f"tlearn.{program}", f"tlearn.{name or program}"
        ),
        groups="\n".join(["Groups: GROUP=OPTION", *groups, "", ""]) if groups else "",
        options="".join(f"{line}\n" for key, value in values for line in _entry(key, value, meanings[key])),
    )


def _entry(name: str, value: Any, text: str) -> Iterator[str]:
    """Yield `name=value` and its meaning, side by side or below each other."""
    left = f"  {name}={_shown(value)}"
    right = textwrap.wrap(text, _WIDTH - _COLUMN, break_long_words=False, break_on_hyphens=False)
    if len(left) > _COLUMN - 2:
        yield left
        left = ""
    for line in right:
        yield f"{left:<{_COLUMN}}{line}"
        left = ""


def _shown(value: Any) -> str:
    """Write a value as it is typed on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "..." if value == "???" else str(value)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key and its value; references are resolved where they can be."""
    for name, value in node.items_ex(resolve=False):
        if isinstance(value, DictConfig) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, Container):
            yield f"{prefix}{name}", OmegaConf.to_container(value)
        else:
            with suppress(OmegaConfBaseException):
                value = node[name]
            yield f"{prefix}{name}", value


def _options(program: str, group: str, folders: Sequence[Path]) -> str:
    """List the options of a group, the backbones by families."""
    files = [path for folder in folders for path in folder.glob(f"{group}/*.yaml") if _is_for(program, path)]
    names = sorted({*(path.stem for path in files), *SWITCHES.get(group, {})})
    return ", ".join([*names, *_families(), "timm/NAME"] if group == "backbone" else names)


def _is_for(program: str, path: Path) -> bool:
    """Return whether to list an option: one of an experiment is not, nor an experiment of another program."""
    if path.parent.name != "experiment":
        return not (path.parent.parent / "experiment" / path.name).is_file()
    programs = re.findall(r"python -m tlearn\.(\w+)", path.read_text(encoding="utf-8"))
    return not programs or program in programs


def _families() -> list[str]:
    """List torchvision's classifiers by the prefixes of their names."""
    families = [re.match("wide_resnet|[a-z]+", name)[0] for name in TORCHVISION]  # type: ignore[index]
    alone = {family: name for family, name in zip(families, TORCHVISION, strict=True) if families.count(family) == 1}
    return [alone.get(family, f"{family}*") for family in dict.fromkeys(families)]
