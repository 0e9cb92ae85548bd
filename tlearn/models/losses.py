"""Losses of logits and targets."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlearn.ranges import require


def cross_entropy(label_smoothing: float = 0.0, weight: Sequence[float] | Tensor | None = None) -> nn.CrossEntropyLoss:
    """Build the cross-entropy of logits [N, C] and targets [N]; `weight` has one number for each of the C classes.

    Raises ConfigError for a smoothing outside 0 to 1 and for a weight that is negative or not finite.
    """
    require("loss.label_smoothing", label_smoothing)
    require("loss.weight", weight.tolist() if isinstance(weight, Tensor) else weight)
    weights = None if weight is None else torch.as_tensor(weight, dtype=torch.float32)
    return nn.CrossEntropyLoss(weight=weights, label_smoothing=label_smoothing)


class FunctionLoss(nn.Module):
    """A loss function with its further arguments; tensors among them move with the module."""

    def __init__(self, function: Callable[..., Tensor], **arguments: Any) -> None:
        super().__init__()
        self._function = function
        self._arguments = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
        self._tensors = [name for name in arguments if name not in self._arguments]
        for name in self._tensors:
            self.register_buffer(name, arguments[name])

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of logits [N, C] and targets [N] or [N, C]."""
        tensors = {name: getattr(self, name) for name in self._tensors}
        return self._function(logits, targets, **self._arguments, **tensors)
