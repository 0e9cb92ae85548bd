"""Build the objects of a program from its settings: images, network and module; see `trainer` and `seats`."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from tlearn.config import seats
from tlearn.config.seats import build
from tlearn.console import is_main_process, say
from tlearn.data.datamodule import ImageDataModule
from tlearn.data.decode import Decoder
from tlearn.data.pixel_cache import pixel_cache
from tlearn.data.prepare import BadImagesError, ImageSet, count_lines, prepare
from tlearn.data.transforms import KEYS, Transform, mixing
from tlearn.data.verify import Unchanged
from tlearn.errors import ConfigError
from tlearn.features.choose import FeatureOptions
from tlearn.models.backbones.base import Backbone, backbone_name
from tlearn.models.network import TransferNetwork, count_parameters
from tlearn.runs.architecture import described_backbone
from tlearn.runs.folder import RunFolder
from tlearn.training.module import TransferModule


def backbone(settings: Mapping[str, Any]) -> Backbone:
    """Build the backbone, which loads no weights yet."""
    return seats.backbone(settings["backbone"], settings["finetune"]["pretrained"])


def cache_folder(settings: Mapping[str, Any]) -> Path:
    """Return the cache folder, which may be deleted at any time."""
    return Path(os.path.expanduser(settings["paths"]["cache"]))


def image_set(settings: Mapping[str, Any], run: RunFolder) -> ImageSet:
    """List, check and split the images; write unreadable ones and notes to data_report.json."""
    data, split = settings["data"], settings["data"]["split"]
    try:
        found = prepare(
            seats.source(data["source"]),
            _decoder(data),
            split["fractions"],
            split["val_fraction"],
            settings["seed"],
            data["on_bad_image"],
            cache_folder(settings) / "verified",
            split["test_as_val"],
        )
    except BadImagesError as error:
        run.write_json("data_report.json", {"unreadable": error.files})
        raise
    report_images(found, run)
    counts = ", ".join(f"{name} {len(samples):,}" for name, samples in found.splits.items())
    lines = count_lines(found.splits, found.classes)
    say(f"data: {data['name']}, {len(found.classes)} classes; images: {counts}", *lines, *found.notes)
    return found


def report_images(found: ImageSet, run: RunFolder) -> None:
    """Write unreadable images and notes, if any, to data_report.json."""
    if is_main_process() and (found.notes or found.skipped):
        run.write_json("data_report.json", {"unreadable": found.skipped, "notes": found.notes})


def _decoder(data: Mapping[str, Any]) -> Decoder:
    background = tuple(data["alpha_background"])
    return Decoder(data["max_pixels"], background, data["high_bit_depth"], data["bit_depth"])


def transforms(settings: Mapping[str, Any]) -> tuple[Transform, Transform]:
    """Build the transform of training images, and the deterministic one."""
    preprocessing = {key: settings["transforms"][key] for key in KEYS}
    steps = build("transforms.train", settings["transforms"]["train"])
    return Transform(preprocessing, steps), Transform(preprocessing)


def feature_options(settings: Mapping[str, Any], chosen: Backbone) -> FeatureOptions:
    """Return the feature settings, with what features depend on beside the network and the images."""
    return FeatureOptions(
        **settings["features"],
        folder=cache_folder(settings) / "features",
        body={**described_backbone(chosen), "replace": settings["head"]["replace"]},
        parts={
            "backbone": settings["backbone"],
            "source": settings["data"]["source"],
            "augmentation": settings["transforms"]["train"],
        },
    )


def datamodule(settings: Mapping[str, Any], found: ImageSet) -> ImageDataModule:
    """Build the data module: augmentation for train, the deterministic transform for val and test."""
    data, count = settings["data"], len(found.splits["train"])
    size = data["batch_size"]
    if count % size == 1 and count > size:
        say(f"the last training batch has {size + 1} images: a single one cannot train BatchNorm")
    decoder, (random, fixed) = _decoder(data), transforms(settings)
    return ImageDataModule(
        found,
        decoder,
        random,
        fixed,
        batch_size=size,
        num_workers=data["num_workers"],
        balance=data["balance"],
        seed=settings["seed"],
        # What it decodes is checked as what is decoded without it.
        cache=pixel_cache(
            data["cache"], Unchanged(decoder, found.files.opened_digest), fixed, cache_folder(settings) / "pixels"
        ),
    )


def network(settings: Mapping[str, Any], chosen: Backbone, num_classes: int, size: int) -> TransferNetwork:
    """Load the body of a backbone and put a new head on it, for images of `size` x `size` pixels."""
    head, finetune = settings["head"], settings["finetune"]
    body = seats.body(chosen, head["replace"], finetune["pretrained"])
    # The head's initialisation depends on the seed alone, not on random numbers drawn while building the body.
    torch.manual_seed(settings["seed"])
    new = seats.head(head["build"], body.num_features, num_classes)
    built = TransferNetwork(body.module, new, finetune["stages"])
    if odd := [key for key, value in built.state_dict().items() if not isinstance(value, torch.Tensor)]:
        raise ConfigError(f"{odd[0]} of the network is not a tensor, and no model folder holds else: make it a buffer")
    if size != chosen.preprocessing()["size"]:
        _check_size(built, size)
    # Checked here so that a wrong name fails now and not when its epoch comes.
    built.frozen_keys(finetune["later_stages"])
    total, trainable = count_parameters(built)
    say(f"network: {backbone_name(chosen)}; {total:,} parameters, {trainable:,} trained")
    # Convolutions are fastest in this layout, on CPUs and GPUs alike.
    return built.to(memory_format=torch.channels_last)


def _check_size(built: TransferNetwork, size: int) -> None:
    """Refuse an image size that the architecture cannot take: a ViT has position embeddings for one size."""
    try:
        with torch.no_grad():
            built.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"images of {size} x {size} pixels do not suit this backbone: {error}") from error


def module(settings: Mapping[str, Any], built: TransferNetwork, data: ImageDataModule) -> TransferModule:
    """Build the module from network, loss, optimizer and schedule.

    Raises:
        ConfigError: something does not suit the module, or the images.
    """
    classes, monitor, balance = data.image_set.classes, settings["monitor"]["metric"], settings["data"]["balance"]
    metrics = seats.metrics(settings["metrics"], len(classes))
    if monitor not in ("val/loss", *(f"val/{name}" for name in metrics)):
        raise ConfigError(f"monitor.metric={monitor} does not exist for {len(classes)} classes")
    weight = settings["loss"].get("weight")
    if weight is not None and len(weight) != len(classes):
        raise ConfigError(f"loss.weight has {len(weight)} values for the {len(classes)} classes {', '.join(classes)}")
    if weight is None and balance == "weights":
        weight = data.class_weights()
    finetune, mixed = settings["finetune"], settings["transforms"]
    mix = mixing(len(classes), mixed["mixup_alpha"], mixed["cutmix_alpha"])
    built_module = seats.module(
        settings["module"],
        network=built,
        num_classes=len(classes),
        loss=seats.loss(settings["loss"], len(classes), weight, mixed=mix is not None),
        optimizer=build("optimizer", settings["optimizer"] or None),
        schedule=seats.schedule(settings["scheduler"]),
        body_lr_scale=finetune["body_lr_scale"],
        later_stages=finetune["later_stages"],
        mix=mix,
        monitor=monitor,
        metrics=metrics,
    )
    if built_module.full_batch and balance == "sampler":
        raise ConfigError("module=full_batch fits every image once: choose data.balance=weights")
    return built_module


def step_optimizer(settings: Mapping[str, Any]) -> Callable[[TransferNetwork], Optimizer]:
    """Build what makes the optimizer of a network's parameters, for timing its steps.

    Raises:
        ConfigError: there is no optimizer, or parts of the body join later.
    """
    optimizer, finetune = settings["optimizer"], settings["finetune"]
    if not optimizer or optimizer.get("lr") is None:
        raise ConfigError("steps need an optimizer with a learning rate: choose optimizer=adam or another")
    if finetune["unfreeze_epoch"] is not None:
        raise ConfigError(
            f"finetune.unfreeze_epoch={finetune['unfreeze_epoch']}: time finetune=frozen for the epochs before it, and "
            "finetune=full or finetune=partial for those after"
        )
    made = build("optimizer", optimizer)
    return lambda built: made(built.parameter_groups(optimizer["lr"], finetune["body_lr_scale"]))
