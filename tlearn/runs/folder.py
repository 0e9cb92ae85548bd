"""The run folder: locked by one run at a time."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from tlearn.console import is_main_process
from tlearn.errors import OutputError
from tlearn.files import remove_temporaries, write_json
from tlearn.locks import lock, open_locked

# Settings that were found before training
TUNED = "tune.json"
_LOCK = ".lock"
# What shows that a run of tlearn has begun
ENVIRONMENT = "environment.json"
# What a run leaves and another would go on with, or show as its own
_LEFT = (
    *(TUNED, ENVIRONMENT, "metrics.json", "metrics.csv", "splits.csv", "nan_batch.json", "data_report.json"),
    *("report.html", "checkpoints", "model", "report", "tensorboard"),
)
# Where a run puts its files, and one that was killed can have left temporary ones
_PLACES = ("", "checkpoints", "model", "report", ".hydra")


def folder_around(given: str | Path, is_wanted: Callable[[Path], bool]) -> Path:
    """Return the folder of a run of which a file or a folder is given, such as checkpoints/last.ckpt, or what is given.

    Args:
        given: a path; nothing is looked up further than a run puts its files.
        is_wanted: tells a folder that will do.
    """
    path = Path(os.path.expanduser(given))
    if is_wanted(path) or not path.exists():
        return path
    whole = path.absolute()
    above = [whole.parent] if whole.is_file() or whole.name in _PLACES else []
    above += [whole.parent.parent] if whole.is_file() and whole.parent.name in _PLACES else []
    return next(filter(is_wanted, above), path)


class RunFolder:
    """A folder that one run at a time may write to."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._lock: FileIO | None = None

    def claim(self, again: bool = False) -> None:
        """Take the folder for this process, before any work is done.

        The kernel holds the lock, so that one of a killed process is gone with it.

        Args:
            again: go on with the run that the folder holds.

        Raises:
            OutputError: it cannot be written to, another process writes to it, or it holds a finished or stopped run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open_locked(self.path / _LOCK)
        except BlockingIOError as error:
            holder = (self.path / _LOCK).read_text(encoding="utf-8", errors="replace").strip()
            raise OutputError(f"{self.path} is in use by another run ({holder}): wait for it, or end it") from error
        except OSError as error:
            reason = "it is a file" if self.path.is_file() else error.strerror
            raise OutputError(f"cannot write to the run folder {self.path}: {reason}") from error
        if not again:
            if used := self._used():
                self.release()
                raise OutputError(
                    f"{self.path} already holds a run ({used}): choose another folder, or resume={self.path}"
                )
            if (self.path / ENVIRONMENT).is_file():
                self.clear()
        for place in _PLACES:
            remove_temporaries(self.path / place)
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())

    @contextmanager
    def claimed(self, again: bool = False) -> Iterator[None]:
        """Hold the folder during the block, from the main process; see `claim`."""
        if not is_main_process():
            yield
            return
        self.claim(again)
        try:
            yield
        finally:
            self.release()

    def is_taken(self) -> bool:
        """Return whether a run is writing to the folder or has left its results there."""
        try:
            with (self.path / _LOCK).open("r+", encoding="utf-8") as file:
                lock(file)
        except BlockingIOError:
            return True
        except OSError:
            # No lock file: nobody is writing.
            pass
        return self._used() is not None

    def _used(self) -> str | None:
        """Return a file of a run that another must not write over: its metrics, or a checkpoint."""
        found = [self.path / "metrics.json", *sorted(self.path.glob("checkpoints/*.ckpt"))]
        return next((str(path.relative_to(self.path)) for path in found if path.exists()), None)

    def clear(self) -> None:
        """Remove what a run has left that failed, or died before its first checkpoint; its log stays.

        Raises:
            OutputError: something cannot be removed.
        """
        for name in _LEFT:
            path = self.path / name
            try:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"cannot remove {path} of a run that failed: {error.strerror}") from error

    def release(self) -> None:
        """Release the folder for other runs."""
        if self._lock is not None:
            # Before the lock is gone, or another run could have it by now; Windows keeps files that are open.
            with suppress(OSError):
                (self.path / _LOCK).unlink()
            self._lock.close()
            self._lock = None

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a file of the folder, to stay."""
        write_json(self.path / name, content, durable=True)
