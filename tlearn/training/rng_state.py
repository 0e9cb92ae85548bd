"""The states of all random generators of a process, as plain data."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def rng_state(gpus: Sequence[torch.device] = ()) -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's global generators, on the CPU and on the given GPUs."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(gpu) for gpu in gpus],
    }


def restore_rng_state(state: Mapping[str, Any], gpus: Sequence[torch.device] = ()) -> None:
    """Set the generators to the states that `rng_state` returned; those of other GPUs stay as they are."""
    random.setstate(_as_tuples(state["python"]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    for gpu, numbers in zip(gpus, state["cuda"], strict=False):
        torch.cuda.set_rng_state(numbers.cpu(), gpu)


def _as_tuples(state: Any) -> Any:
    return tuple(map(_as_tuples, state)) if isinstance(state, list | tuple) else state
