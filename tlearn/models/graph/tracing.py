"""Trace a network with torch.fx, also where a library asks for parts of it to be left whole."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate


class Tracer(fx.Tracer):
    """Leave whole what timm marks as not traceable."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(_named_by_timm("get_notrace_functions")))
        self._closed = tuple(_named_by_timm("get_notrace_modules"))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module stays one node."""
        return isinstance(m, self._closed) or super().is_leaf_module(m, module_qualified_name)

    def graph_of(self, module: nn.Module) -> fx.Graph:
        """Trace what a module does with its first argument alone, in the modes that its parts are in.

        Raises ValueError for a module that asks a buffer for its device: a trace would use that one everywhere.
        """
        parameters = inspect.signature(module.forward).parameters.values()
        optional = {one.name: one.default for one in parameters if one.default is not one.empty}
        graph = self.trace(module, concrete_args=optional or None)
        for node in graph.nodes:
            map_aggregate((node.args, node.kwargs), _check_movable)
        return graph


def _check_movable(argument: Any) -> Any:
    if isinstance(argument, torch.device):
        raise ValueError(f"its trace computes on {argument} alone")
    return argument


def _named_by_timm(list_of: str) -> list[Any]:
    # A network of timm cannot exist before timm is imported.
    known: Callable[[], list[Any]] = getattr(sys.modules.get("timm.models"), list_of, list)
    return known()
