"""Processes that torchrun or another launcher has started (ranks): one run folder for all, which rank 0 names."""

import itertools
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from tlearn.config.relaunch import folder_override, resumed_run
from tlearn.errors import ConfigError, OutputError, quoted
from tlearn.training.resume import last_path

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Ranks of other machines may read the same files much later.
_PATIENCE = timedelta(minutes=5)
# Each run of a script has a key of its own, and so has each restart: the launcher's store outlives both.
_runs = itertools.count()
# One that this process serves ends with its last reference, and torch's process group goes on with it.
_stores: list[Any] = []


def world_size() -> int:
    """Return how many processes a launcher has started for this run; 1 where none has."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _VARIABLES) else 1


def restarted_arguments(arguments: list[str]) -> list[str]:
    """Replace `hydra.run.dir=FOLDER` by `resume=FOLDER` where what runs again finds its last checkpoint there.

    That is an elastic restart, or a job of SLURM that was queued again.
    """
    folder = folder_override(arguments)
    elastic = world_size() > 1 and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    restarted = elastic or int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    if not restarted or folder is None or resumed_run(arguments) or not last_path(folder).is_file():
        return arguments
    return [*(one for one in arguments if not one.startswith("hydra.run.dir=")), f"resume={quoted(folder)}"]


def check_alone(why: str) -> None:
    """Refuse to run in one of several ranks, where `why` tells the reason."""
    if world_size() > 1:
        raise ConfigError(f"{world_size()} processes were started, and {why}: start it without torchrun")


def shared_place(overrides: list[str], folder: Path) -> list[str]:
    """Return the overrides by which a rank takes part in the run of rank 0, which keeps the record.

    Args:
        overrides: its own; where they name the folder, it is not asked for.
        folder: that of rank 0.

    Raises:
        OutputError: rank 0 has not named its folder in time.
    """
    if world_size() == 1:
        return []
    is_first = os.environ["RANK"] == "0"
    place = [] if folder_override(overrides) else [f"hydra.run.dir={quoted(_told(folder, is_first))}"]
    return place if is_first else [*place, "hydra.output_subdir=null"]


def _told(folder: Path, is_first: bool) -> Path:
    """Tell the others the folder, or be told it."""
    # Imported here: help and configuration errors must not wait for torch.
    from torch.distributed import TCPStore

    run, attempt = (os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT"))
    key = f"tlearn/{run}/{attempt}/{next(_runs)}"
    serves = is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        # Without a count of its clients, which is that of the process group, and shared with it in this process.
        store = TCPStore(address, port, None, serves, _PATIENCE, wait_for_workers=False, multi_tenant=True)
        _stores.append(store)
        if is_first:
            store.set(key, os.fsencode(folder))  # type: ignore[arg-type]
        return Path(os.fsdecode(store.get(key)))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise OutputError(f"rank 0 has not named its run folder by {address}:{port}: {reason}") from error
