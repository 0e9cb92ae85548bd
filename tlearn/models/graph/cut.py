"""Cut a classifier down to its body: find the layers that compute logits by watching a forward pass, and skip them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlearn.errors import ConfigError
from tlearn.ranges import one_of, require

# What a configuration may say, and what names images by a backbone's own classes
REPLACE = one_of("classifier", "last", "nothing")


@dataclass(frozen=True)
class Cut:
    """Names of the layers that become Identity, and of the auxiliary heads that are removed."""

    passed: tuple[str, ...]
    auxiliary: tuple[str, ...]


def plan_cut(classifier: nn.Module, size: int, replace: str) -> Cut:
    """Choose what to cut from a classifier on the meta device that takes images [N, 3, size, size].

    The last Linear or Conv2d called is the last layer. `replace="last"` skips that alone; `"classifier"` also every
    layer called before it from the first Linear or Conv2d on in the same top-level part (norms and pools ahead of it
    stay, and so does what follows the last layer); `"nothing"` leaves the logits as features. Parts with parameters
    that evaluation never calls are auxiliary heads: kept, they would be parameters without gradients.
    """
    require("head.replace", replace, REPLACE)
    calls = _calls(classifier, size)
    reached = {_top(name) for name in calls}
    auxiliary = [name for name, part in classifier.named_children() if name not in reached and list(part.parameters())]
    layers = [name for name in calls if isinstance(classifier.get_submodule(name), nn.Linear | nn.Conv2d)]
    passed = {
        "classifier": _from_first_layer(calls, layers),
        "last": layers[-1:],
        "nothing": [],
    }[replace]
    return Cut(tuple(dict.fromkeys(passed)), tuple(auxiliary))


def apply_cut(classifier: nn.Module, cut: Cut) -> nn.Module:
    """Turn a classifier into its body, in place."""
    for name in cut.passed:
        parent, _, leaf = name.rpartition(".")
        setattr(classifier.get_submodule(parent), leaf, nn.Identity())
    for name in cut.auxiliary:
        setattr(classifier, name, None)
    if cut.auxiliary:
        # The switch by which GoogLeNet and Inception return a tuple in training mode.
        classifier.aux_logits = False  # type: ignore[assignment]
    return classifier


def count_features(body: nn.Module, size: int) -> int:
    """Measure the width of a body's output on the device of its parameters; ConfigError unless it is [N, F]."""
    features = _evaluate(body, size)
    shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ConfigError(
            f"the body of {type(body).__name__} outputs {shape} instead of features [N, F]: it cannot be used"
        )
    return features.shape[1]


def _from_first_layer(calls: list[str], layers: list[str]) -> list[str]:
    part = [name for name in calls if _top(name) == _top(layers[-1])]
    first = next(index for index, name in enumerate(part) if name in layers)
    last = max(index for index, name in enumerate(part) if name == layers[-1])
    return part[first : last + 1]


def _calls(classifier: nn.Module, size: int) -> list[str]:
    """List the layers without children in the order in which evaluation calls them."""
    calls: list[str] = []
    leaves = [(name, layer) for name, layer in classifier.named_modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, layer in leaves]
    try:
        _evaluate(classifier, size)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _evaluate(module: nn.Module, size: int) -> object:
    device = next((parameter.device for parameter in module.parameters()), None)
    # BatchNorm must neither refuse one image nor learn from it.
    module.eval()
    try:
        with torch.no_grad():
            return module(torch.zeros(1, 3, size, size, device=device))
    finally:
        module.train()


def _top(name: str) -> str:
    return name.partition(".")[0]
