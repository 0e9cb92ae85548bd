"""A metric with state of its own."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Sureness(Metric):
    """The mean probability of the true class, to a power."""

    higher_is_better = True
    full_state_update = False

    def __init__(self, num_classes: int, power: float = 1.0, **more: Any) -> None:
        super().__init__(**more)
        self.power = power
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        probabilities = logits.softmax(1).gather(1, targets[:, None]).double()
        self.total += (probabilities**self.power).sum()
        self.count += len(targets)

    def compute(self) -> Tensor:
        return (self.total / self.count).float()
