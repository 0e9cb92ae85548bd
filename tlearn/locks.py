"""Locks of open files, which end with their process, however it ends."""

import errno
import io
import os
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from tlearn.console import say

# Open files of this process that have a lock
_LOCKED: "weakref.WeakSet[IO[Any]]" = weakref.WeakSet()


def lock(file: IO[Any], *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until it is closed, also by the end of the process; without effect where a system cannot.

    Args:
        file: what to lock.
        shared: others may have a shared lock at the same time. (On Windows this takes pywin32.)
        wait: until others release it.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: its file system has no locks.
    """
    try:
        import portalocker
    # It needs fcntl or its counterpart of Windows.
    except ImportError:  # pragma: no cover
        return
    flags = portalocker.LOCK_SH if shared else portalocker.LOCK_EX
    try:
        portalocker.lock(file, flags if wait else flags | portalocker.LOCK_NB)
        _LOCKED.add(file)
    except portalocker.AlreadyLocked as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process") from error
    except portalocker.LockException as error:
        raise OSError(errno.ENOLCK, str(error)) from error
    except ImportError:
        if not shared:
            raise


def lock_after(file: IO[Any], note: str) -> None:
    """Lock an open file as `lock` does; where another process has it, say the note and wait."""
    try:
        lock(file)
    except BlockingIOError:
        say(note)
        lock(file, wait=True)


def open_locked(path: Path) -> io.FileIO:
    """Open a file to read and add to, without a buffer, and lock it; not one that its holder has removed in between.

    Raises:
        OSError: as `lock` does, or it cannot be opened.
    """
    while True:
        with ExitStack() as opened:
            file = opened.enter_context(io.FileIO(path, "a+"))
            lock(file)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    opened.pop_all()
                    return file


def _leave_locks() -> None:
    """Let a fork have no part in locks: a loader's worker outlives a killed run by seconds, and would hold its run."""
    with open(os.devnull, "r+b") as nothing:
        for file in _LOCKED:
            if not file.closed:
                # Not closed, which would write what is in its buffer
                os.dup2(nothing.fileno(), file.fileno(), inheritable=False)


# Windows has no forks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)
