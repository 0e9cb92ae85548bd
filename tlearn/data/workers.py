"""Processes that decode beside the main one: how many, and what signals do to them."""

import signal

from tlearn.machine import available_cpus

KILLED = "a loader worker was killed, as the system does where memory or shared memory is used up"
ROOM = (
    "free some (a container has 64 MiB unless started with --shm-size=1g; in Kubernetes, mount an emptyDir with medium "
    "Memory there), or set a smaller batch size"
)
KILLED_REMEDY = f"set num_workers=0; /dev/shm: {ROOM}"


def is_killed_worker(error: BaseException) -> bool:
    """Return whether torch says that a worker has died, which it does in the midst of whatever runs then."""
    said = str(error)
    return isinstance(error, RuntimeError) and "DataLoader worker" in said and "Terminated" not in said


def default_workers(processes: int = 1) -> int:
    """Return how many workers decode: one CPU per process is left for the network, at most eight others are used."""
    return min(8, max(0, available_cpus() // processes - 1))


def leave_signals(worker: int = 0) -> None:
    """Let signals that all processes of a program are sent pass by this one: the main process decides when it ends."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The first can be the one that all processes are sent; the second is the main process's.
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
