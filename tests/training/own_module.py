"""A user's own module: other steps, another loss and two optimizers, with a parameter of its own."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tlearn.training.module import Batch, TransferModule


class CentreModule(TransferModule):
    """Train the head by one optimizer, and by another the centres of the classes that features are drawn to."""

    def __init__(self, *args: Any, rate: float = 0.01, **more: Any) -> None:
        super().__init__(*args, **more)
        self.automatic_optimization = False
        self.rate = rate
        self.centres = nn.Parameter(torch.zeros(self.network.head.out_features, self.network.head.in_features))

    def configure_optimizers(self) -> list[Optimizer]:
        """Build two optimizers."""
        head = torch.optim.SGD(self.network.head.parameters(), lr=self.rate)
        return [head, torch.optim.Adam([self.centres], lr=self.rate)]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Step with both."""
        images, targets, _ = batch
        features = self.network.features(images)
        logits = self.network.head(features)
        loss = self.loss(logits, targets)
        self.manual_backward(loss + (features - self.centres[targets]).square().mean())
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        self.measure("train", batch_idx, logits, targets, loss)


class NarrowModule(TransferModule):
    """Take fewer keywords than a module is called with."""

    def __init__(self, network: Any, num_classes: int) -> None:
        super().__init__(network, num_classes)
