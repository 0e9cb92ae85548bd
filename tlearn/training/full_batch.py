"""L-BFGS: a linear head fitted to convergence on all features, the weight decay chosen on val."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from tlearn.analysis.linear_probe import minimise
from tlearn.console import say
from tlearn.data.datamodule import SplitDataModule
from tlearn.data.split import TEST_AS_VAL
from tlearn.errors import ConfigError
from tlearn.ranges import require
from tlearn.training.feature_blocks import BlockLoss, FeatureBlocks, SlicedFeatures
from tlearn.training.module import Batch, TransferModule


class LBFGS(optim.LBFGS):
    """L-BFGS whose first step is about as long as that of scipy's L-BFGS-B: the gradient g times 1 / |g|_2.

    torch's is g times 1 / |g|_1, so short in many dimensions that the first line search of each fit evaluates the loss
    several times more.
    """

    def __init__(self, parameters: Iterable[Tensor], max_iter: int, tolerance: float, history_size: int) -> None:
        super().__init__(
            parameters,
            max_iter=max_iter,
            tolerance_grad=tolerance,
            history_size=history_size,
            line_search_fn="strong_wolfe",
        )

    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Minimise a loss from where its parameters are; its gradients are set by `closure`."""
        group = self.param_groups[0]
        parameters, iterations = group["params"], group["max_iter"]
        last: list[Tensor] = []

        def known() -> Tensor:
            now = [parameter.detach() for parameter in parameters]
            # The second call begins where the first has ended, which is mostly what it evaluated last.
            if not (last and all(map(torch.equal, now, last[1:]))):
                last[:] = [closure(), *(parameter.clone() for parameter in now)]
            return last[0]

        try:
            # |g|_1 is up to sqrt(n) |g|_2.
            group |= {"max_iter": 1, "lr": sum(parameter.numel() for parameter in parameters) ** 0.5}
            super().step(known)
            group |= {"max_iter": iterations - 1, "lr": 1.0}
            return super().step(known)
        finally:
            group |= {"max_iter": iterations, "lr": 1.0}


