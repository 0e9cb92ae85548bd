"""Callbacks: unfreezing at an epoch, and progress on the terminal."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from tlearn.console import duration, measured, say, short
from tlearn.display import Bar
from tlearn.training.ddp import DDPStrategy
from tlearn.training.module import TransferModule

# Metrics of an epoch's line and their names there; accuracies are those of val.
_TRAIN = {"train/loss": "loss"}
_VAL = {"val/loss": "val loss", "val/top1": "top1", "val/top5": "top5"}


class Unfreeze(Callback):
    """Unfreeze parts of the body at an epoch.

    Stateless: a resumed run is past the epoch or not. The optimizer holds these parameters from the start.
    """

    def __init__(self, epoch: int, stages: Sequence[str] | str) -> None:
        self.epoch, self.stages = epoch, stages

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze from that epoch on."""
        self._unfreeze(trainer, pl_module, trainer.current_epoch)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Unfreeze what had been unfrozen, for a run that is resumed within an epoch or at its end."""
        within = checkpoint["progress"]["within_epoch"]
        self._unfreeze(trainer, pl_module, checkpoint["epoch"] if within else checkpoint["epoch"] - 1)

    def _unfreeze(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        assert isinstance(pl_module, TransferModule)
        network = pl_module.network
        before = network.stages
        if epoch >= self.epoch:
            network.unfreeze(self.stages)
        if network.stages != before and isinstance(trainer.strategy, DDPStrategy):
            trainer.strategy.wrap_again()


class EpochProgress(ProgressBar):
    """Print a line for each epoch and for each validation within one; on a terminal, show a bar while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = Bar()
        self._started, self._batches, self._validated_at = 0.0, 0, -1
        self._line = ""
        self._kept: tuple[Any, Any] = None, None

    def disable(self) -> None:
        """Do nothing: called in every process except the first, where the console is silent anyway."""

    def enable(self) -> None:
        """Do nothing, as `disable`."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print what the module prints."""
        say(" ".join(map(str, args)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which checkpoint is the best, and start the clock: a resumed run has one, and may be in an epoch."""
        self._kept, self._started = _kept(trainer), time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch, and start the clock."""
        self._say_epoch(trainer)
        self._started, self._batches, self._validated_at = time.monotonic(), 0, -1
        self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        self._bar.start(_epoch(trainer), self.total_train_batches, self._batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        self._batches = batch_idx + 1
        self._bar.advance(note=lambda: _loss(trainer, outputs))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics of the epoch; whether its checkpoint is kept is decided later."""
        # A validation before the last batch has measured other weights, and has its own line.
        val = _shown(trainer) if self._validated_at == self._batches else {}
        # In every process: reading the metrics synchronises them.
        metrics = _in_words(trainer, _TRAIN | val)
        self._line = f"{_epoch(trainer)}  {metrics}  {duration(time.monotonic() - self._started)}"

    def _say_epoch(self, trainer: Trainer) -> None:
        """Print the line of a finished epoch, with a mark if its checkpoint is the best so far."""
        kept, line = _kept(trainer), self._line
        if line:
            say(line if kept == self._kept else f"{line} *")
        self._kept, self._line = kept, ""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch."""
        self._bar.stop()
        self._say_epoch(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar and print the line of the last epoch."""
        self.on_train_end(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a separate bar."""
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._bar.start(f"{_epoch(trainer)} val" if _is_fitting(trainer) else "evaluation", sum(batches))

    def on_validation_batch_end(self, *_: Any) -> None:
        """Move the bar."""
        self._bar.advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the metrics of a validation within an epoch; those at its end are in the epoch's line."""
        if not _is_fitting(trainer):
            self._bar.stop()
            return
        self._validated_at = self._batches
        if not trainer.is_last_batch:
            metrics = _in_words(trainer, _shown(trainer))
            say(f"{_epoch(trainer)} batch {self._batches}/{self.total_train_batches}  {metrics}")
        self._show(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a bar."""
        self._bar.start("evaluation", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any) -> None:
        """Move the bar."""
        self._bar.advance()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self._bar.stop()


def _is_fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _shown(trainer: Trainer) -> dict[str, str]:
    """Return the metrics of val to show and their names there: the usual ones, and what chooses the checkpoint."""
    monitor = getattr(trainer.checkpoint_callback, "monitor", None)
    return _VAL | (
        {} if monitor is None or monitor in _VAL else {monitor: monitor.removeprefix("val/").replace("_", " ")}
    )


def _kept(trainer: Trainer) -> tuple[Any, Any]:
    """Return a value that changes with each better checkpoint."""
    callback = trainer.checkpoint_callback
    return getattr(callback, "best_model_path", None), getattr(callback, "best_model_score", None)


def _epoch(trainer: Trainer) -> str:
    """Return the epoch's label, counted from 1."""
    last = trainer.max_epochs
    if last is None or last < 0:
        return f"epoch {trainer.current_epoch + 1}"
    return f"epoch {trainer.current_epoch + 1:>{len(str(last))}}/{last}"


def _in_words(trainer: Trainer, labels: Mapping[str, str]) -> str:
    found = trainer.callback_metrics
    return "  ".join(measured(label, float(found[name])) for name, label in labels.items() if name in found)


def _loss(trainer: Trainer, outputs: Any) -> str:
    if not isinstance(outputs, Mapping) or "loss" not in outputs:
        return ""
    # Lightning has divided the loss by the number of accumulated batches.
    return f"loss {short(float(outputs['loss']) * trainer.accumulate_grad_batches)}"
