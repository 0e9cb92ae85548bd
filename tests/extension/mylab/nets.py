"""A backbone from scratch: the contract and nothing more."""

from typing import Any

import torch
from mylab.layers import Gain
from torch import nn

from tlearn.models.backbones.base import Body


class SmallNet:
    """Two convolutions with fixed random weights, for images of 32 pixels."""

    def __init__(self, width: int = 8) -> None:
        self.width = width

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any]) -> "SmallNet":
        return cls(**architecture)

    def architecture(self) -> dict[str, Any]:
        return {"width": self.width}

    def preprocessing(self) -> dict[str, Any]:
        return {"resize": 32, "size": 32, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}

    def build(self, replace: str) -> Body:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, second = (nn.Conv2d(3, self.width, 3, 2), nn.Conv2d(self.width, self.width, 3, 2))
        layers = (first, nn.ReLU(), Gain(), second, nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten())
        return Body(nn.Sequential(*layers), 4 * self.width)
