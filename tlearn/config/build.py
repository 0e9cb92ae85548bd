"""Build every object of a program from its configuration: the only place where configuration meets classes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar, WeightAveraging
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer

from tlearn.config import seats
from tlearn.config.relaunch import child_command
from tlearn.config.seats import build
from tlearn.config.valid_values import DECODING
from tlearn.console import is_main_process, say
from tlearn.data.datamodule import ImageDataModule
from tlearn.data.decode import Decoder
from tlearn.data.pixel_cache import pixel_cache
from tlearn.data.prepare import BadImagesError, ImageSet, class_counts, prepare
from tlearn.data.transforms import KEYS, Transform, complete, mixing
from tlearn.errors import ConfigError
from tlearn.models.backbones.base import Backbone, backbone_name
from tlearn.models.network import TransferNetwork
from tlearn.runs.folder import RunFolder
from tlearn.training.averaging import ExactAverage
from tlearn.training.callbacks import EpochProgress, Unfreeze
from tlearn.training.checkpoints import CheckpointIO
from tlearn.training.data_parallel import DataParallelStrategy
from tlearn.training.ddp import DDPStrategy
from tlearn.training.expected_warnings import ignore_expected_warnings
from tlearn.training.given_callbacks import check_callbacks
from tlearn.training.loggers import complete_loggers
from tlearn.training.module import TransferModule

# Preprocessing of most ImageNet weights, for looking at images without a backbone
_USUAL = {
    **{"resize": 256, "size": 224, "interpolation": "bilinear"},
    **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
# Loggers whose libraries are extras of this package
_EXTRAS = ("mlflow", "wandb")


def monitored(config: DictConfig) -> None:
    """Fill in `config.monitor.mode` from what the metric says of itself, and refuse metrics that cannot be built.

    Callbacks and schedules refer to it.
    """
    # Any number of classes for which every metric exists: the images are not listed yet.
    found, monitor = seats.metrics(config.metrics, 10), config.monitor
    higher = False if monitor.metric == "val/loss" else found[monitor.metric.removeprefix("val/")].higher_is_better
    if higher is None:
        if monitor.mode == "auto":
            raise ConfigError(f"{monitor.metric} does not say which end is best: give monitor.mode=min or max")
        return
    right = "max" if higher else "min"
    if monitor.mode not in ("auto", right):
        raise ConfigError(f"monitor.mode={monitor.mode}: {monitor.metric} is best at its {right}imum, so {right}")
    monitor.mode = right


def backbone(config: DictConfig) -> Backbone:
    """Build the backbone without loading weights, and fill in `config.transforms` from their preprocessing.

    Augmentations in the configuration refer to these values, such as `transforms.size`.
    """
    chosen = seats.backbone(config.backbone, config.finetune.pretrained)
    _fill_in(config, chosen.preprocessing())
    return chosen


def _fill_in(config: DictConfig, preprocessing: Mapping[str, Any]) -> None:
    given = OmegaConf.to_container(config.transforms)
    config.transforms.update(complete(preprocessing, given))  # type: ignore[arg-type]


def looked_at(config: DictConfig) -> Transform | None:
    """Build the transform of training images that a data set is looked at with; None where no transforms are chosen."""
    if config.get("transforms") is None:
        return None
    _fill_in(config, _USUAL if config.get("backbone") is None else seats.backbone(config.backbone).preprocessing())
    return _transforms(config)[0]


def _transforms(config: DictConfig) -> tuple[Transform, Transform]:
    """Build the transform of training images, and the deterministic one."""
    settings = OmegaConf.to_container(config.transforms, resolve=True)
    preprocessing = {key: settings[key] for key in KEYS}  # type: ignore[call-overload, index]
    return Transform(preprocessing, build(config.transforms.train)), Transform(preprocessing)


def image_set(config: DictConfig, run: RunFolder) -> ImageSet:
    """List, check and split the images; write unreadable ones and notes to data_report.json."""
    data, split = config.data, config.data.split
    try:
        found = prepare(
            seats.source(data.source),
            _decoder(data),
            list(split.fractions),
            split.val_fraction,
            config.seed,
            data.on_bad_image,
            Path(config.paths.cache).expanduser() / "verified",
            split.test_as_val,
        )
    except BadImagesError as error:
        run.write_json("data_report.json", {"unreadable": error.files})
        raise
    if is_main_process() and (found.notes or found.skipped):
        run.write_json("data_report.json", {"unreadable": found.skipped, "notes": found.notes})
    counts = ", ".join(f"{name} {len(samples):,}" for name, samples in found.splits.items())
    lines = class_counts(found.splits, found.classes)
    say(f"data: {data.name}, {len(found.classes)} classes; images: {counts}", *lines, *found.notes)
    return found


def _decoder(data: Any) -> Decoder:
    return Decoder(data.max_pixels, tuple(data.alpha_background), data.high_bit_depth, data.bit_depth)


def decoding(data: Any) -> dict[str, Any]:
    """Return the options of decoding that are given where null stands for those of a run."""
    given: Any = OmegaConf.to_container(data)
    return {name: given[name] for name in DECODING if given[name] is not None}


def datamodule(config: DictConfig, found: ImageSet) -> ImageDataModule:
    """Build the data module: augmentation for train, the deterministic transform for val and test."""
    data, count = config.data, len(found.splits["train"])
    if count % data.batch_size == 1 and count > data.batch_size:
        say(f"the last training batch has {data.batch_size + 1} images: a single one cannot train BatchNorm")
    decoder, (random, fixed) = _decoder(data), _transforms(config)
    return ImageDataModule(
        found,
        decoder,
        random,
        fixed,
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        balance=data.balance,
        seed=config.seed,
        cache=pixel_cache(data.cache, decoder, fixed, Path(config.paths.cache).expanduser() / "pixels"),
    )


def network(
    chosen: Backbone, num_classes: int, head: Mapping[str, Any], finetune: Mapping[str, Any], seed: int, size: int
) -> TransferNetwork:
    """Load the body and put a new head on it.

    Args:
        chosen: the backbone.
        num_classes: width of the head's output.
        head: settings of the head.
        finetune: which parts of the body train, and when.
        seed: seeds the initialisation of the head.
        size: the side of the images in pixels.
    """
    body = seats.body(chosen, head["replace"], finetune["pretrained"])
    # The head's initialisation depends on the seed alone, not on random numbers drawn while building the body.
    torch.manual_seed(seed)
    new = seats.head(head["build"], body.num_features, num_classes)
    built = TransferNetwork(body.module, new, finetune["stages"])
    if size != chosen.preprocessing()["size"]:
        _check_size(built, size)
    # Checked here so that a wrong name fails now and not when its epoch comes.
    built.frozen_keys(finetune["later_stages"])
    total, trained = built.count_parameters()
    say(f"network: {backbone_name(chosen)}; {total:,} parameters, {trained:,} trained")
    # Convolutions are fastest in this layout, on CPUs and GPUs alike.
    return built.to(memory_format=torch.channels_last)


def step_optimizer(config: DictConfig) -> Callable[[TransferNetwork], Optimizer]:
    """Build what makes the optimizer of a network's parameters, for timing its steps.

    Raises:
        ConfigError: there is no optimizer, or parts of the body join later.
    """
    tuning = config.finetune
    if not config.optimizer or config.optimizer.get("lr") is None:
        raise ConfigError("steps need an optimizer with a learning rate: choose optimizer=adam or another")
    if tuning.unfreeze_epoch is not None:
        raise ConfigError(
            f"finetune.unfreeze_epoch={tuning.unfreeze_epoch}: time finetune=frozen for the epochs before it, and "
            "finetune=full or finetune=partial for those after"
        )
    made = build(config.optimizer)
    return lambda built: made(built.parameter_groups(config.optimizer.lr, tuning.body_lr_scale))


def _check_size(built: TransferNetwork, size: int) -> None:
    """Refuse an image size that the architecture cannot take: a ViT has position embeddings for one size."""
    try:
        with torch.no_grad():
            built.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"images of {size} x {size} pixels do not suit this backbone: {error}") from error


def _names(stages: Any) -> str | list[str]:
    """Return names of the body's modules in the form that the network takes."""
    return stages if isinstance(stages, str) else list(stages)


