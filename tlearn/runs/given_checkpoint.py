"""A checkpoint that is given as a run: refused unless the run's model has its weights."""

from pathlib import Path

import torch
from torch import nn

from tlearn.errors import CheckpointError, typed
from tlearn.models.backbones.weights import is_held
from tlearn.models.digests import check_zip
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
    try:
        with path.open("rb") as file:
            check_zip(file, path)
            content = torch.load(file, map_location="cpu", weights_only=True)
        trained = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in content["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        if not all(map(is_held, trained.values())):
            raise CheckpointError(f"{path} claims more numbers than it holds: it is damaged or hostile")
        # The last state is that after whole epochs, others are of the epoch that they name.
        epoch = content["epoch"] if "progress" in content else content["epoch"] + 1
        for layer in [name.removesuffix("shift") for name in trained if name.endswith(".shift")]:
            # Features are standardised for a head while it trains: see `tlearn.training.prepare_head`.
            weight, bias, *standard = (trained.pop(layer + name) for name in ("weight", "bias", "shift", "scale"))
            trained[f"{layer}weight"], trained[f"{layer}bias"] = folded(weight, bias, *standard)
    except CheckpointError:
        raise
    # A damaged archive raises errors of a dozen types.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
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
