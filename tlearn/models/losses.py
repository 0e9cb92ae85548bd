"""Losses of logits and targets."""

from collections.abc import Sequence

import torch
from torch import nn

from tlearn.errors import ConfigError


def cross_entropy(label_smoothing: float = 0.0, weight: Sequence[float] | None = None) -> nn.CrossEntropyLoss:
    """Build the cross-entropy of logits [N, C] and targets [N]; `weight` has one number for each of the C classes.

    Raises ConfigError for a smoothing outside 0 to 1 and for a weight that is negative or not finite.
    """
    if not 0 <= label_smoothing <= 1:
        raise ConfigError(f"loss.label_smoothing={label_smoothing} must be between 0 and 1")
    weights = None if weight is None else torch.tensor(list(weight), dtype=torch.float32)
    if weights is not None and not (weights.isfinite() & (weights >= 0)).all():
        raise ConfigError(f"loss.weight={list(weight or ())} must be numbers from 0 on, one for each class")
    return nn.CrossEntropyLoss(weight=weights, label_smoothing=label_smoothing)
