"""How often a training validates, checked before it starts."""

import math

from lightning import Trainer

from tlearn.errors import ConfigError, counted


def check_validation(trainer: Trainer, batches: int) -> None:
    """Refuse an interval between validations that an epoch, or the whole training, would never reach.

    Lightning would end with a trace, or train on and keep no best checkpoint.

    Args:
        trainer: the Trainer before the fit.
        batches: training batches of one process in an epoch, all of them.

    Raises:
        ConfigError: names the interval, what there is, and what to type.
    """
    limit, interval, every = trainer.limit_train_batches, trainer.val_check_interval, trainer.check_val_every_n_epoch
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    steps = math.inf if trainer.max_steps == -1 else trainer.max_steps
    total = min(batches * epochs, steps * trainer.accumulate_grad_batches) if batches else 0
    if not total:
        return
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
