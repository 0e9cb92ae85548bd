"""Rewrite a network for inference, so that it computes the same in fewer steps."""

import copy
from collections import Counter
from typing import TypeGuard

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import StochasticDepth

from tlearn.models.graph.tracing import Tracer

_NOTHING_IN_EVALUATION = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, StochasticDepth)


def fold(module: nn.Module) -> nn.Module:
    """Copy a module for inference: BatchNorm is folded into the convolutions before it, Dropout is gone.

    The copy is in evaluation mode and in channels_last format, and its parameters take no gradient. What torch.fx
    cannot trace, or not for every device, is copied as it is.
    """
    copied, tracer = copy.deepcopy(module).eval().requires_grad_(False), _Tracer()
    try:
        graph = tracer.graph_of(copied)
    # A forward pass that branches on tensor values raises errors of many kinds.
    except Exception:
        return _channels_last(copied)
    finally:
        # In cycles, tracer and graph would hold the memory of a GPU until the garbage collector came by, which programs
        # let run seldom.
        vars(tracer).clear()
    _pass_by(copied, graph)
    _fold_norms(copied, graph)
    # The containers that a GraphModule makes anew are in training mode.
    folded = fx.GraphModule(copied, graph, type(module).__name__).eval()
    # Another cycle, between module and graph
    folded.graph.owning_module = None
    return _channels_last(folded)


class _Tracer(Tracer):
    """Look into every module that has child modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module stays one node."""
        return super().is_leaf_module(m, module_qualified_name) or not list(m.children())


def _pass_by(root: nn.Module, graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        # Exact types: a subclass can compute something else.
        if node.op == "call_module" and type(root.get_submodule(node.target)) in _NOTHING_IN_EVALUATION:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def _fold_norms(root: nn.Module, graph: fx.Graph) -> None:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        source = node.args[0] if node.op == "call_module" and node.args else None
        # Where a layer is called twice, or its output used twice, one of the uses would see the other's norm.
        if not isinstance(source, fx.Node) or {len(source.users), calls[source.target], calls[node.target]} != {1}:
            continue
        convolution, norm = root.get_submodule(str(source.target)), root.get_submodule(node.target)
        if not _is_plain_convolution(convolution) or not _is_plain_norm(norm):
            continue
        root.set_submodule(str(source.target), _folded(convolution, norm))
        activation = getattr(norm, "act", None)
        if isinstance(activation, nn.Module):
            root.set_submodule(node.target, activation)
        else:
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _is_plain_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    # Hooks such as those of spectral_norm compute a weight, no parameter then, anew in every pass.
    return type(layer) is nn.Conv2d and "weight" in dict(layer.named_parameters())


def _is_plain_norm(layer: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    # Other subclasses can compute something else; timm's own is a norm and then an activation.
    kind = type(layer)
    known = kind is nn.BatchNorm2d or (kind.__name__, kind.__module__.split(".")[0]) == ("BatchNormAct2d", "timm")
    return known and bool(layer.track_running_stats)


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    # In double precision, so that every weight is rounded once
    folded = fuse_conv_bn_eval(copy.deepcopy(convolution).double(), copy.deepcopy(norm).double())
    return folded.to(convolution.weight.dtype).requires_grad_(False)


def _channels_last(module: nn.Module) -> nn.Module:
    # Module.to(memory_format=...) refuses tensors of five dimensions.
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module
