"""Code that a stored run names: what may be imported, and what it must be.

A model folder or a run's stored configuration can come from anybody, so a dotted name in it is imported only from a
library that tlearn builds on, or from a package that the user trusts by name; and what is found is called only if it is
of the kind that its seat asks for, and is defined where its name says.
"""

import difflib
import importlib
import importlib.util
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tlearn.errors import CheckpointError, ConfigError
from tlearn.machine import LIBRARIES

# Keys by which Hydra instantiates a node, and which are no arguments
_HYDRA = ("_target_", "_partial_", "_recursive_", "_convert_")


@dataclass(frozen=True)
class Seat:
    """What may fill a part of a model.

    Args:
        name: for messages.
        kind: a class must be one of this kind, and a function must be annotated to return one.
        modules: those of libraries whose classes may be named without trust, and of tlearn also their functions.
    """

    name: str
    kind: type
    modules: tuple[str, ...]


def targets(node: Any) -> Iterator[str]:
    """Yield every `_target_` in plain data."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets(value)


def own_packages(node: Any) -> list[str]:
    """List the top-level packages of the targets in plain data that are not of a library, each once."""
    return sorted({_top(target) for target in targets(node)} - set(LIBRARIES))


def check_trust(node: Any, trust: Sequence[str], where: str) -> None:
    """Raise CheckpointError, with what to type, if plain data names code of packages that are not trusted.

    `where` is the file or folder that names it.
    """
    packages = own_packages(node)
    unknown = [name for name in packages if name not in trust]
    if never := [name for name in packages if name in sys.stdlib_module_names]:
        raise CheckpointError(
            f"{where} names code of {never[0]}, which no run of tlearn does: it is damaged or hostile"
        )
    if unknown:
        names = ", ".join(target for target in dict.fromkeys(targets(node)) if _top(target) in unknown)
        wanted = ",".join([*trust, *unknown])
        raise CheckpointError(
            f"{where} names code that is not tlearn's ({names}): if you trust it, add trust=[{wanted}]"
        )


def check_installed(trust: Sequence[str]) -> None:
    """Raise ConfigError for a trusted package that cannot be found: its name is mistyped."""
    for name in trust:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"trust names {name}, and there is no such package: correct it, install it, or start from the folder "
                "that holds it"
            )


def named_packages(node: Any) -> list[str]:
    """List the packages that must be trusted for plain data: those of its targets' names, and that define them."""
    homes = [str(getattr(locate(target), "__module__", "")) for target in targets(node)]
    return sorted({_top(name) for name in (*targets(node), *homes)} - set(LIBRARIES))


def stored_builder(node: Mapping[str, Any], trust: Sequence[str], seat: Seat) -> partial[Any]:
    """Return what builds a stored node when it is called with the arguments of its seat.

    Unlike Hydra, it resolves no reference (${...}), by which a text could become another node. Arguments that are nodes
    themselves are built, and must fit the same seat.
    """
    if "_args_" in node:
        raise CheckpointError(f"{node['_target_']}._args_: give arguments by name")
    arguments = {key: _built(value, trust, seat) for key, value in node.items() if key not in _HYDRA}
    return partial(trusted(node["_target_"], trust, seat), **arguments)


def _built(value: Any, trust: Sequence[str], seat: Seat) -> Any:
    if isinstance(value, list):
        return [_built(item, trust, seat) for item in value]
    if not isinstance(value, dict):
        return value
    if "_target_" not in value:
        return {key: _built(item, trust, seat) for key, item in value.items()}
    builder = stored_builder(value, trust, seat)
    return builder if value.get("_partial_") else builder()


def trusted(target: str, trust: Sequence[str], seat: Seat) -> Callable[..., Any]:
    """Import the class or function of a dotted name.

    Args:
        target: the name, as stored.
        trust: top-level packages that the user trusts.
        seat: what it is to fill.

    Raises:
        CheckpointError: its package is not trusted or cannot be imported, or it cannot fill the seat.
    """
    check_trust({"_target_": target}, trust, f"a {seat.name}")
    # Not even imported: some modules of a library do something when they are. What a library itself holds is looked at.
    direct = target.count(".") == 1 and any(_top(target) == _top(module) for module in seat.modules)
    if _top(target) not in trust and not direct and not _within(target, seat.modules):
        allowed = f"only {', '.join(seat.modules)} can" if seat.modules else "none can"
        raise CheckpointError(f"{target} cannot be a {seat.name}: of libraries, {allowed}")
    found = locate(target)
    if reason := _unfit(found, seat.kind):
        raise CheckpointError(f"{target} cannot be a {seat.name}: {reason}")
    # A module of a trusted package also holds whatever it imports.
    home = found.__module__
    check_trust({"_target_": f"{home}.{found.__qualname__}"}, trust, target)
    foreign_function = isinstance(found, types.FunctionType) and _top(home) != "tlearn"
    if _top(home) not in trust and (foreign_function or not _within(home, seat.modules)):
        raise CheckpointError(f"{target} cannot be a {seat.name}: it is {found.__qualname__} of {home}")
    return found


def locate(target: str) -> Any:
    """Import what a dotted name gives, from its top-level package alone; CheckpointError if it is not there."""
    found, parts, end, inner = None, target.split("."), 1, True
    try:
        found = importlib.import_module(parts[0])
        for end, part in enumerate(parts[1:], 2):
            inner = isinstance(found, types.ModuleType) and not hasattr(found, part)
            found = importlib.import_module(".".join(parts[:end])) if inner else getattr(found, part)
    # A module can raise anything while it is imported.
    except Exception as error:
        if found is None:
            advice = ": start from the folder that holds it, or install it"
            raise CheckpointError(f"{target} cannot be imported ({_said(error)}){advice}") from error
        lacking = isinstance(error, ModuleNotFoundError) and error.name == ".".join(parts[:end])
        if not (lacking or (not inner and isinstance(error, AttributeError))):
            raise CheckpointError(f"{target} cannot be imported ({_said(error)})") from error
        close = difflib.get_close_matches(parts[end - 1], dir(found), n=2)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        raise CheckpointError(
            f"{target} cannot be imported: {'.'.join(parts[: end - 1])} has no {parts[end - 1]}{meant}"
        ) from error
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _unfit(found: Any, kind: type) -> str | None:
    """Return the reason why something is not a class of this kind, or a function that says it returns one."""
    if isinstance(found, type):
        return None if issubclass(found, kind) else f"it is not a subclass of {kind.__module__}.{kind.__name__}"
    if not isinstance(found, types.FunctionType):
        return "it is neither a class nor a function"
    try:
        returned = typing.get_type_hints(found).get("return")
    # An annotation can name what is imported for type checkers alone.
    except Exception:
        returned = None
    kinds = typing.get_args(returned) or (returned,)
    if any(isinstance(one, type) and issubclass(one, kind) for one in kinds):
        return None
    # Otherwise any function of a trusted package could be called with what a stored description says.
    return f"a function must be annotated to return what it builds (-> {kind.__name__})"


def _top(name: str) -> str:
    return name.partition(".")[0]


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)
