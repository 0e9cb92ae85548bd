"""The best checkpoint of a fit, evaluated on every split."""

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging

from tlearn.analysis.outputs import Outputs
from tlearn.console import report_only, say
from tlearn.data.datamodule import SplitDataModule
from tlearn.errors import CheckpointError, counted
from tlearn.training.averaging import ExactAverage
from tlearn.training.checkpoints import CheckpointIO
from tlearn.training.collect_outputs import Collector, Plan
from tlearn.training.module import TransferModule
from tlearn.training.non_finite import refuse_exploded
from tlearn.training.prepare_head import fold


def evaluate_best(
    trainer: Trainer, module: TransferModule, data: SplitDataModule, folder: Path, plan: Plan
) -> tuple[dict[str, float], dict[str, Outputs]]:
    """Load the best checkpoint and evaluate it on val, and on test after `finish` of the module.

    Returns the metrics, and the network's outputs by split, which only the first of several processes has. An exploded
    training is refused (NonFiniteError).

    Args:
        trainer: the Trainer that has fitted the module.
        module: the fitted module.
        data: its data module.
        folder: the run folder.
        plan: which outputs are kept.
    """
    metrics = _load_best(trainer, module, folder)
    # What is measured is what is kept, to its last digits.
    fold(module.network)
    _end_averaging(trainer)
    # The log already has the validation of this epoch.
    loggers, trainer.loggers = trainer.loggers, []
    collector = Collector(plan.features)
    outputs: dict[str, Outputs] = {}
    with collector.attached(trainer, module.network.head):
        [measured] = trainer.validate(module, datamodule=data, verbose=False)
        metrics |= measured
        outputs |= _taken(collector, "val", data)
        refuse_exploded(measured["val/loss"], len(data.image_set.classes))
        metrics |= module.finish(data, int(metrics.get("epoch/best", metrics["epoch/last"])))
        if "test" in data.datasets:
            [measured] = trainer.test(module, datamodule=data, verbose=False)
            metrics |= measured
            outputs |= _taken(collector, "test", data)
            for logger in loggers:
                logger.log_metrics(dict(measured), step=trainer.global_step)
                logger.save()
        if plan.train_pictures:
            with report_only("evaluating the training images"):
                trainer.validate(module, dataloaders=data.plain_train_dataloader(), verbose=False)
                outputs |= _taken(collector, "train", data)
    trainer.loggers = loggers
    return metrics, outputs


def _taken(collector: Collector, split: str, data: SplitDataModule) -> dict[str, Outputs]:
    """Return the outputs of the last evaluation by their split; nothing in further processes."""
    outputs, _ = collector.take(split, data)
    return {} if outputs is None else {split: outputs}


def _end_averaging(trainer: Trainer) -> None:
    """Remove averaging callbacks: validations would see their last average, and the checkpoint has the best one."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, ExactAverage | WeightAveraging)]


def _load_best(trainer: Trainer, module: TransferModule, folder: Path) -> dict[str, float]:
    """Load the best checkpoint into the module, and return which epoch is the best and the last.

    Not by the Trainer, which would also set the callbacks back to that epoch, and with an average of weights put those
    that were trained in its place. A try-out has none.

    Raises:
        CheckpointError: no checkpoint was kept, or it cannot be read.
    """
    metrics: dict[str, float] = {"epoch/last": trainer.current_epoch - 1}
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        say("trainer.fast_dev_run: a try-out of single batches chooses no checkpoint, so no model is kept")
        return metrics
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not best:
        done = f"{counted(trainer.current_epoch, 'epoch')} and {counted(trainer.global_step, 'step')}"
        raise CheckpointError(
            f"the training ended after {done}, before any checkpoint was validated and kept, so there is no model: "
            "let it train longer (trainer.max_epochs, trainer.max_steps, trainer.max_time), or keep more "
            "(callbacks.checkpoint)"
        )
    files = CheckpointIO(folder)
    checkpoint = files.load_checkpoint(best)
    with files.restoring():
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
        epoch = checkpoint["epoch"]
    say(ending(trainer, epoch))
    return {**metrics, "epoch/best": epoch, **module.describe_epoch(epoch)}


def ending(trainer: Trainer, best: int) -> str:
    """Say which epoch is kept, and why the fit stopped early if it did; epochs are counted from 1 here."""
    # Where it is the first epoch, its number is 0, as if none had stopped.
    stopped = next((one for one in trainer.early_stopping_callbacks if one.stopped_epoch or _is_exhausted(one)), None)
    if stopped is None:
        monitor, epochs = getattr(trainer.checkpoint_callback, "monitor", None), trainer.current_epoch
        found = f"best epoch {best + 1} of {epochs}" + (f" by {monitor}" if monitor else "")
        if epochs >= (trainer.max_epochs or 0):
            return found
        return f"stopped in epoch {epochs} of {trainer.max_epochs} by a limit of trainer or a callback; {found}"
    each_epoch = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
    checks = counted(stopped.wait_count, "epoch" if each_epoch else "validation")
    patience = f"has not improved for {checks}"
    reason = patience if _is_exhausted(stopped) else "has reached a limit of callbacks.early_stopping"
    return f"stopped after epoch {stopped.stopped_epoch + 1}: {stopped.monitor} {reason}; best epoch {best + 1}"


def _is_exhausted(stopping: EarlyStopping) -> bool:
    return stopping.wait_count >= max(1, stopping.patience)
