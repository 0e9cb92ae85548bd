"""A training, built from its configuration and checked, before its first step."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Trainer
from omegaconf import DictConfig

from tlearn.config import build
from tlearn.config.settle import settled
from tlearn.config.stored_run import check_resume
from tlearn.config.trainer import training_trainer
from tlearn.config.tree import settings_of
from tlearn.console import say
from tlearn.data.datamodule import ImageDataModule
from tlearn.errors import ConfigError
from tlearn.models.backbones.base import Backbone
from tlearn.models.network import TransferNetwork
from tlearn.runs.folder import RunFolder
from tlearn.training.checkpoints import check_room, trained_epochs
from tlearn.training.global_batch import step_notes
from tlearn.training.module import TransferModule
from tlearn.training.resume import last_checkpoint
from tlearn.training.validation import check_validation


@dataclass(frozen=True)
class Prepared:
    """The parts of a training.

    Args:
        settings: the whole configuration as plain values.
        images: the data module, whose `image_set` has the splits.
    """

    settings: dict[str, Any]
    backbone: Backbone
    trainer: Trainer
    network: TransferNetwork
    images: ImageDataModule
    module: TransferModule


def prepared(config: DictConfig, run: RunFolder) -> Prepared:
    """Build the parts of a training, and refuse those that do not go together."""
    backbone = build.backbone(settings_of(config))
    settings = settled(config, backbone.preprocessing())
    trainer = training_trainer(settings, run.path)
    image_set = build.image_set(settings, run)
    network = build.network(settings, backbone, len(image_set.classes), settings["transforms"]["size"])
    images = build.datamodule(settings, image_set)
    images.check_processes(trainer.world_size)
    module = build.module(settings, network, images)
    rate, synced = (settings["optimizer"] or {}).get("lr"), bool(settings["trainer"].get("sync_batchnorm"))
    say(*step_notes(trainer, module, images.batch_size, len(images.datasets["train"]), rate, synced))
    if module.full_batch and trainer.precision not in ("32-true", "64-true"):
        raise ConfigError(
            f"trainer.precision={trainer.precision}: module=full_batch fits to convergence, which takes 32-true"
        )
    check_validation(trainer, 1 if module.full_batch else images.count_train_batches(trainer.world_size))
    check_room(run.path, network)
    return Prepared(settings, backbone, trainer, network, images, module)


def continued(settings: Mapping[str, Any], run: Path) -> tuple[Path | None, list[str]]:
    """Return the checkpoint from which a run goes on, and the settings that change; None and none for a new run.

    Args:
        settings: the configuration, unresolved.
        run: the run folder.
    """
    if settings["resume"] is None:
        return None, []
    changed, checkpoint = check_resume(settings, run), last_checkpoint(run)
    epochs = trained_epochs(checkpoint, settings["trainer"]["max_epochs"])
    say(f"{run} goes on after epoch {epochs}")
    return checkpoint, changed
