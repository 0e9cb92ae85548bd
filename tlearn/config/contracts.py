"""What own code is looked at for before it is used: its methods, its arguments, what it computes."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra.utils import get_object
from torch import nn
from torch.func import functional_call

from tlearn.errors import ConfigError


def called_in_both_modes(built: nn.Module, shape: torch.Size) -> dict[str, Any]:
    """Call a head in both modes; neither it nor the random numbers of the run change."""
    # Layers that are made in the first pass draw numbers, too.
    with torch.random.fork_rng(devices=[]):
        features = torch.rand(shape)
        with torch.no_grad():
            evaluated = built.eval()(features)
        # On copies, as BatchNorm learns from what it sees
        state = {
            name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
            for name, tensor in (*built.named_parameters(), *built.named_buffers())
        }
        return {"evaluation": evaluated, "train": functional_call(built.train(), state, (features,))}


def check_hooks(part: Any, kind: type, key: str) -> None:
    """Refuse a callback or logger with a method that cannot be called as the Trainer does."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        own = getattr(part, name)
        if name.startswith("_") or getattr(own, "__func__", None) is method:
            continue
        given = list(inspect.signature(method).parameters.values())[1:]
        named = [one.name for one in given if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
        try:
            if name == "log_metrics":
                named = ["metrics", "step"]
                inspect.signature(own).bind(**dict.fromkeys(named))
            else:
                inspect.signature(own).bind(*named)
        except TypeError as error:
            called = f"{type(part).__name__}.{name}({', '.join(named)})"
            raise ConfigError(f"{key} is called by {called}: {error}") from error


def needs_logits(function: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether a function needs logits and targets beside its arguments."""
    try:
        signature = inspect.signature(function)
    # Some functions of torch that are written in C++ have none.
    except ValueError:
        return True
    try:
        signature.bind(**arguments)
    except TypeError:
        return True
    return False


def parameters_of(node: Mapping[str, Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of what a node names, or none where they cannot be known."""
    try:
        return inspect.signature(get_object(node["_target_"])).parameters
    except (ImportError, TypeError, ValueError):
        return {}


def require_methods(part: Any, methods: Mapping[str, Sequence[str]], name: str, contract: str) -> None:
    """Refuse a part without these methods, or with one that does not take these arguments by position."""
    if missing := [method for method in methods if not callable(getattr(part, method, None))]:
        raise ConfigError(f"{name} lacks {', '.join(f'{method}()' for method in missing)}: see {contract}")
    for method, arguments in methods.items():
        try:
            inspect.signature(getattr(part, method)).bind(*arguments)
        except TypeError as error:
            called = f"{method}({', '.join(arguments)})"
            raise ConfigError(f"{name} is called by {called}: {error}; see {contract}") from error


def class_name(part: Any) -> str:
    """Return the dotted name of the class of an object."""
    return f"{type(part).__module__}.{type(part).__qualname__}"
