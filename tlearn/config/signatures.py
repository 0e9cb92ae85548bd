"""What a class or function takes, read from its source: importing torch to refuse a mistyped key would take seconds."""

import ast
import importlib.util
import re
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

# Imports through which a name is followed, at most
_STEPS = 8
# Among the names: others are taken, too.
ANY = "**"
# Keys beside a `_target_` that Hydra reads itself
OF_HYDRA = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
# Decorators that leave the keywords as they are
_HARMLESS = ("_defaults_from_env_vars",)
# Methods that decide what a class, or one that inherits from it, is called with
_MAKING = {"__init__", "__new__", "__init_subclass__"}


def parameters(target: Any) -> tuple[str, ...]:
    """Return what a dotted name takes by keyword, with `ANY` where its source does not say all.

    That is so of what takes any keyword, has decorators or a metaclass, or is written in another language.
    """
    module, _, name = str(target).rpartition(".")
    found = _defined(module, name, _STEPS) if module else None
    return (ANY,) if found is None else found


def untaken(node: Any, prefix: str = "") -> str | None:
    """Return the first key beside a `_target_` that it does not take, where its source says so, or None."""
    if isinstance(node, list):
        node = {str(place): one for place, one in enumerate(node)}
    if not isinstance(node, dict):
        return None
    taken = parameters(node.get("_target_"))
    for name, value in node.items():
        if ANY not in taken and name not in (*OF_HYDRA, *taken):
            return f"{prefix}{name}"
        if found := untaken(value, f"{prefix}{name}."):
            return found
    return None


def _defined(module: str, name: str, steps: int) -> tuple[str, ...] | None:
    source = _source(module)
    if not source or not steps:
        return None
    found = [one for one in source.body if name in _names(one)]
    # A star that is imported further down may have another by this name.
    if len(found) != 1 or any("*" in _names(one) for one in source.body[source.body.index(found[0]) + 1 :]):
        return None
    match found[0]:
        case ast.ImportFrom(names=names):
            imported = next(one.name for one in names if name == (one.asname or one.name))
            return _defined(_absolute(module, found[0]), imported, steps - 1)
        case ast.FunctionDef() as function:
            return _keywords(function)
        case ast.ClassDef() as kind:
            return _of_class(module, kind, steps)
    return None


def _of_class(module: str, kind: ast.ClassDef, steps: int) -> tuple[str, ...] | None:
    made = [one for one in kind.body if _MAKING.intersection(_names(one))]
    if kind.decorator_list:
        return None if made or kind.bases else _fields(module, kind)
    if kind.keywords or len(made) > 1:
        return None
    if made:
        init = made[0]
        # Without a first argument, `self` is one of `*args`.
        if not isinstance(init, ast.FunctionDef) or init.name != "__init__" or not init.args.args:
            return None
        found = _keywords(init)
        return found and found[1:]
    one_base = len(kind.bases) == 1 and isinstance(kind.bases[0], ast.Name)
    return _defined(module, ast.unparse(kind.bases[0]), steps - 1) if one_base else None


@cache
def _fields(module: str, kind: ast.ClassDef) -> tuple[str, ...] | None:
    text, source = ast.unparse(kind), _source(module)
    decorator = re.match(r"@(dataclasses(?=\.)|dataclass)(\.dataclass)?(\(.*\))?\nclass", text)
    # Others than plain fields have rules of their own, and so have dataclasses of attrs and pydantic.
    if not decorator or not source or re.search(r"ClassVar|InitVar|KW_ONLY|\bfield\(|\binit=False|\n    if ", text):
        return None
    imports = [ast.unparse(one) for one in source.body if decorator[1] in _names(one)]
    if len(imports) != 1 or not re.match(r"(import|from) dataclasses\b", imports[0]):
        return None
    return tuple(ast.unparse(one.target) for one in kind.body if isinstance(one, ast.AnnAssign))


def _keywords(function: ast.FunctionDef) -> tuple[str, ...] | None:
    given = function.args
    if given.posonlyargs or any(ast.unparse(one) not in _HARMLESS for one in function.decorator_list):
        return None
    return (*(one.arg for one in (*given.args, *given.kwonlyargs)), *([ANY] if given.kwarg else []))


@cache
def _names(statement: ast.stmt) -> list[str]:
    """Return the names that a statement of a module or class may set, and those whose constructor it replaces.

    Statements are kept with their module, which a sweep asks about in each trial.
    """
    names = []
    whole = isinstance(statement, ast.ClassDef | ast.FunctionDef)
    for one in [statement] if whole else ast.walk(statement):
        match one:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.append(name)
            case ast.alias(name=name, asname=other):
                names.append(other or name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute, ctx=ast.Store()) if attribute in _MAKING:
                names.append(name)
    return names


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    place = _place(module)
    above = module.split(".")
    # In a package's own file, one dot is the package.
    kept = above[: len(above) - statement.level + (place is not None and place.name == "__init__.py")]
    return ".".join([*kept, *([statement.module] if statement.module else [])])


def _source(module: str) -> ast.Module | None:
    place = _place(module)
    try:
        return _parsed(place, place.stat().st_mtime_ns) if place else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


@cache
def _parsed(place: Path, modified: int) -> ast.Module:
    """Parse a file, which somebody may change while a notebook runs."""
    return ast.parse(place.read_bytes())


def _place(module: str) -> Path | None:
    """Find the file of a module without importing the packages that it lies in."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
        for count in range(len(below)):
            folders = spec.submodule_search_locations if spec else None
            name = ".".join([top, *below[: count + 1]])
            spec = PathFinder.find_spec(name, folders) if folders else None
    except (ImportError, ValueError):
        return None
    origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None
