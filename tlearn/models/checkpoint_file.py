"""Read a checkpoint's file as plain data that carries its digest."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlearn.errors import CheckpointError
from tlearn.models.backbones.weights import is_held
from tlearn.models.digests import check_zip


def read_checkpoint(path: Path, map_location: Any = None) -> dict[str, Any]:
    """Read the checkpoint of a run, on the CPU unless `map_location` says otherwise.

    Raises:
        CheckpointError: missing, damaged, without its digest, containing code, or no checkpoint.
    """
    try:
        with path.open("rb") as file:
            check_zip(file, path)
            checkpoint = torch.load(file, map_location=map_location or "cpu", weights_only=True)
        if not all(map(is_held, _tensors(checkpoint))):
            raise CheckpointError(f"{path} claims more numbers than it holds: it is damaged or hostile")
        if not _is_state(checkpoint):
            raise CheckpointError(f"{path} is not a checkpoint of a run")
        return checkpoint
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint {path}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} contains more than plain data, refused: {str(error).splitlines()[0]}") from error
    except Exception as error:
        # A damaged archive raises errors of a dozen types.
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _is_state(checkpoint: Any) -> bool:
    needed, optional = {"state_dict": dict, "pytorch-lightning_version": str}, {"epoch": int, "progress": dict}
    return (
        isinstance(checkpoint, dict)
        and all(isinstance(checkpoint.get(key), kind) for key, kind in needed.items())
        and all(isinstance(checkpoint[key], kind) for key, kind in optional.items() if key in checkpoint)
        and all(isinstance(value, Tensor) for value in checkpoint["state_dict"].values())
    )


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield all tensors, and look into each container once: a few that hold each other can stand for millions."""
    todo, seen = [content], set[int]()
    while todo:
        if isinstance(one := todo.pop(), Tensor):
            yield one
        elif isinstance(one, Mapping | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            todo += one.values() if isinstance(one, Mapping) else one
