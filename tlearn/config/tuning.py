"""What finds a setting before training, and where it cannot."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from tlearn.config.arguments import key_of
from tlearn.config.seats import build
from tlearn.config.tree import task_overrides
from tlearn.data.datamodule import SplitDataModule
from tlearn.errors import ConfigError
from tlearn.training.data_parallel import DataParallelStrategy
from tlearn.training.module import TransferModule
from tlearn.training.prepare_head import PrepareHead
from tlearn.training.tune import BatchSize, LearningRate, Tuner, tune


def tuning(
    settings: Mapping[str, Any], built: Trainer, module: TransferModule
) -> Callable[[SplitDataModule, Mapping[str, float], Path], dict[str, float]] | None:
    """Build what finds a setting before training, if anything does; see `tlearn.training.tune.tune`."""
    if settings.get("tune") is None:
        return None
    tuner: Tuner = build("tune", settings["tune"])
    tuner.check(module)
    if built.world_size > 1 or isinstance(built.strategy, DataParallelStrategy):
        raise ConfigError(f"tune finds {tuner.key} on one device: choose trainer=auto, or leave tune out")
    if built.fast_dev_run or built.overfit_batches:  # type: ignore[attr-defined]
        raise ConfigError(f"tune needs more than single batches to find {tuner.key}: leave out debug or tune")
    if isinstance(tuner, BatchSize) and built.strategy.root_device.type == "cpu":
        raise ConfigError("tune=batch_size fills the memory of a GPU; on a CPU, that would end the process")
    if isinstance(tuner, LearningRate) and tuner.key in map(key_of, task_overrides()):
        raise ConfigError(f"tune=lr finds {tuner.key}, which is given, too: leave out one of them")
    # Nothing of the run but its devices, its precision and how it steps
    own = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "profiler": None}
    length = {"max_epochs": -1, "max_time": None, "limit_val_batches": 0, "val_check_interval": 1.0}
    # The features that the run will train on, but random weights: from a fit, no rate lowers the loss.
    given = built.callbacks  # type: ignore[attr-defined]
    prepares = isinstance(tuner, LearningRate) and any(isinstance(one, PrepareHead) for one in given)

    def new(callbacks: list[Callback], **more: Any) -> Trainer:
        more |= {**own, **length, "check_val_every_n_epoch": 1, "enable_model_summary": False}
        callbacks = [PrepareHead([]), *callbacks] if prepares else callbacks
        return build("trainer", settings["trainer"], callbacks=callbacks, **more)

    return partial(tune, tuner, module, new)
