"""A checkpoint that is given as a run: refused unless the run's model has its weights."""

from pathlib import Path

import torch
from torch import nn

from tlearn.errors import CheckpointError, typed

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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        trained = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in content["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        epoch = content["epoch"] + 1
    # A damaged archive raises errors of a dozen types.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    state = network.state_dict()
    if any(
        name not in state or not torch.equal(one.to(state[name].dtype), state[name]) for name, one in trained.items()
    ):
        run = folder.parent if folder.name == "model" else folder
        raise CheckpointError(
            f"{path} has weights of epoch {epoch} that are not the model's: the model of a run is of its best epoch; "
            f"{typed('run', run)} takes it"
        )
