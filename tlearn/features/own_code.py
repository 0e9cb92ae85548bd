"""Code that is not a library's, as a part of the feature key: the content of its files."""

import hashlib
import importlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from tlearn.machine import LIBRARIES
from tlearn.runs.trust import own_packages

_CODE = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
# What the files of a package held when this process first looked: it may have imported them then.
_SEEN: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()


class UnknownCodeError(Exception):
    """The reason why it cannot be known which code computes features."""


def code_digests(body: nn.Module, named: Any) -> dict[str, str]:
    """Hash the code of every package beside the libraries that a body or a named part is from.

    Args:
        body: whose layers are looked at, with their base classes.
        named: plain data with the `_target_`s of other parts, such as transforms.

    Returns:
        Top-level package -> digest of all its source files.

    Raises:
        UnknownCodeError: code has no file, or its files have changed since they were imported.
    """
    classes = {base for layer in body.modules() for base in type(layer).__mro__ if base is not object}
    # fx.GraphModule makes a class of its own for each graph, in torch's name.
    homes = {base.__module__.partition(".")[0] for base in classes} - set(LIBRARIES) - sys.stdlib_module_names
    return {name: _digest(name) for name in sorted({*homes, *own_packages(named)})}


def _digest(package: str) -> str:
    if package == "__main__":
        raise UnknownCodeError("code of a script or notebook can change unseen (move it to a module)")
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise UnknownCodeError(f"the code of {package} cannot be found ({error})") from error
    digest, files = hashlib.sha256(), list(_files(module))
    if not files:
        raise UnknownCodeError(f"{package} has no file whose changes could be seen")
    for name, path in files:
        digest.update(f"{name!r} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    found = digest.hexdigest()
    if _SEEN.setdefault(module, found) != found:
        raise UnknownCodeError(f"the code of {package} has changed since this process imported it (start a new one)")
    return found


def _files(module: ModuleType) -> Iterator[tuple[str, Path]]:
    """Yield the code files of a package or of a single module, with names that do not depend on where they lie."""
    file = getattr(module, "__file__", None)
    if not hasattr(module, "__path__"):
        if file is not None and os.path.isfile(file):
            # A module that is not a package has its helpers beside it; an installed one, everything else.
            alone = {"site-packages", "dist-packages"}.intersection(Path(file).parts)
            for path in [Path(file)] if alone else sorted(Path(file).parent.glob("*.py")):
                yield path.name, path
        return
    for number, folder in enumerate(module.__path__):
        seen: set[str] = set()
        # A part of a package can be a link to a folder, which can lead back.
        for place, inner, names in os.walk(folder, followlinks=True):
            seen.add(os.path.realpath(place))
            inner[:] = sorted(name for name in inner if os.path.realpath(os.path.join(place, name)) not in seen)
            for name in sorted(names):
                if name.endswith(_CODE):
                    yield f"{number}/{os.path.relpath(os.path.join(place, name), folder)}", Path(place, name)
