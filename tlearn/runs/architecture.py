"""A network as a model folder describes it: from its backbone and head to plain data, and back without weights."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tlearn.errors import CheckpointError
from tlearn.machine import LIBRARIES
from tlearn.models.backbones.base import Backbone, Body
from tlearn.models.backbones.timm import TimmBackbone
from tlearn.models.backbones.tiny import SmallBackbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.network import TransferNetwork
from tlearn.runs.trust import Seat, named_packages, stored_builder, trusted

# A description without trust only chooses among these.
_BACKBONES: dict[str, Any] = {"small": SmallBackbone, "torchvision": TorchvisionBackbone, "timm": TimmBackbone}
_HEADS = "tlearn.models.heads"
_BACKBONE = Seat("backbone", Backbone, ())
_HEAD = Seat("head", nn.Module, (_HEADS, "torch.nn", "torchvision.ops", "timm.layers"))


def described_head(build: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node that builds a head, such as settings["head"]["build"], as a description holds it.

    Raises:
        CheckpointError: no model folder could be opened that names such a head.
    """
    head = {key: value for key, value in build.items() if key not in ("_partial_", "_convert_", "_recursive_")}
    stored_builder(head, named_packages(head), _HEAD)
    return head


def described_backbone(backbone: Backbone) -> dict[str, Any]:
    """Return the architecture of a backbone as a description holds it, with the class of one that is not tlearn's.

    Raises:
        CheckpointError: no model folder could be opened that names it.
    """
    architecture, kind = dict(backbone.architecture()), type(backbone)
    if kind in _BACKBONES.values():
        return architecture
    target = f"{kind.__module__}.{kind.__qualname__}"
    try:
        same = json.loads(json.dumps(architecture)) == architecture
    except (TypeError, ValueError):
        same = False
    if not same:
        raise CheckpointError(f"architecture() of {target} must return plain data with texts as keys: {architecture}")
    described = {**architecture, "_target_": target}
    try:
        _own_backbone(described, named_packages(described))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{target}.from_architecture cannot read what its architecture() returned: {type(error).__name__}: {error}"
        ) from error
    return described


def skeleton(description: Mapping[str, Any], trust: Sequence[str]) -> TransferNetwork:
    """Build the described network without weights."""
    head = dict(description["head"])
    if "kind" in head:
        # As earlier versions wrote it
        head["_target_"] = f"{_HEADS}.{head.pop('kind')}"
    builder = stored_builder(head, trust, _HEAD)
    # Code of the user's own may compute while it builds, which the meta device cannot.
    device = "meta" if builder.func.__module__.partition(".")[0] in LIBRARIES else "cpu"
    # What is random there must not change what follows.
    with torch.random.fork_rng(devices=[]):
        body = _body(description["architecture"], description["replace"], trust)
        with torch.device(device):
            built = builder(body.num_features, len(description["classes"]))
    if not isinstance(built, nn.Module):
        raise TypeError(f"the head is of {type(built).__name__}, which is not a torch.nn.Module")
    return TransferNetwork(body.module, built)


def _body(architecture: Mapping[str, Any], replace: str, trust: Sequence[str]) -> Body:
    if "_target_" not in architecture:
        return _BACKBONES[architecture["library"]].from_architecture(dict(architecture)).skeleton(replace)
    backbone = _own_backbone(architecture, trust)
    return getattr(backbone, "skeleton", backbone.build)(replace)


def _own_backbone(architecture: Mapping[str, Any], trust: Sequence[str]) -> Backbone:
    kind: Any = trusted(architecture["_target_"], trust, _BACKBONE)
    return kind.from_architecture({key: value for key, value in architecture.items() if key != "_target_"})
