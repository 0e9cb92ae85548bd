"""Processes that decode beside the main one: how many, and what signals do to them."""

import atexit
import os
import shutil
import signal
import tempfile
from multiprocessing import process
from pathlib import Path

from tlearn.locks import lock
from tlearn.machine import available_cpus

KILLED = "a loader worker was killed, as the system does where memory or shared memory is used up"
ROOM = (
    "free some (a container has 64 MiB unless started with --shm-size=1g; in Kubernetes, mount an emptyDir with medium "
    "Memory there), or set a smaller batch size"
)
_TEMPORARY = "tlearn-"
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


def temporary_folder() -> Path:
    """Return the folder of this process, and of those it starts, in the system's folder of temporary files.

    It goes with the process; those that killed ones have left are removed.
    """
    # Where multiprocessing puts sockets too, in workers as in the process that has started them
    shared = process.current_process()._config  # type: ignore[attr-defined]
    if "tempdir" not in shared:
        if os.name != "nt":
            _remove_abandoned(Path(tempfile.gettempdir()))
        shared["tempdir"], owner = tempfile.mkdtemp(prefix=_TEMPORARY), os.getpid()
        unlocked = Path(shared["tempdir"]) / "unlocked"
        held = unlocked.open("w")
        lock(held)
        # Only now, or another process could take it for abandoned
        unlocked.rename(unlocked.with_name("lock"))

        def remove() -> None:
            # Not at the end of a fork
            if os.getpid() == owner:
                held.close()
                shutil.rmtree(shared["tempdir"], ignore_errors=True)

        atexit.register(remove)
    return Path(shared["tempdir"])


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_TEMPORARY}*/lock"):
        try:
            with path.open("r+") as file:
                lock(file)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            # It is held, or another user's.
            continue
