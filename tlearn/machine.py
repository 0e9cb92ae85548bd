"""The one door to facts about this machine: CPUs, memory, precision, versions and revisions."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlearn import __version__

if TYPE_CHECKING:
    import torch

# In a container: microseconds of CPU time that all processes may take, and in how many
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MEMORY = Path("/proc/meminfo")
# In a container: the bytes that its processes may have and have, and what these are
_LIMIT, _USED, _USES = (Path("/sys/fs/cgroup", f"memory.{name}") for name in ("max", "current", "stat"))
_SHARED = Path("/dev/shm")
_PROCESSORS = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
# Instructions of CPUs that multiply bfloat16 numbers: without them it is slower than float32.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Packages whose code is not a user's
LIBRARIES = ("tlearn", "torch", "torchvision", "torchmetrics", "lightning", "timm")
_PACKAGES = (
    *("torch", "torchvision", "lightning", "hydra-core", "omegaconf"),
    *("torchmetrics", "tensorboard", "safetensors", "numpy", "pillow", "pillow-heif", "timm"),
)


def available_cpus() -> int:
    """Count the CPUs that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return max(1, min(count, int(quota) // int(period)))
    # No such file, or "max": no limit
    except (OSError, ValueError):
        return count


def available_memory() -> int | None:
    """Return the bytes that can be taken without swapping, or None where the system does not say (Linux does)."""
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        # Cached files count as used, and give way.
        uses = dict(line.split() for line in _USES.read_text(encoding="ascii").splitlines())
        used = int(_USED.read_text(encoding="ascii")) - int(uses["inactive_file"])
        return max(0, min(free, int(_LIMIT.read_text(encoding="ascii")) - used))
    # No such file, or "max": no limit
    except (OSError, ValueError, KeyError):
        return free


def free_shared_memory() -> int | None:
    """Return the free bytes of memory that processes share, or None where the system has no such limit (Linux has)."""
    try:
        place = os.statvfs(_SHARED)
    except (AttributeError, OSError):
        return None
    return place.f_bavail * place.f_frsize


def peak_memory(device: "torch.device") -> int | None:
    """Return the most bytes that this process took, or its tensors on a GPU, or None where the system does not say."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def has_gpu() -> bool:
    """Return whether torch sees a GPU of NVIDIA's, AMD's or Apple's."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def has_bf16(device: "torch.device") -> bool:
    """Return whether a device computes in bfloat16 natively."""
    # Imported here, above and below: what answers in half a second imports this file.
    import torch

    if device.type == "cuda":
        # torch.cuda.is_bf16_supported asks the current GPU, of whatever kind this one is.
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        text = _PROCESSORS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lines = (line.partition(":") for line in text.splitlines())
    return any(_BF16_FLAGS & set(flags.split()) for name, _, flags in lines if name.strip() in ("flags", "Features"))


def has_tf32(device: "torch.device") -> bool:
    """Return whether a device has tensor cores that take TF32: NVIDIA's GPUs since Ampere."""
    import torch

    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def environment() -> dict[str, Any]:
    """Describe versions, git revisions, hardware and the command line."""
    import torch

    return {
        "python": platform.python_version(),
        "packages": package_versions(),
        "git": {"here": _revision(Path.cwd()), "tlearn": _revision(Path(__file__).parent)},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpu_names(),
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.get_float32_matmul_precision() != "highest",
        },
        "command": sys.argv,
    }


def gpu_names() -> list[str]:
    """Return the names of NVIDIA's and AMD's GPUs that torch can use."""
    import torch

    try:
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    # Counted by a driver that is too old for this torch
    except RuntimeError:
        return []


def package_versions() -> dict[str, str]:
    """Return the versions of tlearn and of the libraries beneath it that are installed."""
    return {"tlearn": __version__, **{name: found for name in _PACKAGES if (found := _version(name))}}


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision(folder: Path) -> str | None:
    """Return the git revision of a folder, with a plus where files have changed since; None outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
