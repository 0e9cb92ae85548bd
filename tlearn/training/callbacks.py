"""Callbacks: unfreezing at an epoch, and progress that reads well on a terminal and in a log file."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar, RichProgressBar

from tlearn.models.network import count_parameters
from tlearn.training.module import TransferModule


class Unfreeze(Callback):
    """Let parts of the body train from an epoch on.

    Holds no state: a resumed run is past the epoch or not. The optimizer has had their parameters from the start.
    """

    def __init__(self, epoch: int, stages: Sequence[str] | str) -> None:
        self.epoch, self.stages = epoch, stages

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze when the epoch has come."""
        assert isinstance(pl_module, TransferModule)
        if trainer.current_epoch >= self.epoch:
            pl_module.network.unfreeze(self.stages)


class NetworkSummary(Callback):
    """Print what the network is made of and how much of it trains, before the first epoch."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a line for body, head and total."""
        assert isinstance(pl_module, TransferModule)
        if not trainer.is_global_zero:
            return
        network = pl_module.network
        for name, part in (("body", network.body), ("head", network.head), ("total", network)):
            total, trainable = count_parameters(part)
            kind = "" if part is network else type(part).__name__
            print(f"{name:<6}{kind:<20}{total:>13,} parameters, {trainable:>13,} trainable", flush=True)


class PlainProgress(ProgressBar):
    """Print one line per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._start = 0.0
        self._enabled = True

    def disable(self) -> None:
        """Print nothing (all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Print again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a message."""
        if self._enabled:
            print(*args, flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        figures = trainer.callback_metrics
        shown = [name for name in ("train/loss", "val/loss", "val/top1", "val/top5") if name in figures]
        text = "  ".join(f"{name} {figures[name]:.4f}" for name in shown)
        seconds = time.monotonic() - self._start
        self.print(f"epoch {trainer.current_epoch} of {trainer.max_epochs}  {text}  {seconds:.1f} s")


def progress_bar() -> ProgressBar:
    """Give moving bars on a terminal and plain lines elsewhere."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else PlainProgress()
