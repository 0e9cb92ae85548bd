"""A module with a step and an optimizer of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tlearn.training.module import Batch, TransferModule


class NoisyModule(TransferModule):
    """Train the head on features with noise, by an optimizer of its own."""

    def __init__(self, *args: Any, noise: float, rate: float = 0.01, **more: Any) -> None:
        super().__init__(*args, **more)
        self.noise, self.rate = noise, rate

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.RAdam(self.network.head.parameters(), lr=self.rate)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets, _ = batch
        features = self.network.features(images)
        logits = self.network.head(features + self.noise * torch.randn_like(features))
        loss = self.loss(logits, targets)
        self.measure("train", batch_idx, logits, targets, loss)
        return loss
