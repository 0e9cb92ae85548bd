"""Replace the global average pooling of a body by max pooling, or by both side by side."""

import operator
from dataclasses import replace

import torch
from torch import fx, nn
from torch.nn import functional as F

from tlearn.errors import ConfigError
from tlearn.models.backbones.base import Body


def pooled(body: Body, pooling: str, name: str) -> Body:
    """Return a body with the same layers and keys and another pooling; avg is its own.

    With avgmax the means come first; the layers behind the pool see them and the maxima one after the other.

    Raises ConfigError: the backbone `name` has no global average pooling.
    """
    if pooling == "avg":
        return body
    graph = _Tracer().trace(body.module)
    pools = [node for node in graph.nodes if _is_global_mean(node, body.module)]
    if not pools:
        raise ConfigError(f"backbone.pooling={pooling}: {name} has no global average pooling to replace; take avg")
    _replace(graph, pools[-1], pooling)
    module = fx.GraphModule(body.module, graph, type(body.module).__name__)
    return replace(body, module=module, num_features=body.num_features * (2 if pooling == "avgmax" else 1))


class _Tracer(fx.Tracer):
    """Look into the body itself, and into a sequence of layers that contains the pool."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module stays one node."""
        return not (isinstance(m, nn.Sequential) and any(_pools_to_one(layer) for layer in m))


def _pools_to_one(layer: nn.Module) -> bool:
    return isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1))


def _is_global_mean(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return _pools_to_one(root.get_submodule(str(node.target)))
    if node.target is F.adaptive_avg_pool2d:
        return node.args[1:] in ((1,), ((1, 1),), ([1, 1],))
    return node.target == "mean" and node.args[1:] in (([2, 3],), ((2, 3),))


def _replace(graph: fx.Graph, pool: fx.Node, pooling: str) -> None:
    with graph.inserting_after(pool):
        maximum = graph.call_method("amax", (pool.args[0], (2, 3), pool.target != "mean"))
    if pooling == "max":
        pool.replace_all_uses_with(maximum)
        graph.erase_node(pool)
        return
    with graph.inserting_after(maximum):
        both = graph.call_function(torch.cat, ((pool, maximum),))
    pool.replace_all_uses_with(both, delete_user_cb=lambda user: user is not both)
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        halves = graph.call_method("chunk", (output.args[0], 2))
        # One by one: a trace of the whole, in torch 2.6, does not take what chunk returns for a tuple.
        parts = [graph.call_function(operator.getitem, (halves, index)) for index in (0, 1)]
        output.args = (graph.call_function(torch.cat, (parts, 1)),)
