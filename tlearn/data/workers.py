"""Processes that decode beside the main one: how many, and what signals do to them."""

import signal

from tlearn.machine import available_cpus


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
