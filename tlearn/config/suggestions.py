"""What was meant by a mistyped key, option or flag: the line to type instead."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from tlearn.config.arguments import overridden
from tlearn.config.declared import SEVERAL, holders, keys_of, options_of, program_groups, programs_with
from tlearn.config.other_names import ALIASES, SYNONYMS
from tlearn.config.signatures import ANY, parameters
from tlearn.config.tree import compose_unchecked
from tlearn.config.valid_values import NOTHING, rule_of, without
from tlearn.errors import in_shell

# From here on two keys are one with a slip
_SLIP = 0.93
# From here on a group's name may be meant, whatever its option is called
_NEAR = 0.79


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

    @cached_property
    def own_keys(self) -> list[str]:
        """The keys whose values do not follow from those of others."""
        node: Any = OmegaConf.to_container(self.config, resolve=False)
        repeats = {key for key, value in keys_of(node) if re.match(r"\$\{(?!oc\.)", str(value))}
        return [key for key in self.keys if key not in repeats and not key.startswith("data.source.")]

    def target(self, node: str) -> str | None:
        """Return what is built at a node, if anything."""
        # Given whole, as callbacks.mine={_target_: mylab.Mine, every: 2}
        whole = re.search(r"""_target_: *["']?([\w.]+)""", self.given.get(node, ""))
        typed = self.given.get(f"{node}._target_") or (whole and whole[1])
        return typed or OmegaConf.select(self.config, f"{node}._target_")

    @property
    def choices(self) -> Mapping[str, str | None]:
        """The option of each group."""
        return self.config.hydra.runtime.choices

    def line(self, key: str, typed_as: str) -> str:
        """Write what is to be typed for one key instead of another, with the value that it was given."""
        value = self.given.get(typed_as)
        if key == "data" and value and value not in options_of("data") and Path(value).exists():
            key = "data.root"
        named = key if value is None else without(key, value) or in_shell(f"{key}={value}")
        if key == "data.root" and self.program in ("train", "explore") and "data" not in {*self.given} - {typed_as}:
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
    if told := scalar(key, asked):
        return told
    node, _, last = key.rpartition(".")
    taken, close = parameters(asked.target(node)), _meant(key, asked)
    if ANY not in taken:
        # Callbacks have nothing to do with each other.
        part = re.escape(node if group in SEVERAL else group)
        close = [one for one in close if re.match(rf"\+?{part}\b", one)]
    if close:
        return f"unknown key {key}; did you mean {' or '.join(close)}?"
    if others := [program for program in programs_with(key) if program != asked.program]:
        have = "has" if len(others) == 1 else "have"
        return f"unknown key {key}: {', '.join(others)} {have} it, and {asked.program} does not"
    if ANY not in taken:
        return f"unknown key {key}: {asked.target(node)} takes {', '.join(taken) or 'nothing'}"
    return f"unknown key {key} (notes of your own go under extra., as +extra.{last}=...)"


def _any(group: str, having: Sequence[tuple[str, str]]) -> str:
    named = [f"{group}={option}" for option, _ in having]
    return " or ".join(named[:3]) + (", or others" if len(named) > 3 else "")


def _meant(key: str, asked: Asked) -> list[str]:
    """List what to type for a mistyped key, the likeliest way of finding it first."""
    known = programs_with(key) or key.rpartition(".")[2] in SYNONYMS
    guessed = [] if known else [name for name in asked.own_keys if "._" not in name]
    ways: tuple[Callable[[], Iterable[str]], ...] = (
        lambda: _same_end(key, asked),
        lambda: (name for name in asked.own_keys if _slip(key, name)),
        lambda: _of_other_options(key, asked),
        lambda: _arguments(key, asked),
        lambda: (name for name in alike(key, guessed) if _takes(name, key, asked)),
    )
    for way in ways:
        # The key itself is known where a set-up adds it.
        names = [one for one in dict.fromkeys(way()) if one != key]
        if found := [one for one in names if _takes(one, key, asked)] or names:
            return [name if "=" in name else asked.line(name, key) for name in found[:3]]
    return []


