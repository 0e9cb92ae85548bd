"""Settings that are found before training: the learning rate by a range test, the batch size by the memory it takes.

Both train a copy of the module with a Trainer of their own, so that network, generators and log stay as they were: a
run with the value that was found, typed by hand, is the same run. Lightning's finders are not used. That of rates gives
head and body the same one and takes the steepest fall per unit of the rate, which is noise at the smallest rates (2e-5
for a head on cat_dog, whose loss falls from 1e-4 to 5e-2); that of batch sizes returns sizes that it has not tried.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.memory import garbage_collection_cuda
from lightning.pytorch.utilities.seed import isolate_rng

from tlearn.analysis.drawing import write_figure
from tlearn.analysis.rate_test import rate_figure, smoothed, steepest_rate
from tlearn.console import say
from tlearn.data.datamodule import ImageDataModule, SplitDataModule
from tlearn.data.workers import temporary_folder
from tlearn.errors import ConfigError, NonFiniteError, may_be_out_of_memory
from tlearn.files import write_table
from tlearn.training.module import TransferModule

# keyword arguments -> Trainer with the devices and the precision of the run
NewTrainer = Callable[..., Trainer]


class Tuner(Protocol):
    """What `tune` builds."""

    # The setting that it finds
    key: str

    def check(self, module: TransferModule) -> None:
        """Raise ConfigError where the module has no such setting."""

    def find(self, module: TransferModule, data: SplitDataModule, trainer: NewTrainer, figures: Path) -> float:
        """Find the value, say it, and write figures to a folder."""

    def use(self, value: Any, module: TransferModule, data: SplitDataModule) -> None:
        """Train with the value."""


def tune(
    tuner: Tuner,
    module: TransferModule,
    trainer: NewTrainer,
    data: SplitDataModule,
    known: Mapping[str, float],
    figures: Path,
) -> dict[str, float]:
    """Use the setting that was `known` when the run was started, or find it; return it by its dotted key."""
    value = known[tuner.key] if tuner.key in known else tuner.find(module, data, trainer, figures)
    tuner.use(value, module, data)
    return {tuner.key: value}


class _Rates(Callback):
    """Raise the learning rate from step to step, and keep the loss of each, until it is far above the lowest."""

    def __init__(self, rates: list[float]) -> None:
        self._rates, self._ratios = rates, [1.0]
        # step -> loss
        self.losses: dict[int, float] = {}
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember how the rates of the groups relate to the first, which is the head's."""
        groups = trainer.optimizers[0].param_groups
        self._ratios = [group["lr"] / groups[0]["lr"] for group in groups]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rate of the step."""
        self._step = trainer.global_step
        for group, ratio in zip(trainer.optimizers[0].param_groups, self._ratios, strict=True):
            group["lr"] = self._rates[self._step] * ratio

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, which Lightning has divided by the number of accumulated batches."""
        self.losses[self._step] = float(outputs["loss"]) * trainer.accumulate_grad_batches
        smooth = smoothed(list(self.losses.values()))
        trainer.should_stop = smooth[-1] > 4 * min(smooth)


