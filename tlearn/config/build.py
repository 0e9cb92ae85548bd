"""Build what a training needs from its configuration: the only place where configuration meets classes."""

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from tlearn.analysis.outputs import Outputs
from tlearn.config.compose import plain
from tlearn.config.relaunch import child_command
from tlearn.console import is_main_process, report_only
from tlearn.data.datamodule import ImageDataModule, SplitDataModule
from tlearn.data.decode import Decoder
from tlearn.data.pixel_cache import pixel_cache
from tlearn.data.prepare import BadImagesError, Pictures, prepare
from tlearn.data.split import check_manifest, fingerprint, read_manifest, write_manifest
from tlearn.data.transforms import Transform, complete, mixing
from tlearn.errors import ConfigError, DataError
from tlearn.models.network import TransferNetwork
from tlearn.runs.folder import RunFolder, environment
from tlearn.runs.model import MANIFEST, head_of, save_model
from tlearn.training.callbacks import Unfreeze, progress_bar
from tlearn.training.checkpoints import CheckpointIO
from tlearn.training.collect_outputs import Collector, Plan
from tlearn.training.ddp import DataParallelStrategy, DDPStrategy
from tlearn.training.full_batch import FullBatch, LogisticModule
from tlearn.training.module import TransferModule

# What decides how a network is trained; the rest are places, and what is shown of it.
RECIPE = ("seed", "backbone", "head", "finetune", "features", "loss", "optimizer", "scheduler", "transforms")

# What Lightning and torch say of things that are meant to be so here
_EXPECTED_WARNINGS = (
    # a frozen body is in eval mode: that is what frozen means
    r".*module\(s\) in eval mode at the start of training",
    # decided by data.num_workers and the CPUs there are
    r".*does not have many workers",
    # fewer batches than log_every_n_steps: small data sets are ordinary here
    r".*The number of training batches .* is smaller than the logging interval",
    # the run folder is claimed and holds the configuration by then
    r".*(Experiment logs directory|Checkpoint directory) .* exists and is not empty",
    # between lightning and torch
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",
    # raised by lightning for every scheduler on resume and for ReduceLROnPlateau
    r".*The epoch parameter in `scheduler.step\(\)`",
)


def build(node: Any, **more: Any) -> Any:
    """Build what a node of the configuration names, from plain lists and dictionaries.

    OmegaConf's own containers would end up in optimizers, and in checkpoints that then could not be read as plain data.
    """
    return instantiate(node, _convert_="all", **more)


def backbone(config: DictConfig) -> Any:
    """Choose the backbone; nothing is loaded yet."""
    return build(config.backbone, **({} if config.finetune.pretrained else {"weights": None}))


def complete_transforms(config: DictConfig, chosen: Any) -> dict[str, Any]:
    """Fill the configuration's transforms from the backbone's weights, so that the random steps can refer to them."""
    preprocessing = complete(chosen.preprocessing(), OmegaConf.to_container(config.transforms))  # type: ignore[arg-type]
    for key, value in preprocessing.items():
        config.transforms[key] = value
    return preprocessing


def decoder(config: DictConfig) -> Decoder:
    """Make the decoder of the configuration's data."""
    data = config.data
    return Decoder(data.max_pixels, tuple(data.alpha_background), data.high_bit_depth)


def cache(config: DictConfig) -> Path:
    """Give the folder of all that may be made again at any time."""
    return Path(config.paths.cache).expanduser()


def verified(config: DictConfig) -> Path:
    """Give the folder that remembers which files were found good."""
    return cache(config) / "verified"


def pictures(config: DictConfig, run: RunFolder) -> Pictures:
    """List, check and split the pictures; what was found wrong is written to data_report.json."""
    data, split = config.data, config.data.split
    fractions = list(split.fractions)
    try:
        found = prepare(
            build(data.source),
            decoder(config),
            fractions,
            split.val_fraction,
            config.seed,
            data.on_bad_image,
            verified(config),
            split.test_as_val,
        )
    except BadImagesError as error:
        run.write_json("data_report.json", {"unreadable": error.files})
        raise
    if is_main_process():
        if found.notes or found.skipped:
            run.write_json("data_report.json", {"unreadable": found.skipped, "notes": found.notes})
        counts = ", ".join(f"{name} {len(samples)}" for name, samples in found.splits.items())
        print(f"{len(found.classes)} classes; pictures: {counts}", *found.notes, sep="\n", flush=True)
    return found


def datamodule(config: DictConfig, found: Pictures, preprocessing: dict[str, Any]) -> ImageDataModule:
    """Make the loaders: augmentation for train, the deterministic transform for all others."""
    random = build(config.transforms.train)
    data, count = config.data, len(found.splits["train"])
    if count % data.batch_size == 1 and count > data.batch_size and is_main_process():
        print(
            f"the last training batch has {data.batch_size + 1} pictures: one alone could not train BatchNorm",
            flush=True,
        )
    fixed = Transform(preprocessing)
    return ImageDataModule(
        found,
        decoder(config),
        Transform(preprocessing, random),
        fixed,
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        balance=data.balance,
        seed=config.seed,
        cache=pixel_cache(data.cache, decoder(config), fixed, cache(config) / "pixels"),
    )


