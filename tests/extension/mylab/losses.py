"""A loss as a function and as a class."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Compute cross-entropy that counts less the surer a right prediction is (arXiv:1708.02002)."""
    losses = F.cross_entropy(logits, targets, weight=weight, reduction="none")
    return ((1 - torch.exp(-losses)) ** gamma * losses).mean()


class Margin(nn.Module):
    """The mean of how much another class comes closer than `margin` to the true one."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.multi_margin_loss(logits, targets, margin=self.margin)
