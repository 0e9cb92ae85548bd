"""The model folder: a finished network that can be copied anywhere, as safetensors and JSON, without code."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tlearn.console import say
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.errors import CheckpointError
from tlearn.files import json_text, linked, writing_text, written_by_library
from tlearn.models.backbones.base import Backbone, Body, described_name
from tlearn.models.backbones.timm import TimmBackbone
from tlearn.models.backbones.tiny import SmallBackbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.digests import (
    FIRST_FORMAT,
    PLACEHOLDER,
    check_json,
    check_safetensors,
    seal_safetensors,
    with_digest,
)
from tlearn.models.network import TransferNetwork
from tlearn.runs.folder import folder_around
from tlearn.runs.given_checkpoint import check_weights
from tlearn.runs.trust import LIBRARIES, Seat, check_trust, named_packages, stored_builder, trusted

# 2: with digests; 3: the body in a file of its own
FORMAT, _WHOLE = 3, 2
WEIGHTS, BODY, DESCRIPTION, MANIFEST = "model.safetensors", "body.safetensors", "model.json", "splits.csv"
# Far above what a description needs: a million class names are about 16 MiB.
_LARGEST_DESCRIPTION = 64 * 2**20

# A description without trust only chooses among these.
_BACKBONES: dict[str, Any] = {"small": SmallBackbone, "torchvision": TorchvisionBackbone, "timm": TimmBackbone}
_HEADS = "tlearn.models.heads"
_BACKBONE = Seat("backbone", Backbone, ())
_HEAD = Seat("head", nn.Module, (_HEADS, "torch.nn", "torchvision.ops", "timm.layers"))


@dataclass(frozen=True)
class Model:
    """What a model folder holds.

    `description` has: classes (names in logit order), preprocessing (as `Transform` takes it), decoding
    (the Decoder's arguments), data_root, temperature, figures, directions (min or max for each metric by its name),
    trained_on (train, or train+val), and config (the run's configuration, for reading only).
    """

    folder: Path
    network: TransferNetwork
    description: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """The class names in the order of the logits."""
        return self.description["classes"]

    @property
    def name(self) -> str:
        """What it is called: the backbone and, where it was trained, the data."""
        trained, backbone = self.description["config"], described_name(self.description["architecture"])
        return f"{backbone} of {trained['data']['name']}" if trained else backbone

    @property
    def temperature(self) -> float:
        """The temperature for calibrated probabilities, fitted on val; 1 where it was not fitted."""
        return float(self.description.get("temperature", 1.0))

    @property
    def decoder(self) -> Decoder:
        """The decoder it was trained with, or is told to use."""
        return Decoder(**self.description["decoding"])

    def decoding(self, **options: Any) -> "Model":
        """Return the same model with other options of its decoder; raise ConfigError for those that it refuses."""
        told = replace(self, description={**self.description, "decoding": {**self.description["decoding"], **options}})
        told.decoder  # noqa: B018  checks them
        return told


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


def save_model(
    folder: Path,
    network: TransferNetwork,
    description: dict[str, Any],
    recipe: dict[str, Any] | None = None,
    body: Path | None = None,
) -> None:
    """Write a model folder: the weights, then the description, by which the folder is known.

    Args:
        folder: where to.
        network: in whatever state it is.
        description: see `Model`, and architecture (the backbone's), replace (how it was cut) and head.
        recipe: training settings, for the metadata of the weights file, which may be copied alone.
        body: the body's weights as another trial of the same sweep has them, or will; the folder's own file is a hard
            link to it where the file system can. None: one file has all weights.

    Raises:
        OutputError: the folder cannot be written to.
    """
    # In single precision whatever the training's: that is what reads it again.
    state = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for key, tensor in network.state_dict().items()
    }
    version = _WHOLE
    if body is not None:
        version = FORMAT
        shared = {key: state.pop(key) for key in list(state) if key.startswith("body.")}
        if not linked(folder / BODY, body):
            _save_weights(folder / BODY, shared, version, {})
    with writing_text(folder / DESCRIPTION, durable=True) as file:
        file.write(json_text(with_digest({**description, "format": version})))
        file.flush()
        # Both are on the disk before either takes the place of an older one.
        _save_weights(folder / WEIGHTS, state, version, recipe or {})


def _save_weights(path: Path, state: dict[str, Tensor], version: int, recipe: dict[str, Any]) -> None:
    metadata = {"format": "pt", "tlearn": str(version), "recipe": json.dumps(recipe), "digest": PLACEHOLDER}
    with written_by_library(path, SafetensorError, durable=True) as weights:
        save_file(state, weights, metadata=metadata)
        seal_safetensors(weights)


def load_model(run: str | Path, trust: Sequence[str] = ()) -> Model:
    """Read a model folder, or the one of a run folder; the network is in eval mode on the CPU.

    Args:
        run: the folder, or a file of it.
        trust: packages whose code it may name.

    Raises:
        CheckpointError: there is none, it is damaged, it names code that is not trusted, or a checkpoint was given that
            has other weights.
    """
    folder, description = read_description(run)
    try:
        check_trust([description["architecture"], description["head"]], trust, str(folder))
        network = _skeleton(description, trust)
        check_safetensors(folder / WEIGHTS, required=description["format"] >= FIRST_FORMAT)
        state = load_file(folder / WEIGHTS)
        if description["format"] > _WHOLE:
            check_safetensors(folder / BODY, required=True)
            state |= load_file(folder / BODY)
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from error
    # A description edited by hand can raise errors of any type in the code that reads it.
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    try:
        kinds = {key: tensor.dtype for key, tensor in network.state_dict().items()}
        if other := [key for key, tensor in state.items() if tensor.dtype != kinds.get(key, tensor.dtype)]:
            raise RuntimeError(f"{other[0]} is {state[other[0]].dtype}")
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise CheckpointError(f"{folder / WEIGHTS} does not fit {DESCRIPTION}: {' '.join(lines[:2])}") from error
    if Path(run).suffix == ".ckpt":
        check_weights(Path(run).expanduser(), network, folder)
    # As in training, so that metrics are equal to the last digits
    return Model(folder, network.eval().to(memory_format=torch.channels_last), description)


def read_description(run: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return a model folder, or the one of a run folder, and what its model.json says; nothing is built.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    run, given = folder_around(run, lambda path: _model_in(path) is not None), Path(run).expanduser()
    folder = _model_in(run)
    if folder is None:
        there = f"holds no model ({DESCRIPTION}): it appears there when a run has finished"
        raise CheckpointError(f"{run} {there if run.exists() else 'does not exist'}")
    if run != given:
        say(f"{given} is of {run}")
    if (size := (folder / DESCRIPTION).stat().st_size) > _LARGEST_DESCRIPTION:
        raise CheckpointError(f"{folder / DESCRIPTION} has {size:,} bytes, too many for a description")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8", errors="surrogateescape"))
        known = description["format"] in range(1, FORMAT + 1)
        if known:
            check_json(description, folder / DESCRIPTION)
            description.pop("digest", None)
            _check(description)
    except CheckpointError:
        raise
    # As above
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    if not known:
        raise CheckpointError(f"{folder} has format {description['format']}, and this tlearn reads up to {FORMAT}")
    return folder, description


def _model_in(run: Path) -> Path | None:
    return next((path for path in (run / "model", run) if (path / DESCRIPTION).is_file()), None)


def _check(description: dict[str, Any]) -> None:
    """Raise an error of some kind for what would only fail later."""
    classes = description["classes"]
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise ValueError("classes is not a list of names")
    if not isinstance(description["data_root"], str):
        raise ValueError("data_root is not a path")
    temperature = description.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError("temperature is not a number above 0")
    Decoder(**description["decoding"])
    Transform(description["preprocessing"])(torch.zeros(3, 8, 8, dtype=torch.uint8))


def _skeleton(description: Mapping[str, Any], trust: Sequence[str]) -> TransferNetwork:
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
