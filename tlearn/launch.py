"""Processes of a run that torchrun or SLURM's srun has started: how many there are, where, and which one this is."""

import os
import re
from dataclasses import dataclass

# What torch.distributed needs to know, as torchrun and its like tell it
_TORCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Lightning ignores jobs of these names: they are shells that somebody types in.
_INTERACTIVE = ("bash", "interactive")


@dataclass(frozen=True)
class Launch:
    """One process of those that a launcher has started.

    Args:
        rank: the number of this process.
        processes: how many there are.
        nodes: on how many machines, or None where the launcher does not say.
        devices: how many on each, or None where these differ or the launcher does not say.
    """

    rank: int
    processes: int
    nodes: int | None
    devices: int | None


def launch() -> Launch | None:
    """Return what a launcher has told this process, or None where none has started it."""
    if all(name in os.environ for name in _TORCH):
        processes, devices = int(os.environ["WORLD_SIZE"]), _number("LOCAL_WORLD_SIZE")
        nodes = _number("GROUP_WORLD_SIZE") or (processes // devices if devices else None)
        return Launch(int(os.environ["RANK"]), processes, nodes, devices)
    tasks = slurm_tasks()
    # The script of a job has these variables too, and is not a task; one task starts further processes itself.
    if tasks < 2 or "SLURM_STEP_ID" not in os.environ:
        return None
    nodes = _number("SLURM_STEP_NUM_NODES") or _number("SLURM_NNODES") or 1
    told = os.environ.get("SLURM_STEP_TASKS_PER_NODE", os.environ.get("SLURM_NTASKS_PER_NODE", ""))
    # 4(x2): four on each of two nodes
    same = re.fullmatch(r"(\d+)(\(x\d+\))?", told or str(tasks // nodes))
    return Launch(int(os.environ["SLURM_PROCID"]), tasks, nodes, int(same[1]) if same else None)


def slurm_tasks() -> int:
    """Return how many tasks a job of SLURM has, or 0 outside of one."""
    return 0 if os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE else _number("SLURM_NTASKS") or 0


def launched(what: str, otherwise: int | str) -> int | str:
    """Return the number of `nodes`, or of `devices` on each, that a launcher has started, or what holds without one."""
    started = launch()
    return (getattr(started, what) if started else None) or otherwise


def tell_lightning() -> None:
    """Set the variable that Lightning requires of several tasks of SLURM, though it never reads its value."""
    if slurm_tasks() > 1:
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(launched("devices", 1)))


def _number(name: str) -> int | None:
    return int(os.environ[name]) if name in os.environ else None
