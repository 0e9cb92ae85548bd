"""The model folder: a finished network that can be copied anywhere, as safetensors and JSON, without code."""

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tlearn.console import say
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.errors import CheckpointError
from tlearn.files import json_text, linked, writing_text, written_by_library
from tlearn.models.backbones.base import described_name
from tlearn.models.digests import (
    FIRST_FORMAT,
    PLACEHOLDER,
    check_json,
    check_safetensors,
    seal_safetensors,
    with_digest,
)
from tlearn.models.network import TransferNetwork
from tlearn.runs.architecture import skeleton
from tlearn.runs.folder import folder_around
from tlearn.runs.given_checkpoint import check_weights
from tlearn.runs.trust import check_trust

# 2: with digests; 3: the body in a file of its own
FORMAT, _WHOLE = 3, 2
WEIGHTS, BODY, DESCRIPTION, MANIFEST = "model.safetensors", "body.safetensors", "model.json", "splits.csv"
# Far above what a description needs: a million class names are about 16 MiB.
_LARGEST_DESCRIPTION = 64 * 2**20


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
    version = _WHOLE if body is None else FORMAT
    if body is not None and not linked(folder / BODY, body):
        _save_weights(folder / BODY, network.body.state_dict(prefix="body."), version, {})
    state = network.state_dict() if body is None else network.head.state_dict(prefix="head.")
    with writing_text(folder / DESCRIPTION, durable=True) as file:
        file.write(json_text(with_digest({**description, "format": version})))
        file.flush()
        # Both are on the disk before either takes the place of an older one.
        _save_weights(folder / WEIGHTS, state, version, recipe or {})


def _save_weights(path: Path, state: dict[str, Tensor], version: int, recipe: dict[str, Any]) -> None:
    # In single precision whatever the training's: that is what reads it again.
    state = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for key, tensor in state.items()
    }
    # Safetensors refuses memory that several share, as tied weights do.
    homes = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    state = {k: v.clone() if homes[v.untyped_storage().data_ptr()] > 1 else v for k, v in state.items()}
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
        network = skeleton(description, trust)
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
        # As they were before they were stored: own layers may hold doubles.
        single = [key for key, kind in kinds.items() if kind.is_floating_point and key in state]
        state |= {key: state[key].to(kinds[key]) for key in single if state[key].dtype == torch.float32}
        if other := [key for key, tensor in state.items() if tensor.dtype != kinds.get(key, tensor.dtype)]:
            raise RuntimeError(f"{other[0]} is {state[other[0]].dtype}")
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise CheckpointError(f"{folder / WEIGHTS} does not fit {DESCRIPTION}: {' '.join(lines[:2])}") from error
    if Path(run).suffix == ".ckpt":
        check_weights(Path(os.path.expanduser(run)), network, folder)
    # As in training, so that metrics are equal to the last digits
    return Model(folder, network.eval().to(memory_format=torch.channels_last), description)


def read_description(run: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return a model folder, or the one of a run folder, and what its model.json says; nothing is built.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    run, given = folder_around(run, lambda path: _model_in(path) is not None), Path(os.path.expanduser(run))
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
