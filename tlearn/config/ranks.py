"""Processes that torchrun or SLURM has started (ranks): one run folder for all, which rank 0 names."""

import itertools
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from tlearn.config.arguments import readable
from tlearn.config.relaunch import folder_override, resumed_run, started_by
from tlearn.errors import ConfigError, OutputError, quoted
from tlearn.launch import launch, tell_lightning
from tlearn.training.resume import last_path

# Ranks of other machines may read the same files much later.
_PATIENCE = timedelta(minutes=5)
# Each run of a script has a key of its own: a store outlives it.
_runs = itertools.count()
# One that this process serves ends with its last reference, and torch's process group goes on with it.
_stores: list[Any] = []


def restarted_arguments(arguments: list[str]) -> list[str]:
    """Replace `hydra.run.dir=FOLDER` by `resume=FOLDER` where what runs again finds its last checkpoint there.

    That is an elastic restart, or a job of SLURM that was queued again.
    """
    folder = folder_override(arguments)
    if folder is None or resumed_run(arguments) or not last_path(folder).is_file():
        return arguments
    elastic = launch() is not None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    # An agent in the place of a lost one counts its restarts from 0: the command tells, for all ranks alike.
    restarted = elastic and started_by(folder, readable(arguments))
    if not restarted and int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0:
        return arguments
    return [*(one for one in arguments if not one.startswith("hydra.run.dir=")), f"resume={quoted(folder)}"]


def check_alone(why: str) -> None:
    """Refuse to run in one of several ranks, where `why` tells the reason."""
    if (started := launch()) is not None and started.processes > 1:
        raise ConfigError(f"{started.processes} processes were started, and {why}: start it without torchrun or srun")


def shared_place(overrides: list[str], folder: Path) -> list[str]:
    """Return the overrides by which a rank takes part in the run of rank 0, which keeps the record.

    Args:
        overrides: its own; where they name the folder, it is not asked for.
        folder: that of rank 0.

    Raises:
        OutputError: rank 0 has not named its folder in time.
    """
    if (started := launch()) is None or started.processes == 1:
        return []
    is_first = started.rank == 0
    place = [] if folder_override(overrides) else [f"hydra.run.dir={quoted(_told(folder, is_first))}"]
    return place if is_first else [*place, "hydra.output_subdir=null"]


def _meeting_place() -> tuple[str, int]:
    """Return the address and port where the processes of a launcher find one another."""
    if "RANK" in os.environ:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Imported here, as below.
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    tell_lightning()
    job = SLURMEnvironment()
    return job.main_address, job.main_port


def _told(folder: Path, is_first: bool) -> Path:
    """Tell the others the folder, or be told it."""
    # Imported here: help and configuration errors must not wait for torch.
    from torch.distributed import TCPStore

    # An agent's store outlives its restarts, too. Without one, agents need not have counted the same restarts.
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "") if of_agent else ""
    key = f"tlearn/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{attempt}/{next(_runs)}"
    address, port = _meeting_place()
    try:
        # Without a count of its clients, which is that of the process group, and shared with it in this process.
        store = TCPStore(
            address, port, None, is_first and not of_agent, _PATIENCE, wait_for_workers=False, multi_tenant=True
        )
        _stores.append(store)
        if is_first:
            store.set(key, os.fsencode(folder))  # type: ignore[arg-type]
        return Path(os.fsdecode(store.get(key)))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise OutputError(f"rank 0 has not named its run folder by {address}:{port}: {reason}") from error