def network(config: DictConfig, chosen: Any, num_classes: int, size: int) -> TransferNetwork:
    """Load the body and put a new head on it."""
    # What the model folder could not describe is refused now and not after the training.
    head_of(OmegaConf.to_container(config.head.build, resolve=True))  # type: ignore[arg-type]
    chosen.architecture()
    body = chosen.build(config.head.replace)
    # The head starts the same for a seed, whatever building the body drew.
    torch.manual_seed(config.seed)
    head = build(config.head.build)(body.num_features, num_classes)
    built = TransferNetwork(body.module, head, names(config.finetune.stages))
    if size != chosen.preprocessing()["size"]:
        _check_size(built, size)
    # Checked here so that a wrong name fails now and not at the epoch of unfreezing
    built.frozen_keys(names(config.finetune.later_stages))
    # The layout in which convolutions are fastest, on CPUs and GPUs alike
    return built.to(memory_format=torch.channels_last)


def _check_size(built: TransferNetwork, size: int) -> None:
    """Refuse a size that the architecture cannot take: a ViT has learned the positions of one size."""
    try:
        with torch.no_grad():
            built.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"transforms.size={size} does not suit this backbone: {error}") from error


def names(stages: Any) -> str | list[str]:
    """Give names of parts of the body as the network takes them."""
    return stages if isinstance(stages, str) else list(stages)


def optimizer(config: DictConfig) -> Any:
    """Make the optimizer, still without parameters, or the plan of a full-batch fit."""
    return build(config.optimizer)


def module(config: DictConfig, built: TransferNetwork, data: SplitDataModule, chosen: Any) -> TransferModule:
    """Put network, objective, optimizer and schedule together."""
    classes = data.pictures.classes
    if config.monitor.metric.endswith("top5") and len(classes) <= 5:
        raise ConfigError(f"monitor.metric={config.monitor.metric} does not exist for {len(classes)} classes")
    weight = config.loss.get("weight")
    if weight is not None and len(weight) != len(classes):
        raise ConfigError(f"loss.weight has {len(weight)} values for the {len(classes)} classes {', '.join(classes)}")
    if weight is None and config.data.balance == "weights":
        weight = data.class_weights()
    loss = build(config.loss)(**({} if weight is None else {"weight": list(weight)}))
    tuning, transforms = config.finetune, config.transforms
    common = {"monitor": config.monitor.metric}
    if isinstance(chosen, FullBatch):
        if config.scheduler.build is not None or config.scheduler.warmup_steps:
            raise ConfigError("optimizer=lbfgs fits to convergence and has no learning rate: choose scheduler=none")
        if config.data.balance == "sampler":
            raise ConfigError("optimizer=lbfgs fits every picture once: choose data.balance=weights")
        return LogisticModule(built, len(classes), loss, fit=chosen, **common)
    return TransferModule(
        built,
        len(classes),
        loss,
        chosen,
        build(config.scheduler),
        body_lr_scale=tuning.body_lr_scale,
        later_stages=names(tuning.later_stages),
        mix=mixing(len(classes), transforms.mixup_alpha, transforms.cutmix_alpha),
        **common,
    )


def trainer(config: DictConfig, folder: Path) -> Trainer:
    """Make the Trainer with its callbacks, loggers and strategy."""
    _quieten()
    callbacks = [build(one) for one in (config.callbacks or {}).values() if one is not None]
    loggers = [build(one) for one in (config.logger or {}).values() if one is not None]
    tuning = config.finetune
    if tuning.unfreeze_epoch is not None:
        callbacks.append(Unfreeze(tuning.unfreeze_epoch, names(tuning.later_stages)))
    made: Trainer = build(config.trainer, callbacks=callbacks, logger=loggers, plugins=[CheckpointIO()])
    _prepare_processes(config, made, folder)
    if tuning.unfreeze_epoch is not None and made.world_size > 1:
        raise ConfigError(
            "finetune.unfreeze_epoch does not work with several processes: use one device or finetune=full"
        )
    return made


def evaluator(config: DictConfig, folder: Path) -> Trainer:
    """Make a Trainer that only measures."""
    _quieten()
    quiet = {"logger": False, "enable_checkpointing": False}
    made: Trainer = build(config.trainer, **quiet, callbacks=[progress_bar()])
    _prepare_processes(config, made, folder)
    return made


