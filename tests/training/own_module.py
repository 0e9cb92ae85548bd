"""A user's own code: a module with other steps, another loss and two optimizers, and a metric."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

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


class SilentModule(TransferModule):
    """Evaluate without measuring."""

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return what a step returns."""
        images, targets, indices = batch
        return {"logits": self(images), "targets": targets, "indices": indices}


class NarrowModule(TransferModule):
    """Take fewer keywords than a module is called with."""

    def __init__(self, network: Any, num_classes: int) -> None:
        super().__init__(network, num_classes)


class LastClass(Metric):
    """The share of images that the last class is predicted for: neither end is best."""

    predicted: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("predicted", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        self.predicted += (logits.argmax(1) == self.num_classes - 1).sum()
        self.count += len(targets)

    def compute(self) -> Tensor:
        """Return the share."""
        return self.predicted / self.count
