"""The small backbone that comes with tlearn: a torchvision architecture, made small by its own arguments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import nn
from torchvision import models

from tlearn.errors import ConfigError
from tlearn.models.backbones.base import Body
from tlearn.models.backbones.weights import load_body, read_state_dict, sha256_of, weights_path
from tlearn.models.backbones.without_weights import on_meta
from tlearn.models.graph.cut import apply_cut, count_features, plan_cut
from tlearn.models.graph.pooling import pooled
from tlearn.ranges import require

# Trained by `python -m tlearn.train experiment=pretrain_tiny`; recipe, seed and accuracy are in the file's metadata.
SHIPPED = Path(__file__).resolve().parent.parent.parent / "weights" / "tiny.safetensors"


class SmallBackbone:
    """A small torchvision classifier; constructing it builds and loads nothing.

    Args:
        name: a class of torchvision.models, such as ShuffleNetV2.
        arguments: what its constructor takes.
        preprocessing: resize and size in pixels, interpolation, mean and std per channel.
        weights: DEFAULT for the file that comes with tlearn, a .pth, .pt or .safetensors file, or None for random.
        pooling: of the last feature map: avg as the network pools, max, or avgmax for both.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any],
        preprocessing: Mapping[str, Any],
        weights: str | None = "DEFAULT",
        pooling: str = "avg",
    ) -> None:
        require("backbone.pooling", pooling)
        self.name, self.weights, self.pooling = name, weights, pooling
        self._arguments, self._preprocessing = _plain(arguments), _plain(preprocessing)
        self._path = SHIPPED if weights == "DEFAULT" else weights_path(weights)
        if weights is not None and self._path is None:
            raise ConfigError(f"backbone.weights={weights} is unknown: here it is DEFAULT, a file or null")

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any]) -> Self:
        """Build the backbone that `architecture()` describes, without its weights file."""
        described = (architecture["name"], architecture["arguments"], architecture["preprocessing"])
        return cls(*described, weights=None, pooling=architecture.get("pooling", "avg"))

    def architecture(self) -> dict[str, Any]:
        """Describe the backbone in plain data."""
        described = {"arguments": self._arguments, "preprocessing": self._preprocessing, "pooling": self.pooling}
        return {"library": "small", "name": self.name, **described}

    def preprocessing(self) -> dict[str, Any]:
        """Return resize and size in pixels, interpolation, mean and std."""
        return dict(self._preprocessing)

    def categories(self) -> list[str] | None:
        """Return None: the classes that it was trained on are useless elsewhere."""
        return None

    def skeleton(self, replace: str = "classifier") -> Body:
        """Build the body on the meta device, for `load_state_dict(..., assign=True)`."""
        return self._pooled(self._skeleton(replace))

    def build(self, replace: str = "classifier") -> Body:
        """Build the body and load its weights; CheckpointError where the file does not fit."""
        if self._path is None:
            return self._pooled(self._cut(self._classifier(), replace))
        body = self._skeleton(replace)
        state = read_state_dict(self._path)
        load_body(body.module, state, removed=("classifier", "fc"), path=self._path, name=self.name)
        return self._pooled(Body(body.module, body.num_features, sha256_of(self._path)))

    def _skeleton(self, replace: str) -> Body:
        with on_meta():
            classifier = self._classifier()
        return self._cut(classifier.to("meta"), replace)

    def _pooled(self, body: Body) -> Body:
        return pooled(body, self.pooling, self.name)

    def _classifier(self) -> nn.Module:
        kind = getattr(models, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ConfigError(f"backbone.name={self.name} is not a network class in torchvision.models")
        try:
            return kind(**self._arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"backbone.arguments do not suit {self.name}: {error}") from error

    def _cut(self, classifier: nn.Module, replace: str) -> Body:
        size = self._preprocessing["size"]
        module = apply_cut(classifier, plan_cut(classifier, size, replace))
        return Body(module, count_features(module, size))


def _plain(node: Any) -> Any:
    """Copy a configuration's containers as plain ones, which a description can hold."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    return node if isinstance(node, str | int | float | None) else [_plain(value) for value in node]
