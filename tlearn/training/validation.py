"""What a training validates, and which checkpoint it keeps, checked before it starts."""

import math

from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from tlearn.errors import ConfigError, counted


def check_limits(trainer: Trainer) -> None:
    """Refuse limits of a Trainer under which nothing would be measured.

    Raises:
        ConfigError: names the limit.
    """
    for split in ("val", "test"):
        if getattr(trainer, f"limit_{split}_batches") == 0:
            raise ConfigError(f"trainer.limit_{split}_batches=0: nothing of {split} would be measured; leave it out")


def check_validation(trainer: Trainer, batches: int) -> None:
    """Refuse a training that would end before its first validation, or without keeping a checkpoint of one.

    Lightning would end with a trace, or train on and keep no best checkpoint.

    Args:
        trainer: the Trainer before the fit.
        batches: training batches of one process in an epoch, all of them.

    Raises:
        ConfigError: names the setting, what there is, and what to type.
    """
    limit, interval, every = trainer.limit_train_batches, trainer.val_check_interval, trainer.check_val_every_n_epoch
    if limit == 0 or trainer.max_steps == 0:
        name = "limit_train_batches" if limit == 0 else "max_steps"
        raise ConfigError(f"trainer.{name}=0: nothing would be trained; leave it out")
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    if not batches:
        # Lightning tells the smallest fraction.
        return
    total = min(batches * epochs, _batches_of_steps(trainer, batches))
    _check_first(trainer, batches, epochs, total)
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        _check_kept(trainer.checkpoint_callback, epochs, every or 1, each_epoch=interval == 1.0 and every == 1)


def _check_first(trainer: Trainer, batches: int, epochs: float, total: float) -> None:
    """Refuse a first validation that would come after the end of the training.

    Args:
        trainer: the Trainer before the fit.
        batches: those that an epoch trains.
        epochs: the limit of epochs.
        total: batches of the whole training.
    """
    interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
    if every is None and interval > total:
        raise ConfigError(
            f"trainer.val_check_interval={interval}: the whole training has {counted(int(total), 'batch', 'batches')}, "
            f"and nothing would be validated; set trainer.val_check_interval={int(min(batches, total))}"
        )
    if every is not None and isinstance(interval, int) and interval > batches:
        raise ConfigError(
            f"trainer.val_check_interval={interval}: an epoch has {counted(batches, 'batch', 'batches')}; set "
            f"trainer.val_check_interval={batches}, or trainer.check_val_every_n_epoch=null to count on over epochs"
        )
    if every is not None and every > epochs:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every}: the training has {counted(int(epochs), 'epoch')}, and nothing "
            f"would be validated; set trainer.check_val_every_n_epoch={epochs}"
        )
    if every is not None:
        first = (every - 1) * batches + (interval if isinstance(interval, int) else max(1, int(batches * interval)))
        if first > total:
            raise ConfigError(
                f"trainer.max_steps={trainer.max_steps}: the training would end before its first validation, which is "
                f"after {counted(first, 'batch', 'batches')}; give more, or set trainer.val_check_interval={int(total)}"
            )


def _batches_of_steps(trainer: Trainer, batches: int) -> float:
    """Return the batches that the Trainer's steps take; an epoch's last step takes what is left of it."""
    if trainer.max_steps == -1:
        return math.inf
    whole, rest = divmod(trainer.max_steps, math.ceil(batches / trainer.accumulate_grad_batches))
    return whole * batches + rest * trainer.accumulate_grad_batches


def _check_kept(kept: Checkpoint | None, epochs: float, validated: int, each_epoch: bool) -> None:
    """Refuse the checkpoint callback that chooses the model where it would keep nothing that is validated."""
    if not isinstance(kept, ModelCheckpoint):
        return
    every = kept._every_n_epochs
    if kept.save_top_k == 0:
        raise ConfigError("callbacks.checkpoint.save_top_k=0 keeps no checkpoint, and the model is the best: set 1")
    if kept._every_n_train_steps or kept._train_time_interval is not None:
        if kept.monitor is not None:
            raise ConfigError(
                "callbacks.checkpoint: every_n_train_steps and train_time_interval keep weights that no validation has "
                "measured; set trainer.val_check_interval instead (callbacks.last.every_seconds is for resuming)"
            )
    elif not 0 < math.lcm(every, validated) <= epochs:
        told = f"no such epoch of {epochs} is validated" if every else "that is never"
        raise ConfigError(
            f"callbacks.checkpoint.every_n_epochs={every}: {told}, and no checkpoint would be kept; set 1"
        )
    if kept.monitor is not None and kept._save_on_train_epoch_end and not each_epoch:
        raise ConfigError(
            "callbacks.checkpoint.save_on_train_epoch_end=true would keep weights at ends of epochs that are not "
            "validated: set null"
        )
