"""A checkpoint that is given as a run: refused unless the run's model has its weights."""

from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from tlearn.errors import CheckpointError, typed
from tlearn.models.checkpoint_file import read_checkpoint
from tlearn.models.heads import folded

_PREFIX = "network."


def check_weights(path: Path, network: nn.Module, folder: Path) -> None:
    """Refuse a checkpoint whose weights are not those of its run's model, which is of the best epoch.

    Args:
        path: the checkpoint.
        network: of the model.
        folder: of the model.

    Raises:
        CheckpointError: they are others, or it cannot be read.
    """
    content = read_checkpoint(path)
    if not isinstance(content.get("epoch"), int):
        raise CheckpointError(f"{path} is not a checkpoint of a run: it names no epoch")
    trained = {
        name.removeprefix(_PREFIX): tensor for name, tensor in content["state_dict"].items() if name.startswith(_PREFIX)
    }
    # The last state is that after whole epochs, others are of the epoch that they name.
    epoch = content["epoch"] if "progress" in content else content["epoch"] + 1
    for layer in [name.removesuffix("shift") for name in trained if name.endswith(".shift")]:
        # Features are standardised for a head while it trains: see `tlearn.training.prepare_head`.
        # What lacks a part is left as it is, and is not the model's.
        with suppress(KeyError, RuntimeError):
            weight, bias, *standard = (trained[layer + name] for name in ("weight", "bias", "shift", "scale"))
            trained[f"{layer}weight"], trained[f"{layer}bias"] = folded(weight, bias, *standard)
            del trained[f"{layer}shift"], trained[f"{layer}scale"]
    state = network.state_dict()
    if any(
        name not in state or one.shape != state[name].shape or not torch.equal(one.to(state[name].dtype), state[name])
        for name, one in trained.items()
    ):
        run = folder.parent if folder.name == "model" else folder
        raise CheckpointError(
            f"{path} has weights of epoch {epoch} that are not the model's: the model of a run is of its best epoch; "
            f"{typed('run', run)} takes it"
        )
