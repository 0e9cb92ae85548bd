"""Test-time augmentation: the mean probabilities of several views of each image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from tlearn.errors import ConfigError
from tlearn.models.network import TransferNetwork
from tlearn.training.module import Batch, TransferModule

# Further views beside the network's own preprocessing; each is also mirrored.
_WAYS = ("crop", "squash", "pad")


def preprocessing_for(kind: str, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return preprocessing that makes the views of `kind` of an image, without their mirror images.

    Raises ConfigError where the model already averages several versions of each image.
    """
    if kind != "views":
        return dict(preprocessing)
    if preprocessing.get("average"):
        versions = ", ".join(preprocessing["average"])
        raise ConfigError(f"tta=views: this model already averages the features of {versions}; tta=flip goes with it")
    own = preprocessing.get("fit", "crop")
    return {**preprocessing, "average": [own, *(way for way in _WAYS if way != own)]}


class ViewsModule(TransferModule):
    """Evaluate a network on plain images, and return the logits of all views from the same pass.

    Args:
        kind: "flip" for the image and its mirror image; "views" for the centre crop, the image squashed and the image
            padded to a square, each also mirrored. The batches must come as `preprocessing_for` says.
    """

    def __init__(self, *args: Any, kind: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.kind = kind

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Evaluate a batch; return logits [N, C] of the plain images, views [N, V, C], targets and indices."""
        images, targets, indices = batch
        ways = list(images.unbind(1)) if self.kind == "views" else [images]
        views = torch.stack([self.fitting(self, way) for image in ways for way in (image, image.flip(-1))], dim=1)
        logits = views[:, 0]
        self.measure("test", batch_idx, logits, targets, F.cross_entropy(logits, targets))
        return {"logits": logits, "targets": targets, "indices": indices, "views": views}


def module_for(
    kind: str, network: TransferNetwork, num_classes: int, metrics: Mapping[str, Metric] | None = None
) -> TransferModule:
    """Build the module that evaluates a network with or without test-time augmentation."""
    if kind == "none":
        return TransferModule(network, num_classes, metrics=metrics)
    return ViewsModule(network, num_classes, kind=kind, metrics=metrics)