def module(config: DictConfig, built: TransferNetwork, data: ImageDataModule) -> TransferModule:
    """Build the module from network, loss, optimizer and schedule.

    Raises:
        ConfigError: something does not suit the module, or the images.
    """
    classes = data.image_set.classes
    metrics = seats.metrics(config.metrics, len(classes))
    if config.monitor.metric not in ("val/loss", *(f"val/{name}" for name in metrics)):
        raise ConfigError(f"monitor.metric={config.monitor.metric} does not exist for {len(classes)} classes")
    weight = config.loss.get("weight")
    if weight is not None and len(weight) != len(classes):
        raise ConfigError(f"loss.weight has {len(weight)} values for the {len(classes)} classes {', '.join(classes)}")
    if weight is None and config.data.balance == "weights":
        weight = data.class_weights()
    tuning, transforms = config.finetune, config.transforms
    mix = mixing(len(classes), transforms.mixup_alpha, transforms.cutmix_alpha)
    built_module = seats.module(
        config.module,
        network=built,
        num_classes=len(classes),
        loss=seats.loss(config.loss, len(classes), weight, mixed=mix is not None),
        optimizer=build(config.optimizer) if config.optimizer else None,
        schedule=build(config.scheduler),
        body_lr_scale=tuning.body_lr_scale,
        later_stages=_names(tuning.later_stages),
        mix=mix,
        monitor=config.monitor.metric,
        metrics=metrics,
    )
    if built_module.full_batch and config.data.balance == "sampler":
        raise ConfigError("module=full_batch fits every image once: choose data.balance=weights")
    return built_module