class FullBatchModule(TransferModule):
    """Fit a linear head on cached features, and validate it after each fit as after any epoch.

    Features are read in blocks, so that few are in memory at once, however many there are: 96 MB, on a GPU a third of
    what is free, and once more while they are read.

    Each epoch fits one weight decay, strongest first, starting from the previous solution. The checkpoint callback
    chooses the best epoch, and with it the weight decay. The last fit is on train and val together, where val had no
    part in the loss so far: Kornblith et al. 2019, arXiv:1805.08974, chose and fitted so.

    Args:
        weight_decays: coefficients of half the squared weights, for standardised features and the mean loss.
        max_iter: maximum number of iterations for each.
        history_size: past steps that L-BFGS remembers.
        tolerance: converged when no element of the gradient is larger.
        refit: fit train and val together after the choice; class weights of the loss stay those of train.

    Raises:
        ConfigError: the head is not linear, parts of the body train, or something is given that the fit cannot use.
    """

    full_batch = True

    def __init__(
        self,
        *args: Any,
        weight_decays: Sequence[float],
        max_iter: int = 500,
        history_size: int = 10,
        tolerance: float = 1e-5,
        refit: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        require("module.weight_decays", weight_decays)
        self.automatic_optimization = False
        self.weight_decays, self.max_iter = weight_decays, max_iter
        self.history_size, self.tolerance, self.refit = history_size, tolerance, refit
        self._objective: BlockLoss | None = None
        if not isinstance(self.network.head, nn.Linear) or self.network.stages or self.later_stages:
            raise ConfigError("module=full_batch fits one linear layer: choose head=linear and finetune=frozen")
        if self.optimizer is not None:
            raise ConfigError("module=full_batch fits to convergence without an optimizer: choose optimizer=none")
        if self.schedule is not None and self.schedule.changes_rates:
            raise ConfigError("module=full_batch has no learning rate: choose scheduler=none")
        if self.mix is not None:
            raise ConfigError("module=full_batch fits images as they are: leave out mixup_alpha and cutmix_alpha")

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer over the head's weight and bias."""
        return LBFGS(self.network.head.parameters(), self.max_iter, self.tolerance, self.history_size)

    def setup(self, stage: str) -> None:
        """Limit the number of epochs to the number of weight decays."""
        asked, loop, most = self.trainer.max_epochs, self.trainer.fit_loop, len(self.weight_decays)
        if stage == "fit" and asked is not None and 0 <= asked < most:
            say(f"trainer.max_epochs={asked}: only the first {asked} of {most} weight decays are fitted")
        loop.max_epochs = most if asked in (None, -1) else min(asked, most)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Fit with the weight decay of the epoch; measure the fitted head on the same batch, which holds all images."""
        inputs, targets, indices = batch
        # Of all epochs, as each batch holds all images in one order
        if self._objective is None:
            self._objective = self._loss_of([(inputs, targets)])
        objective, weight_decay = self._objective, self.weight_decays[self.current_epoch]
        self._fit(self.optimizers(), objective, weight_decay, self.manual_backward)
        self.log("weight_decay", weight_decay, on_step=False, on_epoch=True)
        with torch.no_grad():
            return self._measured(objective, indices, batch_idx)

    def _measured(self, objective: BlockLoss, indices: Tensor, batch_idx: int) -> Tensor:
        mean, start, blocks = torch.zeros((), device=self.device), 0, objective.blocks
        for features, targets, share in zip(blocks.raw(), blocks.targets, objective.shares, strict=True):
            part, targets = slice(start, start + len(features)), targets.to(self.device)
            start, logits = part.stop, self(features)
            # The mean over images that all count 0 is not a number.
            loss = self.loss(logits, targets) if share else torch.zeros_like(mean)
            self._check_loss(self.trainer, loss, indices[part])
            self.measure("train", batch_idx, logits, targets, share * len(blocks) / len(features) * loss)
            mean += share * loss
        return mean

    def on_train_end(self) -> None:
        """Release the features."""
        self._objective = None

    def finish(self, data: SplitDataModule, epoch: int) -> dict[str, float]:
        """Fit train and val together, with the weight decay of the best epoch times |train| / |train + val|.

        The coefficient is that of the mean loss, so a sum over more images has the same weight decay.
        """
        if not self.refit:
            return {}
        if TEST_AS_VAL in data.image_set.notes:
            say("no refit on train + val: val holds the test images")
            return {}
        parts = [data.datasets[split][None, 0][:2] for split in ("train", "val")]
        # An evaluation on a GPU leaves the module on the CPU.
        self.to(self.trainer.strategy.root_device)
        count = sum(len(targets) for _, targets in parts)
        weight_decay = self.weight_decays[epoch] * len(parts[0][1]) / count
        self._fit(self.configure_optimizers(), self._loss_of(parts), weight_decay)
        self.trained_on = "train+val"
        unmeasured = "" if "test" in data.datasets else "; no test images measure this fit"
        say(f"refit on train + val ({count:,} images) with weight decay {weight_decay:.3g}{unmeasured}")
        return {"weight_decay_refit": weight_decay}

    def _loss_of(self, parts: Sequence[tuple[SlicedFeatures, Tensor]]) -> BlockLoss:
        head = self.network.head
        assert isinstance(head, nn.Linear)
        return BlockLoss(FeatureBlocks(parts, head.weight), self.loss, head)

    def _fit(
        self,
        optimizer: Any,
        objective: BlockLoss,
        weight_decay: float,
        backward: Callable[[Tensor], Any] = Tensor.backward,
    ) -> None:
        # Each fit is another problem: the curvature history of the previous one would mislead.
        optimizer.state.clear()
        standardise, head = objective.blocks.standardise, objective.layer
        standardise.adapt(head)
        minimise(optimizer, objective, head.weight, weight_decay, backward)
        standardise.revert(head)

    def describe_epoch(self, epoch: int) -> dict[str, float]:
        """Return the weight decay of an epoch."""
        return {"weight_decay": self.weight_decays[epoch]}