@dataclass(frozen=True)
class LearningRate:
    """Range test: one step at each of exponentially growing rates, and the rate at which the loss falls fastest.

    Args:
        min_lr: the first rate of the head; other groups keep their ratio to it.
        max_lr: the last.
        steps: how many.
    """

    min_lr: float = 1e-6
    max_lr: float = 10.0
    steps: int = 100
    key: str = "optimizer.lr"

    def __post_init__(self) -> None:
        if not 0 < self.min_lr < self.max_lr or self.steps < 20:
            raise ConfigError("tune: a range test needs 0 < min_lr < max_lr and at least 20 steps")

    def check(self, module: TransferModule) -> None:
        """Refuse a module that sets its own rates."""
        if module.full_batch or type(module).configure_optimizers is not TransferModule.configure_optimizers:
            raise ConfigError(f"tune=lr: {type(module).__name__} does not train with optimizer.lr: leave tune out")

    def find(self, module: TransferModule, data: SplitDataModule, trainer: NewTrainer, figures: Path) -> float:
        """Find the rate, and draw the test to learning_rate.png."""
        rates = [self.min_lr * (self.max_lr / self.min_lr) ** (step / (self.steps - 1)) for step in range(self.steps)]
        sweep = _Rates(rates)
        # The rates before such a loss have been seen.
        with suppress(NonFiniteError):
            _try(module, data, trainer, sweep, self.steps)
        losses = [loss for loss in sweep.losses.values() if math.isfinite(loss)]
        if not losses:
            raise NonFiniteError(
                "tune=lr: the loss of the first step is not finite: leave tune out, and the training names the images "
                "of that batch"
            )
        rates = rates[: len(losses)]
        found = steepest_rate(rates, losses)
        file = figures / "learning_rate.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_figure(file, rate_figure(rates, losses, found))
        write_table(
            file.with_suffix(".csv"), [{"lr": lr, "loss": loss} for lr, loss in zip(rates, losses, strict=True)]
        )
        if found is None:
            raise ConfigError(f"tune=lr: the loss falls at no rate, see {file}: set optimizer.lr")
        say(f"tune: optimizer.lr={found:g}, by {len(losses)} steps from {rates[0]:g} to {rates[-1]:.2g}")
        return found

    def use(self, value: Any, module: TransferModule, data: SplitDataModule) -> None:
        """Set the rate of the module's optimizer."""
        assert isinstance(module.optimizer, partial)
        module.optimizer = partial(module.optimizer, lr=value)


@dataclass(frozen=True)
class BatchSize:
    """Double data.batch_size while three steps fit into the memory of the device, or halve it until they do.

    Args:
        max_size: no larger one is tried.
    """

    max_size: int = 8192
    key: str = "data.batch_size"

    def check(self, module: TransferModule) -> None:
        """Refuse a module that takes all images at once."""
        if module.full_batch:
            raise ConfigError(f"tune=batch_size: {type(module).__name__} takes all images at once: leave tune out")

    def find(self, module: TransferModule, data: SplitDataModule, trainer: NewTrainer, figures: Path) -> int:
        """Find the size.

        Raises:
            ConfigError: a size says nothing about memory, or none fits.
        """
        if not isinstance(data, ImageDataModule) and not module.network.stages:
            raise ConfigError("tune=batch_size: a head on cached features takes hardly any memory: set data.batch_size")
        most, size, fitting = min(self.max_size, len(data.datasets["train"])), data.batch_size, 0
        while fitting == 0 or 2 * fitting <= most:
            size = data.batch_size = 2 * fitting or size
            if self._fits(module, data, trainer):
                fitting = size
            elif fitting or size == 1:
                break
            else:
                size //= 2
        if not fitting:
            raise ConfigError("tune=batch_size: not even one image fits into the memory: choose a smaller backbone")
        reason = f"{size} do not fit" if size > fitting else "no more images" if most < self.max_size else "the most"
        say(f"tune: data.batch_size={fitting} ({reason})")
        return fitting

    def use(self, value: Any, module: TransferModule, data: SplitDataModule) -> None:
        """Set the size of the data module's batches."""
        data.batch_size = value

    def _fits(self, module: TransferModule, data: SplitDataModule, trainer: NewTrainer) -> bool:
        try:
            _try(module, data, trainer, None, 3)
        except (RuntimeError, MemoryError) as error:
            if not may_be_out_of_memory(error):
                raise
            return False
        finally:
            garbage_collection_cuda()
        return True


def _try(
    module: TransferModule, data: SplitDataModule, trainer: NewTrainer, callback: Callback | None, steps: int
) -> None:
    """Train a copy of the module, without its schedule, for some steps."""
    trial = copy.deepcopy(module)
    trial.schedule = None
    with isolate_rng(), tempfile.TemporaryDirectory(dir=temporary_folder()) as folder:
        trainer(max_steps=steps, callbacks=[callback] if callback else [], default_root_dir=folder).fit(
            trial, datamodule=data
        )
