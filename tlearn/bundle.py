"""The model folder: a finished network that can be copied anywhere, as safetensors and JSON, without code."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tlearn.errors import CheckpointError
from tlearn.models import heads
from tlearn.models.backbones import TimmBackbone, TorchvisionBackbone
from tlearn.models.network import TransferNetwork

FORMAT = 1
WEIGHTS, DESCRIPTION, MANIFEST = "model.safetensors", "model.json", "splits.csv"

# A description only chooses among these: names in it are never imported.
_LIBRARIES: dict[str, Any] = {"torchvision": TorchvisionBackbone, "timm": TimmBackbone}
_HEADS: dict[str, Any] = {"linear": heads.linear, "mlp": heads.mlp}


@dataclass(frozen=True)
class Model:
    """What a model folder holds.

    `description` has: classes (names in logit order), preprocessing (resize, size, interpolation, mean, std), decoding
    (the Decoder's arguments), data_root, figures, and config (the run's configuration, for reading only).
    """

    folder: Path
    network: TransferNetwork
    description: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """The class names in the order of the logits."""
        return self.description["classes"]


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


def save_model(folder: Path, network: TransferNetwork, description: dict[str, Any]) -> None:
    """Write a model folder; each file is whole or absent.

    Args:
        folder: where to.
        network: in whatever state it is.
        description: see `Model`, and architecture (the backbone's), replace (how it was cut) and head.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    weights = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file(state, weights, metadata={"format": "pt", "tlearn": str(FORMAT)})
    # safetensors makes files that only their owner can read, and a model folder is there to be shared.
    weights.chmod(0o666 & ~_umask())
    weights.replace(folder / WEIGHTS)
    text = json.dumps({"format": FORMAT, **description}, indent=2, ensure_ascii=False)
    temporary = folder / f".{DESCRIPTION}.{os.getpid()}"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / DESCRIPTION)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_model(run: str | Path) -> Model:
    """Read a model folder, or the one of a run folder; the network is in eval mode on the CPU.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    run = Path(run)
    folder = next((path for path in (run / "model", run) if (path / DESCRIPTION).is_file()), None)
    if folder is None:
        raise CheckpointError(f"{run} holds no model ({DESCRIPTION}): it appears there when a run has finished")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise CheckpointError(f"{folder} has format {description['format']}, and this tlearn reads {FORMAT}")
        network = _skeleton(description)
        state = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {error}") from error
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise CheckpointError(f"{folder / WEIGHTS} does not fit {DESCRIPTION}: {' '.join(lines[:2])}") from error
    # As in training, so that figures are equal to the last digits
    return Model(folder, network.eval().to(memory_format=torch.channels_last), description)


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
