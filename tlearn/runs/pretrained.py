"""A backbone with its own classifier as a model: it predicts the classes of its weights, without training."""

import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_weight

from tlearn.data.decode import Decoder
from tlearn.errors import ConfigError
from tlearn.models.backbones.base import Backbone, Body, backbone_name
from tlearn.models.network import TransferNetwork
from tlearn.runs.architecture import described_backbone
from tlearn.runs.model import Model

IMAGENET = "imagenet"


def pretrained_model(backbone: Backbone, classes: str | None = None) -> Model:
    """Build a model from a backbone and its own classifier; the network is in eval mode on the CPU.

    Args:
        backbone: not built yet.
        classes: what its classes are called: "imagenet", or a text file with one name per line in the order of the
            logits; None: as its weights say.

    Raises:
        ConfigError: nothing says what the classes are called, or it has another number of them.
        CheckpointError, DownloadError: the weights cannot be had, or they hold no classifier.
    """
    names = _names(backbone, classes)
    if classes is not None and hasattr(backbone, "skeleton"):
        # Before anything is downloaded
        _check_count(names, backbone.skeleton("nothing"), backbone)
    body = backbone.build("nothing")
    _check_count(names, body, backbone)
    description = {
        "classes": names,
        "preprocessing": backbone.preprocessing(),
        "decoding": asdict(Decoder()),
        "architecture": described_backbone(backbone),
        "replace": "nothing",
        "data_root": "",
        "figures": {},
        "config": {},
    }
    network = TransferNetwork(body.module, nn.Identity())
    return Model(Path(), network.eval().to(memory_format=torch.channels_last), description)


def _names(backbone: Backbone, classes: str | None) -> list[str]:
    """Find out what the logits are called, and never guess."""
    # Only some backbones know weights and pooling: see the contract.
    weights, pooling = getattr(backbone, "weights", ""), getattr(backbone, "pooling", "avg")
    if weights is None:
        raise ConfigError("backbone.weights=null: random weights can name nothing; take DEFAULT or a file")
    if pooling != "avg":
        raise ConfigError(f"backbone.pooling={pooling}: the classifier was trained with avg; take that")
    if backbone.architecture().get("library") == "small" and weights == "DEFAULT":
        raise ConfigError(
            "the weights that come with tlearn are a body without classes; take another backbone, or run="
        )
    if classes is not None:
        return _imagenet() if classes == IMAGENET else _read(Path(os.path.expanduser(classes)))
    names = backbone.categories() if hasattr(backbone, "categories") else None
    if names is None:
        which = f" with backbone.weights={weights}" if weights else ""
        raise ConfigError(
            f"nothing tells the classes of {backbone_name(backbone)}{which}: where they are "
            f"the 1000 of ImageNet in their usual order, say so with classes={IMAGENET}; or name them in a text file, "
            "one per line in the order of the logits: classes=FILE; or take weights that tell"
        )
    return names


def _imagenet() -> list[str]:
    # All entries of torchvision that were trained on it have the same list.
    return list(get_weight("VGG13_Weights.IMAGENET1K_V1").meta["categories"])


def _read(path: Path) -> list[str]:
    try:
        # surrogateescape: names need not be text
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"classes={path} cannot be read: {error.strerror}; give a text file or {IMAGENET}") from error
    names = text.removesuffix("\n").split("\n")
    if empty := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise ConfigError(f"classes={path}: line {empty[0]} is empty, and each line must name a class")
    return names


def _check_count(names: list[str], body: Body, backbone: Backbone) -> None:
    if len(names) != body.num_features:
        raise ConfigError(f"{backbone_name(backbone)} has {body.num_features} classes, and {len(names)} are named")
