"""A head with its own argument, and one by a function."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CosineHead(nn.Module):
    """Logits are scaled cosines between features [N, in_features] and one direction for each class."""

    def __init__(self, in_features: int, num_classes: int, scale: float = 16.0) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(num_classes, in_features))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features), F.normalize(self.directions))


def bottleneck(in_features: int, num_classes: int, width: int, activation: nn.Module) -> nn.Module:
    """Build a head with one narrow layer."""
    return nn.Sequential(nn.Linear(in_features, width), activation, nn.Linear(width, num_classes))