def trainer(config: DictConfig, folder: Path) -> Trainer:
    """Build the Trainer with its strategy; for training, also with callbacks and loggers."""
    ignore_expected_warnings()
    parts: dict[str, Any] = {"callbacks": [EpochProgress()], "logger": False, "enable_checkpointing": False}
    tuning = config.get("finetune")
    if tuning is not None:
        parts = {
            "callbacks": _callbacks(config),
            "logger": _loggers(config, folder),
            "plugins": [CheckpointIO()],
        }
        if not any(isinstance(callback, ProgressBar) for callback in parts["callbacks"]):
            # Lightning would add one of its own.
            parts["enable_progress_bar"] = False
    built: Trainer = build(config.trainer, **parts)
    _check_devices(built, config.trainer.devices)
    if tuning is not None and tuning.unfreeze_epoch is not None and built.world_size > 1:
        raise ConfigError(
            "finetune.unfreeze_epoch does not work with several processes: use one device or finetune=full"
        )
    if isinstance(built.strategy, DDPStrategy) and HydraConfig.initialized():
        built.strategy.relaunch_with(child_command(folder))
    return built


def _callbacks(config: DictConfig) -> list[Callback]:
    """Build the callbacks that are configured, and those that belong to them or to finetune."""
    given = seats.parts(config.callbacks, Callback, "callbacks")
    check_callbacks(given)
    tuning, callbacks = config.finetune, list(given.values())
    if not any(isinstance(callback, Checkpoint) for callback in callbacks):
        raise ConfigError(
            "callbacks has no checkpoint, and a run keeps its best one: an option of your own begins with "
            "defaults: [default, _self_]"
        )
    build(config.scheduler).train_to_the_end(callbacks)
    callbacks[:0] = [ExactAverage(callback) for callback in callbacks if isinstance(callback, WeightAveraging)]
    if tuning.unfreeze_epoch is not None:
        callbacks.append(Unfreeze(tuning.unfreeze_epoch, _names(tuning.later_stages)))
    if config.quiet:
        for bar in callbacks:
            if isinstance(bar, ProgressBar):
                bar.disable()
    return callbacks


def _loggers(config: DictConfig, folder: Path) -> list[Logger]:
    """Build the loggers that are configured, and the one for metrics.csv."""
    try:
        return complete_loggers(seats.parts(config.get("logger"), Logger, "logger"), folder)
    except InstantiationException as error:
        name = next((one for one in _EXTRAS if f"full_key: logger.{one}" in str(error)), None)
        if name is None:
            raise
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise ConfigError(f"logger={name} needs the extra {name}: pip install 'tlearn[{name}]'") from error
        raise ConfigError(f"logger={name}: {str(error.__cause__).splitlines()[0]}") from error


def _check_devices(built: Trainer, devices: Any) -> None:
    """Refuse device settings that would give wrong results."""
    if isinstance(built.strategy, DataParallelStrategy) and devices != 1:
        raise ConfigError("trainer=dp takes its GPUs from trainer.strategy.devices, such as [0,1]")
    if built.world_size > 1 and not isinstance(built.strategy, DDPStrategy):
        raise ConfigError(f"trainer.devices={devices}: several processes need trainer=ddp or trainer=ddp_cpu")
