"""The key under which features are kept: all that they depend on beside the image."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from tlearn.data.datamodule import ImageDataModule
from tlearn.data.header import heif_version
from tlearn.models.graph.divide import FrozenPart
from tlearn.models.network import tensor_digest

# Increment it when the computation changes.
_FORMAT = 2


def feature_key(
    body: Mapping[str, Any], part: FrozenPart, images: ImageDataModule, device: torch.device
) -> dict[str, Any]:
    """Return everything that features depend on, except the precision, the image and its augmentation."""
    # The output of a timm model can change with timm's version, as torchvision's can.
    libraries = ["torch", "torchvision", "pillow", *(["timm"] if body.get("library") == "timm" else [])]
    paths = [path for dataset in images.datasets.values() for path in dataset.paths]
    return {
        "format": _FORMAT,
        "backbone": {**body, "part": part.name},
        "weights": tensor_digest(part.module.state_dict()),
        "preprocessing": images.transforms["val"].preprocessing,
        "decoder": images.decoder.key(),
        "device": device.type,
        **({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}),
        "versions": {name: version(name) for name in libraries} | heif_version(paths),
    }
