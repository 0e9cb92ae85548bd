"""Losses of logits and targets."""

from collections.abc import Sequence

import torch
from torch import nn

from tlearn.ranges import require


def cross_entropy(label_smoothing: float = 0.0, weight: Sequence[float] | None = None) -> nn.CrossEntropyLoss:
    """Build the cross-entropy of logits [N, C] and targets [N]; `weight` has one number for each of the C classes.

    Raises ConfigError for a smoothing outside 0 to 1 and for a weight that is negative or not finite.
    """
    require("loss.label_smoothing", label_smoothing)
    require("loss.weight", weight)
    weights = None if weight is None else torch.tensor(list(weight), dtype=torch.float32)
    return nn.CrossEntropyLoss(weight=weights, label_smoothing=label_smoothing)