def _takes(name: str, key: str, asked: Asked) -> bool:
    """Return whether a key can have the value that was typed for another."""
    raw = asked.given.get(key)
    if raw is None or "=" in name or without(name, raw):
        return True
    if name in program_groups(asked.program):
        return raw in options_of(name) or difflib.SequenceMatcher(None, key, name).ratio() > _NEAR
    try:
        value = OverridesParser.create().parse_override(f"{name}={raw}").value()
    except HydraException:
        return True
    rule, node = rule_of(name), _node(name, asked)
    listed = not isinstance(node, ListConfig) or isinstance(value, list)
    return listed and (rule is None or rule(value) is None) and (not isinstance(node, DictConfig) or raw[:1] == "{")


def _node(key: str, asked: Asked) -> Any:
    return OmegaConf.select(asked.config, key, throw_on_resolution_failure=False)


def scalar(key: str, asked: Asked) -> str | None:
    """Say what to type where a value was given to what has keys below it; None where it was not."""
    raw, node = asked.given.get(key), _node(key, asked)
    if raw is None or not isinstance(node, DictConfig) or raw[:1] in "{$" or without(key, raw) or raw == "null":
        return None
    names = [f"{key}.{name!s}" for name in node if str(name)[0] != "_"]
    below = [name for name in names if name in asked.own_keys]
    fitting = [name for name in below if _takes(name, key, asked)]
    # monitor=val_loss and val_acc, as other frameworks have it
    value = re.sub(r"^(val\w*?|eval)?[\W_]?(loss|acc|accuracy)$", _metric, raw) if key == "monitor" else raw
    line = Asked(asked.program, [f"{key}={value}"]).line
    meant = f"; did you mean {line(fitting[0], key)}?" if fitting else ""
    return f"{key}={raw}: expected one of {', '.join(below)}{meant}" if below else None


def _metric(match: re.Match[str]) -> str:
    return "val/loss" if match[2] == "loss" else "val/top1"


def _same_end(key: str, asked: Asked) -> Iterator[str]:
    """Yield the known keys with the same last part, and what others call so."""
    group, _, last = key.replace("-", "_").rpartition(".")
    if group in program_groups(asked.program) and last in ("name", "type", "kind"):
        yield group
        return
    on = asked.given.get(key, "").casefold() not in NOTHING
    meant = [name for name in SYNONYMS.get(last.casefold(), ()) if on or "=" not in name]
    others = [name for name in meant if name.partition("=")[0] in asked.keys or name.startswith(("hydra.", "+"))]
    if others and (others[0][0] != "+" or "trainer" in asked.keys):
        yield others[0]
        return
    found = [name for name in asked.own_keys if name.rpartition(".")[2].casefold() == last.casefold()]
    # An argument of the Trainer that no option names
    yield from found or [f"+trainer.{one}" for one in parameters(asked.target("trainer")) if one == last]


def _slip(key: str, name: str) -> bool:
    return difflib.SequenceMatcher(None, key.casefold(), name.casefold()).ratio() >= _SLIP


def _arguments(key: str, asked: Asked) -> Iterator[str]:
    """Yield the argument of a constructor that a key beside a `_target_` names, which takes a plus."""
    node, _, last = key.rpartition(".")
    names = parameters(asked.target(node))
    close = [last] if last in names else difflib.get_close_matches(last, names, n=2, cutoff=0.8)
    yield from (f"+{node}.{name}" for name in close)


def _of_other_options(key: str, asked: Asked) -> Iterator[str]:
    """Yield the keys with the same last part that options have which were not chosen, with the choice."""
    last = key.rpartition(".")[2]
    last = ALIASES.get(last, last)
    for group in program_groups(asked.program):
        if group not in SEVERAL:
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
    # vit for vit_b_16: words of a name are a good hint even where most characters are missing.
    short, long = sorted((one, other), key=len)
    part = len(short) >= 3 and re.search(rf"(?<![a-z]){re.escape(short)}(?![a-z])", long)
    return bool(part) or bool(difflib.get_close_matches(one, [other]))


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
