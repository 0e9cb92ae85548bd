"""The contract of a backbone: what every one provides."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn


@dataclass
class Body:
    """A network from images [N, 3, S, S] to features [N, num_features].

    `digest` identifies the loaded weights: sha256 of the file, or of the tensors where no single file is known; None
    for random weights.
    """

    module: nn.Module
    num_features: int
    digest: str | None = None


class Backbone(Protocol):
    """A backbone of any library."""

    name: str
    weights: str | None
    pooling: str

    def categories(self) -> list[str] | None:
        """Return the class names of the weights, or None where they are unknown."""

    def preprocessing(self) -> dict[str, Any]:
        """Return resize and size in pixels, interpolation, mean and std of the weights."""

    def architecture(self) -> dict[str, Any]:
        """Describe the backbone in plain data."""

    def skeleton(self, replace: str) -> Body:
        """Build the body without weights."""

    def build(self, replace: str) -> Body:
        """Build the body and load its weights."""
