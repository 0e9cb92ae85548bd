"""The file layer that fails, or ends its process, at the k-th write, fsync or replacement: that of the tests."""

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults import STEPS, Disk, temporaries

__all__ = ["ERRORS", "STEPS", "Fault", "steps", "temporaries"]
# What fails, or ends the process, by name
ERRORS: dict[str, BaseException | Callable[[], None]] = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "broken": OSError(errno.EIO, "Input/output error"),
    "read-only": OSError(errno.EROFS, "Read-only file system"),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(77),
}


@dataclass(frozen=True)
class Fault:
    """A fault of the disk under a run.

    Args:
        step: write, fsync or replace.
        at: which of them, from 1; 0 for none.
        error: one of ERRORS.
        ending: only files count whose path ends so.
        noted: where all steps are written as they are taken, one a line, if anywhere.
    """

    step: str = ""
    at: int = 0
    error: str = "full"
    ending: str = ""
    noted: Path | None = None

    def install(self) -> None:
        """Stand between this process and its disk to its end."""
        disk = _Noting(self.step, self.at, ERRORS[self.error], self.ending)
        if self.noted is not None:
            disk.lines = os.open(self.noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        # Kept, as it would be taken away with its last reference
        self._installed.append(disk.installed())
        self._installed[-1].__enter__()

    _installed = []  # noqa: RUF012 - of the process


class _Noting(Disk):
    """Write each step down as it is taken."""

    lines: int | None = None

    def take(self, step: str, target: Path, instead: Callable[[], object] = lambda: None) -> None:
        if self.lines is not None:
            os.write(self.lines, f"{step} {target}\n".encode())
        super().take(step, target, instead)


def steps(noted: Path) -> list[tuple[str, str]]:
    """Return the steps that a run has taken, with their targets."""
    return [(step, target) for step, _, target in (line.partition(" ") for line in noted.read_text().splitlines())]
