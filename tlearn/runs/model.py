"""The model folder: a finished network that can be copied anywhere, as safetensors and JSON, without code."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.errors import CheckpointError
from tlearn.files import json_text, writing_text, written_by_library
from tlearn.models import heads
from tlearn.models.backbones.timm import TimmBackbone
from tlearn.models.backbones.tiny import SmallBackbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.network import TransferNetwork

FORMAT = 1
WEIGHTS, DESCRIPTION, MANIFEST = "model.safetensors", "model.json", "splits.csv"
# Far above what a description needs: a million class names are about 16 MiB.
_LARGEST_DESCRIPTION = 64 * 2**20

# A description only chooses among these: names in it are never imported.
_LIBRARIES: dict[str, Any] = {"small": SmallBackbone, "torchvision": TorchvisionBackbone, "timm": TimmBackbone}
_HEADS: dict[str, Any] = {"linear": heads.linear, "mlp": heads.mlp}


@dataclass(frozen=True)
class Model:
    """What a model folder holds.

    `description` has: classes (names in logit order), preprocessing (as `Transform` takes it), decoding
    (the Decoder's arguments), data_root, temperature, figures, and config (the run's configuration, for reading only).
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
        trained, backbone = self.description["config"], self.description["architecture"]["name"]
        return f"{backbone} of {trained['data']['name']}" if trained else backbone

    @property
    def temperature(self) -> float:
        """The temperature for calibrated probabilities, fitted on val; 1 where it was not fitted."""
        return float(self.description.get("temperature", 1.0))

    @property
    def decoder(self) -> Decoder:
        """The decoder it was trained with."""
        return Decoder(**self.description["decoding"])


def head_of(config: dict[str, Any]) -> dict[str, Any]:
    """Describe a head as data: its kind and arguments.

    Raises:
        CheckpointError: the head is not one that a description can name.
    """
    target = str(config["_target_"])
    kind = target.rpartition(".")[2]
    if target != f"{heads.__name__}.{kind}" or kind not in _HEADS:
        raise CheckpointError(f"a head made by {target} cannot go into a model folder: only {', '.join(_HEADS)} can")
    return {"kind": kind, **{key: value for key, value in config.items() if not key.startswith("_")}}


def save_model(
    folder: Path, network: TransferNetwork, description: dict[str, Any], recipe: dict[str, Any] | None = None
) -> None:
    """Write a model folder: the weights, then the description, by which the folder is known.

    Args:
        folder: where to.
        network: in whatever state it is.
        description: see `Model`, and architecture (the backbone's), replace (how it was cut) and head.
        recipe: training settings, for the metadata of the weights file, which may be copied alone.

    Raises:
        OutputError: the folder cannot be written to.
    """
    # In single precision whatever the training's: that is what reads it again.
    state = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for key, tensor in network.state_dict().items()
    }
    metadata = {"format": "pt", "tlearn": str(FORMAT), "recipe": json.dumps(recipe or {})}
    with writing_text(folder / DESCRIPTION, durable=True) as file:
        file.write(json_text({"format": FORMAT, **description}))
        file.flush()
        # Both are on the disk before either takes the place of an older one.
        with written_by_library(folder / WEIGHTS, SafetensorError, durable=True) as weights:
            save_file(state, weights, metadata=metadata)


def load_model(run: str | Path) -> Model:
    """Read a model folder, or the one of a run folder; the network is in eval mode on the CPU.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    run = Path(run).expanduser()
    folder = next((path for path in (run / "model", run) if (path / DESCRIPTION).is_file()), None)
    if folder is None:
        raise CheckpointError(f"{run} holds no model ({DESCRIPTION}): it appears there when a run has finished")
    try:
        if (size := (folder / DESCRIPTION).stat().st_size) > _LARGEST_DESCRIPTION:
            raise CheckpointError(f"{folder / DESCRIPTION} has {size:,} bytes, too many for a description")
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8", errors="surrogateescape"))
        if description["format"] != FORMAT:
            raise CheckpointError(f"{folder} has format {description['format']}, and this tlearn reads {FORMAT}")
        _check(description)
        network = _skeleton(description)
        state = load_file(folder / WEIGHTS)
    except CheckpointError:
        raise
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
    # As in training, so that metrics are equal to the last digits
    return Model(folder, network.eval().to(memory_format=torch.channels_last), description)


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


def _skeleton(description: dict[str, Any]) -> TransferNetwork:
    """Build the described network without weights."""
    architecture, head = dict(description["architecture"]), dict(description["head"])
    library, kind = architecture["library"], head.pop("kind")
    if library not in _LIBRARIES or kind not in _HEADS:
        raise ValueError(f"unknown library {library} or head {kind}")
    body = _LIBRARIES[library].from_architecture(architecture).skeleton(description["replace"])
    with torch.device("meta"):
        built = _HEADS[kind](body.num_features, len(description["classes"]), **head)
    return TransferNetwork(body.module, built)
