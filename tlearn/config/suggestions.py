"""What was meant by a mistyped key, option or flag: the line to type instead."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from tlearn.config.arguments import overridden
from tlearn.config.declared import holders, keys_of, program_groups, programs_with
from tlearn.config.tree import compose_unchecked
from tlearn.config.valid_values import SEATS, without
from tlearn.errors import in_shell

# What other frameworks call a key, where its last part does not tell; the first that a program has counts.
SYNONYMS = {
    **dict.fromkeys(("learning_rate", "base_lr"), ("optimizer.lr",)),
    "wd": ("optimizer.weight_decay",),
    **dict.fromkeys(("epochs", "epoch", "num_epochs", "n_epochs"), ("trainer.max_epochs",)),
    **dict.fromkeys(("gpus", "num_gpus"), ("trainer.devices",)),
    "device": ("trainer.accelerator",),
    **dict.fromkeys(("batch", "bs", "batchsize"), ("data.batch_size", "batch_size")),
    **dict.fromkeys(("workers", "threads"), ("data.num_workers", "num_workers")),
    **dict.fromkeys(("root", "data_dir", "data_root", "data_path", "path"), ("data.root", "images")),
    **dict.fromkeys(("img_size", "image_size", "imgsz"), ("transforms.size", "size")),
    **dict.fromkeys(("model", "arch", "architecture", "net", "network", "model_name"), ("backbone", "run")),
    **dict.fromkeys(("weights", "weight"), ("backbone.weights",)),
    **dict.fromkeys(("checkpoint", "ckpt", "ckpt_path", "resume_from"), ("resume", "run")),
    **dict.fromkeys(("augmentation", "augment", "transform"), ("transforms",)),
    **dict.fromkeys(("opt", "optim", "optimiser"), ("optimizer",)),
    "sched": ("scheduler",),
    "dataset": ("data",),
    **dict.fromkeys(("val_split", "val_size"), ("data.split.val_fraction",)),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "log_dir"), ("output", "hydra.run.dir")),
    "out": ("output", "hydra.run.dir"),
    **dict.fromkeys(("sort", "sort_by"), ("metric",)),
    "top_k": ("topk",),
}
# From here on two keys are one with a slip
_SLIP = 0.93


@dataclass(frozen=True)
class Asked:
    """A command line, to explain what is wrong with it.

    Args:
        program: its name.
        overrides: its arguments without flags.
        config_dir: a folder with option files of your own.
    """

    program: str
    overrides: Sequence[str] = ()
    config_dir: str | Path | None = None

    @cached_property
    def given(self) -> dict[str, str]:
        """The values as they were typed, by key."""
        return {key: value for one in self.overrides for key, value in [overridden(one)]}

    @cached_property
    def config(self) -> DictConfig:
        """What the options that were chosen hold, or the default ones where those cannot be composed."""
        groups = [one for one in self.overrides if overridden(one)[0] in (*program_groups(self.program), "experiment")]
        try:
            return compose_unchecked(groups, self.program, self.config_dir)
        # Whatever is wrong with them is not what is explained here.
        except Exception:
            return compose_unchecked(program=self.program)

    @cached_property
    def keys(self) -> list[str]:
        """Every key that may be given without a plus."""
        node: Any = OmegaConf.to_container(self.config, resolve=False)
        return [key for key, _ in keys_of(node) if key.partition(".")[0] != "hydra"]

    @property
    def choices(self) -> Mapping[str, str | None]:
        """The option of each group."""
        return self.config.hydra.runtime.choices

    def line(self, key: str, typed_as: str) -> str:
        """Write what is to be typed for one key instead of another, with the value that it was given."""
        value = self.given.get(typed_as)
        named = key if value is None else without(key, value) or in_shell(f"{key}={value}")
        if key == "data.root" and self.program in ("train", "explore") and "data" not in self.given:
            return f"data=folder {named}"
        return named


def unknown_key(key: str, asked: Asked) -> str:
    """Say what is wrong with a key, and which option or program has it or what was meant."""
    group, _, below = key.partition(".")
    if f"{key}._target_" in asked.keys:
        return f"unknown key {key}; did you mean {asked.line(f'{key}._target_', key)}?"
    if group in program_groups(asked.program) and below and (having := holders(group, below)):
        chosen = asked.choices.get(group)
        if asked.choices.get("module") == "full_batch" and group in ("optimizer", "scheduler"):
            return f"unknown key {key}; module=full_batch has no {group}: leave it out"
        return f"unknown key {key}: {group}={chosen or 'null'} has no {below}; choose {_any(group, having)}"
    if close := _meant(key, asked):
        return f"unknown key {key}; did you mean {' or '.join(close)}?"
    if others := [program for program in programs_with(key) if program != asked.program]:
        have = "has" if len(others) == 1 else "have"
        return f"unknown key {key}: {', '.join(others)} {have} it, and {asked.program} does not"
    return f"unknown key {key} (notes of your own go under extra., as +extra.{key.rpartition('.')[2]}=...)"


def _any(group: str, having: Sequence[tuple[str, str]]) -> str:
    named = [f"{group}={option}" for option, _ in having]
    return " or ".join(named[:3]) + (", or others" if len(named) > 3 else "")


def _meant(key: str, asked: Asked) -> list[str]:
    """List what to type for a mistyped key, the likeliest way of finding it first."""
    ways: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: _same_end(key, asked),
        lambda: (name for name in asked.keys if _slip(key, name)),
        lambda: _of_other_options(key, asked),
        lambda: _arguments(key, asked),
        lambda: () if programs_with(key) else alike(key, [name for name in asked.keys if "._" not in name]),
    )
    # The key itself is known where a set-up adds it.
    found = next(filter(None, ([one for one in dict.fromkeys(way()) if one != key][:3] for way in ways)), [])
    return [name if "=" in name and " " in name else asked.line(name, key) for name in found]


def _same_end(key: str, asked: Asked) -> Iterator[str]:
    """Yield the known keys with the same last part, and what others call so."""
    last = key.rpartition(".")[2].replace("-", "_")
    others = [name for name in SYNONYMS.get(last.casefold(), ()) if name in asked.keys or name.startswith("hydra.")]
    if others:
        yield others[0]
        return
    yield from (name for name in asked.keys if name.rpartition(".")[2].casefold() == last.casefold())


def _slip(key: str, name: str) -> bool:
    return difflib.SequenceMatcher(None, key.casefold(), name.casefold()).ratio() >= _SLIP


def _arguments(key: str, asked: Asked) -> Iterator[str]:
    """Yield the argument of a constructor that a key of a seat names, which takes a plus."""
    node, _, last = key.rpartition(".")
    target = OmegaConf.select(asked.config, f"{node}._target_") if node in SEATS else None
    if target is None:
        return
    try:
        names = inspect.signature(get_object(target)).parameters
    # What cannot be imported is refused when it is built.
    except Exception:
        return
    close = [last] if last in names else difflib.get_close_matches(last, names, n=2, cutoff=0.8)
    yield from (f"+{node}.{name}" for name in close)


def _of_other_options(key: str, asked: Asked) -> Iterator[str]:
    """Yield the keys with the same last part that options have which were not chosen, with the choice."""
    last = key.rpartition(".")[2]
    for group in program_groups(asked.program):
        if group not in ("metrics", "callbacks", "logger"):
            # The least deep one: others of the same option refer to it.
            found = sorted(holders(group, last, last=True), key=lambda one: one[1].count("."), reverse=True)
            for option, name in dict(found).items():
                yield f"{group}={option} {asked.line(f'{group}.{name}', key)}"


def alike(key: str, known: Sequence[str]) -> list[str]:
    """Return up to three known names that look like a mistyped one."""
    folded = {name.casefold(): name for name in known}
    # Where the node is right, only its keys are mistyped.
    near = {} if key.rpartition(".")[0] in known else folded
    close = [folded[name] for name in difflib.get_close_matches(key.casefold(), near, n=3)]
    last = key.rpartition(".")[2].casefold()
    close += [name for name in folded.values() if _alike(last, name.rpartition(".")[2].casefold())]
    return list(dict.fromkeys(close))[:3]


def did_you_mean(key: str, known: Sequence[str], form: str = "{}") -> str:
    """Return "; did you mean ...?" for a mistyped name, or nothing."""
    close = [form.format(name) for name in alike(key, known)]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _alike(one: str, other: str) -> bool:
    # vit for vit_b_16: a substring is a good hint even where most characters are missing.
    part = min(len(one), len(other)) >= 3 and (one in other or other in one)
    return part or bool(difflib.get_close_matches(one, [other]))


def flag(arguments: Sequence[str], unknown: Sequence[str], asked: Asked) -> str | None:
    """Say what to type for the first unknown argument with dashes; None where none has any."""
    argument = next((one for one in unknown if re.match(r"--?[A-Za-z]", one)), None)
    if argument is None:
        return None
    name, equals, value = argument.partition("=")
    following = [*arguments[arguments.index(argument) + 1 :], ""][0]
    if not equals:
        value = "true" if not following or re.match(r"-[A-Za-z-]|[\w.@+~]+=", following) else following
    key = name.lstrip("-").replace("-", "_")
    told = Asked(asked.program, [f"{key}={value}"])
    close = [told.line(key, key)] if key in (*told.keys, *program_groups(asked.program)) else _meant(key, told)
    meant = f"; did you mean {' or '.join(close)}?" if close else ": see --help"
    return f"{name} is not a flag: settings are KEY=VALUE, without dashes{meant}"
