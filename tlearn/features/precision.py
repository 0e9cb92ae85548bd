"""Precision of the frozen body: TF32 on request; bfloat16 on request, and only where features stay the same."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tlearn.errors import ConfigError

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
# Mean cosine similarity to float32. A MobileNet V2, with the many small layers that suffer most, has 0.9995; features
# with a lower similarity have been seen to change predictions.
_LEAST_SIMILARITY = 0.998


def similarity(exact: Tensor, approximate: Tensor) -> float:
    """Compute the mean cosine similarity of features [N, ...] in two precisions."""
    return F.cosine_similarity(exact.float().flatten(1), approximate.float().flatten(1)).mean().item()


def is_similar(value: float) -> bool:
    """Return whether features of this similarity are as good as the exact ones."""
    return value >= _LEAST_SIMILARITY


def check_similarity(value: float) -> None:
    """Raise ConfigError for features that lost too much."""
    if not is_similar(value):
        raise ConfigError(
            f"features.precision=bf16 changes this body's features too much (cosine {value:.4f} to fp32, and "
            f"{_LEAST_SIMILARITY} is the least): choose fp32, or auto, which decides by itself"
        )
