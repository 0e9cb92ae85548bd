"""Build what a training needs from its configuration: the only place where configuration meets classes."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from tlearn.bundle import MANIFEST, Model, head_of, save_model
from tlearn.callbacks import Unfreeze, progress_bar
from tlearn.checkpoints import CheckpointIO
from tlearn.cli import is_main_process
from tlearn.configs import plain
from tlearn.data.datamodule import ImageDataModule
from tlearn.data.decode import Decoder
from tlearn.data.prepare import BadImagesError, Pictures, available_cpus, prepare
from tlearn.data.samples import Sample
from tlearn.data.splits import read_manifest, write_manifest
from tlearn.data.transforms import Transform, complete, mixing
from tlearn.data.verify import find_bad_images
from tlearn.errors import CheckpointError, ConfigError, DataError
from tlearn.models.network import TransferNetwork
from tlearn.module import TransferModule
from tlearn.parallel import DDPStrategy
from tlearn.resume import quoted
from tlearn.run import RunFolder, environment

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

# What a resumed run may have other than the stopped one: where and how far, not what is learned
_FREE_ON_RESUME = ("resume", "paths", "extra", "trainer", "logger", "callbacks", "data.root", "data.num_workers")


def backbone(config: DictConfig) -> Any:
    """Choose the backbone; nothing is loaded yet."""
    chosen = instantiate(config.backbone)
    if not config.finetune.pretrained:
        chosen = instantiate(config.backbone, weights=None)
    return chosen


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


def model_decoder(model: Model) -> Decoder:
    """Make the decoder that a model was trained with."""
    return Decoder(**model.description["decoding"])


def check_readable(config: DictConfig, root: Path, samples: Sequence[Sample], reader: Decoder) -> None:
    """Refuse pictures that cannot be read, all of them at once."""
    cache = Path(config.paths.cache).expanduser() / "verified"
    bad = find_bad_images(root, [sample.path for sample in samples], reader, cache, available_cpus())
    if bad:
        raise BadImagesError(root, bad)


def pictures(config: DictConfig, run: RunFolder) -> Pictures:
    """List, check and split the pictures; what was found wrong is written to data_report.json."""
    data, split = config.data, config.data.split
    cache = Path(config.paths.cache).expanduser() / "verified"
    fractions = list(split.fractions)
    try:
        found = prepare(
            instantiate(data.source),
            decoder(config),
            fractions,
            split.val_fraction,
            config.seed,
            data.on_bad_image,
            cache,
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
    random = instantiate(config.transforms.train)
    data = config.data
    return ImageDataModule(
        found,
        decoder(config),
        Transform(preprocessing, random),
        Transform(preprocessing),
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        balance=data.balance,
        seed=config.seed,
    )


def network(config: DictConfig, chosen: Any, num_classes: int, size: int) -> TransferNetwork:
    """Load the body and put a new head on it."""
    body = chosen.build(config.head.replace)
    # The head starts the same for a seed, whatever building the body drew.
    torch.manual_seed(config.seed)
    head = instantiate(config.head.build)(body.num_features, num_classes)
    built = TransferNetwork(body.module, head, _names(config.finetune.stages))
    if size != chosen.preprocessing()["size"]:
        _check_size(built, size)
    # Checked here so that a wrong name fails now and not at the epoch of unfreezing
    built.frozen_keys(_names(config.finetune.later_stages))
    # The layout in which convolutions are fastest, on CPUs and GPUs alike
    return built.to(memory_format=torch.channels_last)


def _check_size(built: TransferNetwork, size: int) -> None:
    """Refuse a size that the architecture cannot take: a ViT has learned the positions of one size."""
    try:
        with torch.no_grad():
            built.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"transforms.size={size} does not suit this backbone: {error}") from error


def _names(stages: Any) -> str | list[str]:
    return stages if isinstance(stages, str) else list(stages)


def module(config: DictConfig, built: TransferNetwork, data: ImageDataModule) -> TransferModule:
    """Put network, objective, optimizer and schedule together."""
    classes = data.pictures.classes
    weight = config.loss.get("weight")
    if weight is not None and len(weight) != len(classes):
        raise ConfigError(f"loss.weight has {len(weight)} values for the {len(classes)} classes {', '.join(classes)}")
    if weight is None and config.data.balance == "weights":
        weight = data.class_weights()
    loss = instantiate(config.loss)(**({} if weight is None else {"weight": list(weight)}))
    tuning, transforms = config.finetune, config.transforms
    return TransferModule(
        built,
        len(classes),
        loss,
        instantiate(config.optimizer),
        instantiate(config.scheduler),
        body_lr_scale=tuning.body_lr_scale,
        later_stages=_names(tuning.later_stages),
        mix=mixing(len(classes), transforms.mixup_alpha, transforms.cutmix_alpha),
        monitor=config.monitor.metric,
    )


def trainer(config: DictConfig, folder: Path) -> Trainer:
    """Make the Trainer with its callbacks, loggers and strategy."""
    _quieten()
    callbacks = [instantiate(one) for one in (config.callbacks or {}).values() if one is not None]
    loggers = [instantiate(one) for one in (config.logger or {}).values() if one is not None]
    tuning = config.finetune
    if tuning.unfreeze_epoch is not None:
        callbacks.append(Unfreeze(tuning.unfreeze_epoch, _names(tuning.later_stages)))
    made: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, plugins=[CheckpointIO()])
    if tuning.unfreeze_epoch is not None and made.world_size > 1:
        raise ConfigError(
            "finetune.unfreeze_epoch does not work with several processes: use one device or finetune=full"
        )
    _prepare_processes(made, folder)
    return made


def evaluator(config: DictConfig, folder: Path) -> Trainer:
    """Make a Trainer that only measures."""
    _quieten()
    quiet = {"logger": False, "enable_checkpointing": False}
    made: Trainer = instantiate(config.trainer, **quiet, callbacks=[progress_bar()])
    _prepare_processes(made, folder)
    return made


def _quieten() -> None:
    """Leave out what is expected, and Lightning's notes on devices and its other products."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)