def _quieten() -> None:
    """Leave out what is expected, and Lightning's notes on devices and its other products."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)


def _prepare_processes(config: DictConfig, made: Trainer, folder: Path) -> None:
    """Refuse what several devices would not do right, and tell further processes what to run."""
    if isinstance(made.strategy, DataParallelStrategy) and config.trainer.devices != 1:
        raise ConfigError("trainer=dp takes its GPUs from trainer.strategy.devices, such as [0,1]")
    if made.world_size > 1 and not isinstance(made.strategy, DDPStrategy):
        raise ConfigError(
            f"trainer.devices={config.trainer.devices}: several processes need trainer=ddp or trainer=ddp_cpu"
        )
    if isinstance(made.strategy, DDPStrategy) and HydraConfig.initialized():
        made.strategy.relaunch_with(child_command(folder))


def describe(config: DictConfig, run: RunFolder, found: Pictures) -> None:
    """Write what the run is made of before it starts: the split and the environment."""
    path = run.path / MANIFEST
    if config.resume is not None:
        manifest = read_manifest(path)
        if manifest.splits != found.splits:
            raise DataError(f"the pictures are not those of {path}: files were added, removed or renamed since")
        check_manifest(manifest, found.root)
    if is_main_process():
        write_manifest(path, found.root, found.splits)
        data = {"root": str(found.root), "classes": found.classes, "fingerprint": fingerprint(found.root, found.splits)}
        run.write_json("environment.json", {**environment(), "data": data})


def evaluate_best(
    made: Trainer, trained: TransferModule, data: SplitDataModule, folder: Path, plan: Plan
) -> tuple[dict[str, float], dict[str, Outputs]]:
    """Load the best checkpoint, measure it on val and test, and give the figures and what the network gave.

    Args:
        made: that has fitted.
        trained: the module.
        data: its pictures.
        folder: the run's.
        plan: what is to be kept of it.
    """
    best = getattr(made.checkpoint_callback, "best_model_path", "")
    # A resumed run remembers the place where its best checkpoint was, and the folder may have moved since.
    checkpoint = str(folder / "checkpoints" / Path(best).name) if best else None
    figures: dict[str, float] = {"epoch/last": made.current_epoch - 1}
    if checkpoint is not None:
        epoch = CheckpointIO().load_checkpoint(checkpoint)["epoch"]
        figures |= {"epoch/best": epoch, **trained.describe_epoch(epoch)}
    # The log has this epoch's validation already.
    loggers, made.loggers = made.loggers, []
    collector, outputs = Collector(plan.features), {}
    with collector.attached(made, trained.network.head):
        [measured] = made.validate(trained, datamodule=data, ckpt_path=checkpoint, verbose=False)
        figures |= measured
        outputs["val"], _ = collector.take("val", data)
        if "test" in data.datasets:
            [measured] = made.test(trained, datamodule=data, verbose=False)
            figures |= measured
            outputs["test"], _ = collector.take("test", data)
            for logger in loggers:
                logger.log_metrics(dict(measured), step=made.global_step)
                logger.save()
        if plan.train_pictures:
            with report_only("another look at the training pictures"):
                made.validate(trained, dataloaders=data.plain_train_dataloader(), verbose=False)
                outputs["train"], _ = collector.take("train", data)
    made.loggers = loggers
    return figures, outputs


def finish(
    config: DictConfig,
    run: RunFolder,
    chosen: Any,
    data: SplitDataModule,
    built: TransferNetwork,
    preprocessing: dict[str, Any],
    figures: dict[str, float],
) -> None:
    """Write the model folder and metrics.json."""
    found = data.pictures
    resolved = plain(config)
    description = {
        "classes": found.classes,
        "preprocessing": preprocessing,
        "decoding": {key: resolved["data"][key] for key in ("max_pixels", "alpha_background", "high_bit_depth")},
        "architecture": chosen.architecture(),
        "replace": config.head.replace,
        "head": head_of(resolved["head"]["build"]),
        "data_root": str(found.root.absolute()),
        "temperature": figures["temperature"],
        "figures": figures,
        "config": resolved,
    }
    save_model(run.path / "model", built, description, _recipe(resolved, figures))
    # The manifest of the start: the files may have changed since, and reading their sizes again would hide it.
    shutil.copyfile(run.path / MANIFEST, run.path / "model" / MANIFEST)
    run.write_json("metrics.json", figures)


def _recipe(resolved: dict[str, Any], figures: dict[str, float]) -> dict[str, Any]:
    """Say how a network was trained, without the places where it was."""
    places = ("root", "download_root", "cache", "csv", "source")
    return {
        **{group: resolved[group] for group in RECIPE},
        "data": {key: value for key, value in resolved["data"].items() if key not in places},
        "epochs": resolved["trainer"]["max_epochs"],
        "figures": {name: value for name, value in figures.items() if not name.startswith("time/")},
    }


def show(figures: dict[str, float], folder: Path) -> None:
    """Print the figures, and in the last line where everything lies."""
    for name, value in sorted(figures.items()):
        print(f"{name:<20} {value:.4f}" if isinstance(value, float) else f"{name:<20} {value:,}")
    print(folder, flush=True)
