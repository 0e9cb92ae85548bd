"""L-BFGS: a linear head fitted to convergence on all features, the weight decay chosen on val."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tlearn.analysis.linear_probe import Standardisation, lbfgs, minimise
from tlearn.errors import ConfigError
from tlearn.ranges import require
from tlearn.training.module import Batch, TransferModule


@dataclass(frozen=True)
class FullBatch:
    """Settings of the fit: one epoch per weight decay, strongest first, each starting from the previous solution.

    Args:
        weight_decays: coefficients of half the squared weights, for standardised features and the mean loss.
        max_iter: maximum number of iterations for each.
        history_size: past steps that L-BFGS remembers.
        tolerance: converged when no element of the gradient is larger.
    """

    weight_decays: Sequence[float]
    max_iter: int = 500
    history_size: int = 10
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        require("optimizer.weight_decays", self.weight_decays)


class FullBatchModule(TransferModule):
    """Fit a linear head on cached features, and validate it after each fit as after any epoch.

    The checkpoint callback chooses the best epoch, and with it the weight decay.
    """

    full_batch = True

    def __init__(self, *args: Any, fit: FullBatch, **more: Any) -> None:
        super().__init__(*args, **more)
        self.automatic_optimization = False
        self.fit = fit
        if not isinstance(self.network.head, nn.Linear) or self.network.stages:
            raise ConfigError("optimizer=lbfgs fits one linear layer: choose head=linear and finetune=frozen")

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer over the head's weight and bias."""
        how = self.fit
        return lbfgs(self.network.head.parameters(), how.max_iter, how.tolerance, how.history_size)

    def setup(self, stage: str) -> None:
        """Limit the number of epochs to the number of weight decays."""
        asked, loop = self.trainer.max_epochs, self.trainer.fit_loop
        loop.max_epochs = (
            len(self.fit.weight_decays) if asked in (None, -1) else min(asked, len(self.fit.weight_decays))
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Fit with the weight decay of the epoch; measure the fitted head on the same batch, which holds all images."""
        inputs, targets, _ = batch
        with torch.no_grad():
            features = self.network.features(inputs)
        self._fit(features, targets, self.fit.weight_decays[self.current_epoch])
        with torch.no_grad():
            loss, _ = self._step(batch, batch_idx, "train")
        return loss

    def _fit(self, features: Tensor, targets: Tensor, weight_decay: float) -> None:
        head, optimizer = self.network.head, self.optimizers()
        assert isinstance(head, nn.Linear)
        # Each fit is another problem: the curvature history of the previous one would mislead.
        optimizer.state.clear()  # type: ignore[union-attr]
        standardise = Standardisation.of(features)
        standardised = standardise(features)
        standardise.adapt(head)

        def loss() -> Tensor:
            return self.loss(head(standardised), targets)

        minimise(optimizer, loss, head.weight, weight_decay, self.manual_backward)
        standardise.revert(head)
        self.log("weight_decay", weight_decay, on_step=False, on_epoch=True)

    def describe_epoch(self, epoch: int) -> dict[str, float]:
        """Return the weight decay of an epoch."""
        return {"weight_decay": self.fit.weight_decays[epoch]}