def _prepare_processes(made: Trainer, folder: Path) -> None:
    if isinstance(made.strategy, DDPStrategy) and HydraConfig.initialized():
        made.strategy.relaunch_with(_child_command(folder))


def _child_command(folder: Path) -> list[str]:
    """Give the command of a further process: this trial alone, in this run's folder."""
    job = HydraConfig.get()
    sources = [source.path for source in job.runtime.config_sources if source.provider == "command-line"]
    search = ["--config-dir", sources[0]] if sources else []
    return [
        "-m",
        f"tlearn.{job.job.config_name}",
        *search,
        *job.overrides.task,
        f"hydra.run.dir='{quoted}'",
        "hydra.output_subdir=null",
    ]


def resume_from(config: DictConfig) -> str | None:
    """Give the checkpoint to go on from, or None."""
    if config.resume is None:
        return None
    path = Path(config.resume) / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: {config.resume} stopped before its first checkpoint; start it anew")
    return str(path)


def check_resume(config: DictConfig, folder: Path) -> None:
    """Refuse to go on with a run under another configuration."""
    if config.resume is None:
        return
    try:
        stored = OmegaConf.load(folder / ".hydra" / "config.yaml")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no run to go on with: {error}") from error
    before, now = _flat(OmegaConf.to_container(stored)), _flat(OmegaConf.to_container(config))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    changed = [key for key in changed if not key.startswith(_FREE_ON_RESUME)]
    if changed:
        lines = "\n".join(f"  {key}: {before.get(key)} -> {now.get(key)}" for key in changed)
        raise ConfigError(f"a resumed run keeps its configuration, and these differ:\n{lines}")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix.rstrip("."): node}
    return {key: value for name, child in node.items() for key, value in _flat(child, f"{prefix}{name}.").items()}


def describe(config: DictConfig, run: RunFolder, found: Pictures) -> None:
    """Write what the run is made of before it starts: the split and the environment."""
    manifest = run.path / MANIFEST
    if config.resume is not None and read_manifest(manifest).splits != found.splits:
        raise DataError(f"the pictures are not those of {manifest}: files were added, removed or renamed since")
    if is_main_process():
        write_manifest(manifest, found.root, found.splits)
        run.write_json("environment.json", environment())


def evaluate_best(made: Trainer, trained: TransferModule, data: ImageDataModule) -> dict[str, float]:
    """Load the best checkpoint and measure it on val and test."""
    checkpoint = getattr(made.checkpoint_callback, "best_model_path", "") or None
    figures: dict[str, float] = {"epoch/last": made.current_epoch - 1}
    if checkpoint is not None:
        figures["epoch/best"] = torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"]
    [measured] = made.validate(trained, datamodule=data, ckpt_path=checkpoint, verbose=False)
    figures |= measured
    if "test" in data.datasets:
        [measured] = made.test(trained, datamodule=data, verbose=False)
        figures |= measured
    return figures


def finish(
    config: DictConfig,
    run: RunFolder,
    chosen: Any,
    data: ImageDataModule,
    built: TransferNetwork,
    preprocessing: dict[str, Any],
    figures: dict[str, float],
) -> None:
    """Write the model folder and metrics.json, and print the figures and where everything lies."""
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
        "figures": figures,
        "config": resolved,
    }
    save_model(run.path / "model", built, description)
    write_manifest(run.path / "model" / MANIFEST, found.root, found.splits)
    run.write_json("metrics.json", figures)
    show(figures, run.path)


def show(figures: dict[str, float], folder: Path) -> None:
    """Print the figures, and in the last line where everything lies."""
    for name, value in sorted(figures.items()):
        print(f"{name:<20} {value:.4f}" if isinstance(value, float) else f"{name:<20} {value:,}")
    print(folder, flush=True)
