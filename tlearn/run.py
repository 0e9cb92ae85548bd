"""The run folder: held by one run, and explaining itself."""

import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tlearn.errors import OutputError

_PACKAGES = (
    *("tlearn", "torch", "torchvision", "lightning", "hydra-core", "omegaconf"),
    *("torchmetrics", "tensorboard", "safetensors", "numpy", "pillow", "timm"),
)


class RunFolder:
    """A folder that one run at a time may write to."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._lock = self.path / ".lock"

    def claim(self) -> None:
        """Take the folder for this process, before any work is done.

        Raises:
            OutputError: it cannot be written to, or another run that is alive holds it.
        """
        note = {"pid": os.getpid(), "host": socket.gethostname()}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._lock.exists() and not self._holder_is_alive():
                self._lock.unlink(missing_ok=True)
            with self._lock.open("x", encoding="utf-8") as file:
                json.dump(note, file)
        except FileExistsError as error:
            if not self.path.is_dir():
                raise OutputError(f"cannot write to the run folder {self.path}: it is a file") from error
            raise OutputError(
                f"{self.path} is in use by another run ({self._lock.read_text(encoding='utf-8')})"
            ) from error
        except OSError as error:
            raise OutputError(f"cannot write to the run folder {self.path}: {error.strerror}") from error

    def release(self) -> None:
        """Let others have the folder."""
        self._lock.unlink(missing_ok=True)

    def _holder_is_alive(self) -> bool:
        try:
            note = json.loads(self._lock.read_text(encoding="utf-8"))
            if note["host"] != socket.gethostname():
                return True
            os.kill(int(note["pid"]), 0)
        except (ValueError, KeyError, TypeError, OverflowError, ProcessLookupError, FileNotFoundError):
            return False
        except PermissionError:
            return True
        return int(note["pid"]) != os.getpid()

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a file of the folder, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(self.path / name)


def environment() -> dict[str, Any]:
    """Describe versions, git revisions and hardware."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "git": {"here": _revision(Path.cwd()), "tlearn": _revision(Path(__file__).parent)},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "command": sys.argv,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision(folder: Path) -> str | None:
    """Give the git revision of a folder, with a plus where files have changed since; None outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
