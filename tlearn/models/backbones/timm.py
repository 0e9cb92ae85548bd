"""Every model of timm as a backbone; timm itself is imported only when one is made."""

import difflib
import math
from types import ModuleType
from typing import Any, Self

import torch
from torch import nn

from tlearn.errors import ConfigError, DownloadError
from tlearn.models.backbones.base import Body
from tlearn.models.backbones.weights import load_body, read_state_dict, sha256_of, weights_path
from tlearn.models.graph.cut import REPLACE, count_features
from tlearn.models.network import tensor_digest
from tlearn.ranges import require

_POOLINGS = {"max": "max", "avgmax": "catavgmax"}


class TimmBackbone:
    """A timm model with its weights and preprocessing; constructing it builds and loads nothing.

    timm cuts its models itself, so `replace` "classifier" and "last" are the same here.
    """

    def __init__(self, name: str, weights: str | None = "DEFAULT", pooling: str = "avg") -> None:
        """Check the names.

        Args:
            name: a model of timm, with the tag of its weights or without: resnet18.a1_in1k, resnet18.
            weights: DEFAULT for timm's own, a .pth, .pt or .safetensors file, or None for random.
            pooling: of the last feature map: avg as the backbone pools, max, or avgmax for both.

        Raises ConfigError without timm and for an unknown name or pooling, CheckpointError for a missing file.
        """
        require("backbone.pooling", pooling)
        self._config = _config(name)
        self.name = name
        self.weights = weights
        self.pooling = pooling
        self._path = weights_path(weights)
        if weights not in (None, "DEFAULT") and self._path is None:
            raise ConfigError(f"backbone.weights={weights} is unknown: with timm it is DEFAULT, a file or null")
        if weights == "DEFAULT" and not self._config.has_weights:
            raise ConfigError(f"timm has no weights for {name}: set backbone.weights to a file or null")

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any]) -> Self:
        """Build the backbone that `architecture()` describes, without its weights file."""
        backbone = cls(architecture["name"], None, architecture.get("pooling", "avg"))
        backbone.weights = None if architecture["weights"] is None else "DEFAULT"
        return backbone

    def architecture(self) -> dict[str, Any]:
        """Describe the backbone in plain data; the name is complete, as another timm can choose another tag."""
        name = ".".join(filter(None, (self._config.architecture, self._config.tag)))
        weights = None if self._path else self.weights
        return {"library": "timm", "name": name, "weights": weights, "pooling": self.pooling}

    def preprocessing(self) -> dict[str, Any]:
        """Return the weights' own resize, size (both in pixels), interpolation, mean and std."""
        size = self._config.input_size[-1]
        return {
            "resize": math.floor(size / self._config.crop_pct),
            "size": size,
            "interpolation": self._config.interpolation,
            "mean": list(self._config.mean),
            "std": list(self._config.std),
        }

    def categories(self) -> list[str] | None:
        """Return the class names of timm's own weights where they are one of ImageNet's sets, or None."""
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset(self._config.to_dict()) if self.weights == "DEFAULT" else None
        return None if subset is None else list(ImageNetInfo(subset).label_descriptions())

    def skeleton(self, replace: str = "classifier") -> Body:
        """Build the body with random weights in memory: on the meta device timm's computed tensors would be lost."""
        module = self._create(replace)
        return Body(module, count_features(module, self.preprocessing()["size"]))

    def build(self, replace: str = "classifier") -> Body:
        """Build the body and load its weights.

        Raises DownloadError where weights cannot be fetched, CheckpointError where a file does not fit.
        """
        if self.weights is None:
            return self.skeleton(replace)
        if self._path is None:
            module = self._create(replace, pretrained=True)
            digest = tensor_digest(module.state_dict())
            return Body(module, count_features(module, self.preprocessing()["size"]), digest)
        body = self.skeleton(replace)
        state = read_state_dict(self._path)
        load_body(body.module, state, removed=self._classifiers(), path=self._path, name=self.name)
        return Body(body.module, body.num_features, sha256_of(self._path))

    def _create(self, replace: str, pretrained: bool = False) -> nn.Module:
        require("head.replace", replace, REPLACE)
        cut: dict[str, Any] = {} if replace == "nothing" else {"num_classes": 0}
        cut |= self._pool(cut)
        try:
            return _timm().create_model(self.name, pretrained=pretrained, **cut)
        # The hub, its cache and the network raise errors of many unrelated types.
        except Exception as error:
            if not pretrained:
                raise
            instead = "set backbone.weights to a file or null to do without"
            raise DownloadError(f"timm cannot get the weights of {self.name} ({error}): {instead}") from error

    def _pool(self, cut: dict[str, Any]) -> dict[str, str]:
        """Return timm's argument for the pooling, if the same weights fit a model that has it."""
        if self.pooling == "avg":
            return {}
        pool = {"global_pool": _POOLINGS[self.pooling]}
        try:
            # Models that are only compared must not advance the generator that random weights are drawn from.
            with torch.random.fork_rng(devices=[]):
                own, other = (_timm().create_model(self.name, **cut, **arguments) for arguments in ({}, pool))
        # Each family of models refuses in its own way.
        except Exception as error:
            raise ConfigError(f"backbone.pooling={self.pooling}: {self.name} refuses it ({error}); take avg") from error
        if _shapes(own) != _shapes(other):
            raise ConfigError(f"backbone.pooling={self.pooling} does not fit the weights of {self.name}; take avg")
        return pool

    def _classifiers(self) -> set[str]:
        names = self._config.classifier or ()
        return {name.split(".")[0] for name in ((names,) if isinstance(names, str) else names)}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in module.state_dict().items()}


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError('this backbone needs timm: pip install "tlearn[timm]"') from error
    return timm


def _config(name: str) -> Any:
    timm = _timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0)
        raise ConfigError(f"backbone=timm/{name} is not a model of timm; the closest are {', '.join(close)}")
    try:
        return timm.models.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        raise ConfigError(f"backbone=timm/{name} has a tag that timm does not know: {error}") from error
