"""Features of real images, which more than one test looks at."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.features.extract import Extractor, Reader
from tlearn.models.backbones.torchvision import TorchvisionBackbone


@pytest.fixture(scope="session")
def real_features(shared: Path) -> Callable[[list[Path]], Tensor]:
    """Return a function that computes features [N, D] by real weights, once for each image."""
    backbone = TorchvisionBackbone("mobilenet_v2", str(shared / "weights" / "mobilenet_v2.pth"))
    # Smaller than the weights were trained on: half the time, and features that tell as much here
    transform = Transform(backbone.preprocessing() | {"resize": 183, "size": 160})
    extractor = Extractor(backbone.build().module, Reader(Decoder(), transform, transform))
    known: dict[Path, Tensor] = {}

    def features(files: list[Path]) -> Tensor:
        missing = [file for file in files if file not in known]
        if missing:
            parts = [part.clone() for part in extractor([(file, None) for file in missing])]
            known.update(zip(missing, torch.cat(parts), strict=True))
        return torch.stack([known[file] for file in files])

    return features
