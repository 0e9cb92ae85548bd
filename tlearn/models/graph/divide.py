"""Divide a body where its frozen part ends, so that the output of this part is computed only once per image."""

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from tlearn.models.graph.tracing import Tracer


class NotDivisibleError(Exception):
    """The reason why no part of a body can be computed once."""


@dataclass(frozen=True)
class FrozenPart:
    """The part of a body whose output no training step can change.

    Attributes:
        module: images [N, 3, S, S] -> the tensor at the cut; the body itself when all of it is frozen. It shares its
            layers with the body.
        rest: computes features [N, F] from that, run against the body; None when all of it is frozen.
        name: for logs and keys: the same in every run, and different for every two cuts of a body.
        shape: of the tensor at the cut, for one image.
        stages: the parts of the body that may train.
    """

    module: nn.Module
    rest: fx.Graph | None
    name: str
    shape: tuple[int, ...]
    stages: tuple[str, ...] = ()


def divide(body: nn.Module, trains: Callable[[str], bool], size: int) -> FrozenPart:
    """Find the latest place in a body before which nothing trains and which a single tensor [N, ...] crosses.

    Args:
        body: images [N, 3, size, size] -> features [N, F].
        trains: whether the module or parameter of a name may train, with all below it.
        size: the side of the images in pixels.

    Raises NotDivisibleError: there is no such place, or torch.fx cannot see the body's structure.
    """
    # A body need not have parameters.
    first = next(chain(body.parameters(), body.buffers()), torch.empty(0))
    images = torch.zeros(2, 3, size, size, device=first.device, dtype=first.dtype)
    if not any(trains(name) for name, _ in body.named_parameters()):
        shape = _output_shape(body, images)
        if shape is None:
            raise NotDivisibleError("the body does not output one row of features for each image")
        return FrozenPart(body, None, "body", shape)
    nodes, end = _trace(body, trains)
    for position, crossing in _cuts(nodes, end):
        prefix, rest = _divided(nodes, position, crossing)
        module = fx.GraphModule(body, prefix)
        shape = _output_shape(module, images)
        if shape is not None and next(module.parameters(), None) is not None:
            # The node's name alone depends on how far into the body a trace looks.
            mark = hashlib.sha256(str(prefix).encode()).hexdigest()[:8]
            return FrozenPart(module, rest, f"{crossing.name}-{mark}", shape)
    raise NotDivisibleError("no layer of the body is frozen ahead of those that train")


def run_rest(body: nn.Module, rest: fx.Graph, values: Tensor) -> Tensor:
    """Compute features [N, F] from the tensor at the cut, with the current parameters and buffers of the body."""
    return fx.Interpreter(body, graph=rest).run(values)


class _Tracer(Tracer):
    """Look only into modules of which one part trains and another does not.

    All others keep their own forward pass, and with it what they do in training mode; those looked into are frozen
    themselves, and so in evaluation mode always.
    """

    def __init__(self, body: nn.Module, trains: Callable[[str], bool]) -> None:
        super().__init__()
        # By identity: a layer can be reached by several names, and only one of them is asked for.
        self.whole = {id(module) for name, module in body.named_modules() if trains(name)}
        self.trained = {id(parameter) for name, parameter in body.named_parameters() if trains(name)} | self.whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module stays one node."""
        return super().is_leaf_module(m, module_qualified_name) or id(m) in self.whole or not self.touches(m)

    def touches(self, module: nn.Module) -> bool:
        """Return whether anything in a module trains."""
        return any(id(part) in self.trained for part in (*module.modules(), *module.parameters()))


def _trace(body: nn.Module, trains: Callable[[str], bool]) -> tuple[list[fx.Node], int]:
    """Return the body's nodes in order, and the position of the first that depends on what trains."""
    # Tracing leaves marks on a module, such as constants and caches, so it gets other modules with the same tensors.
    tensors: dict[int, Any] = {id(tensor): tensor for tensor in (*body.parameters(), *body.buffers())}
    tracer = _Tracer(shell := copy.deepcopy(body, tensors), trains)
    try:
        nodes = list(tracer.graph_of(shell).nodes)
    # A forward pass that branches on tensor values raises errors of many kinds.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotDivisibleError(f"{type(body).__name__} cannot be traced ({reason})") from error
    made = [node.name for node in nodes if node.op == "get_attr" and _attribute(body, str(node.target)) is None]
    if made:
        raise NotDivisibleError(f"{type(body).__name__} makes tensors of its own ({made[0]})")
    return nodes, _first_trained(nodes, tracer)


def _first_trained(nodes: list[fx.Node], tracer: _Tracer) -> int:
    """Find the first computation that depends on what trains; fetching a parameter is not one."""
    tainted: set[fx.Node] = set()
    for position, node in enumerate(nodes):
        if any(source in tainted for source in node.all_input_nodes) or _uses_trained(node, tracer):
            tainted.add(node)
            if node.op != "get_attr":
                return position
    raise NotDivisibleError("what trains has no part in the features")


def _uses_trained(node: fx.Node, tracer: _Tracer) -> bool:
    if node.op == "call_module":
        return tracer.touches(tracer.root.get_submodule(str(node.target)))
    return node.op == "get_attr" and id(_attribute(tracer.root, str(node.target))) in tracer.trained


def _attribute(root: nn.Module, name: str) -> Any:
    parent, _, leaf = name.rpartition(".")
    return getattr(root.get_submodule(parent), leaf, None)


def _cuts(nodes: list[fx.Node], end: int) -> Iterator[tuple[int, fx.Node]]:
    """Yield (position, node) of every place before `end` after which only that one node's value goes on, latest first.

    Parameters do not count: the rest can fetch them again.
    """
    last_use = {source: position for position, node in enumerate(nodes) for source in node.all_input_nodes}
    for position in reversed(range(end)):
        live = [node for node in nodes[: position + 1] if node.op != "get_attr" and last_use.get(node, -1) > position]
        if len(live) == 1 and live[0].op != "placeholder":
            yield position, live[0]


def _divided(nodes: list[fx.Node], position: int, crossing: fx.Node) -> tuple[fx.Graph, fx.Graph]:
    """Copy what lies up to a position into one graph, and what follows into another; parameters go where they are used.

    All nodes are copied, not only those that lead to a value: some change one in place.
    """
    prefix, rest = fx.Graph(), fx.Graph()
    early: dict[fx.Node, fx.Node] = {}
    late = {crossing: rest.placeholder("values")}
    before, after = set(nodes[: position + 1]), set(nodes[position + 1 :])
    for node in nodes:
        parameter = node.op == "get_attr"
        if node in before and (not parameter or before & node.users.keys()):
            early[node] = prefix.node_copy(node, early.__getitem__)
        if node in after or (parameter and after & node.users.keys()):
            late[node] = rest.node_copy(node, late.__getitem__)
    prefix.output(early[crossing])
    return prefix, rest


def _output_shape(module: nn.Module, images: Tensor) -> tuple[int, ...] | None:
    """Measure the output shape of a frozen module for one image; None unless it is a tensor with one row per image."""
    with torch.no_grad():
        # One and two: some values hold the images in another dimension, or several rows for each.
        one, two = module(images[:1]), module(images)
    if not isinstance(one, Tensor) or not one.is_floating_point() or one.ndim == 0:
        return None
    return tuple(one.shape[1:]) if (len(one), tuple(two.shape)) == (1, (2, *one.shape[1:])) else None
