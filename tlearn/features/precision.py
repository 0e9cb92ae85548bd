"""In which precision the frozen body computes: bfloat16 where it is asked for and features stay the same."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tlearn.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Mean cosine similarity to float32. A MobileNet V2, with the many small layers that suffer most, has 0.9995; features
# that turn by more than this have been seen to move decisions.
_LEAST_SIMILARITY = 0.998
# Instructions of CPUs that multiply bfloat16 numbers: without them it is slower than float32.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device calculates in bfloat16 by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lines = (line.partition(":") for line in text.splitlines())
    return any(_CPU_FLAGS & set(flags.split()) for name, _, flags in lines if name.strip() in ("flags", "Features"))


def similarity(exact: Tensor, approximate: Tensor) -> float:
    """Give the mean cosine similarity of features [N, ...] in two precisions."""
    return F.cosine_similarity(exact.float().flatten(1), approximate.float().flatten(1)).mean().item()


def is_similar(value: float) -> bool:
    """Tell whether features of this similarity are as good as the exact ones."""
    return value >= _LEAST_SIMILARITY


def check_similarity(value: float) -> None:
    """Raise ConfigError for features that lost too much."""
    if not is_similar(value):
        raise ConfigError(
            f"features.precision=bf16 changes this body's features too much (cosine {value:.4f} to fp32, and "
            f"{_LEAST_SIMILARITY} is the least): choose fp32, or auto, which decides by itself"
        )
