"""Every classifier of torchvision as a backbone, by one mechanism and without a table of models."""

import difflib
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import torch
import torchvision
from torchvision.models import WeightsEnum, get_model_weights, list_models

from tlearn.download import fetch
from tlearn.errors import ConfigError
from tlearn.models.backbones.base import Body
from tlearn.models.backbones.weights import load_body, read_state_dict, sha256_of, weights_path
from tlearn.models.backbones.without_weights import Assembly, assemble, initialise
from tlearn.models.graph.cut import Cut, apply_cut, count_features, plan_cut
from tlearn.models.graph.pooling import pooled
from tlearn.ranges import require

# What is cut from a model and the width of what is left: found by two passes, which every trial of a sweep would repeat
_CUTS: dict[tuple[str, str, str], tuple[Cut, int]] = {}


class TorchvisionBackbone:
    """A torchvision classifier with its weights and preprocessing; constructing it builds and loads nothing.

    Architecture and preprocessing are those of the weights; random weights take them from DEFAULT, and a file that is
    none of torchvision's own from the model's first entry.
    """

    def __init__(self, name: str, weights: str | None = "DEFAULT", pooling: str = "avg") -> None:
        """Check the names.

        Args:
            name: a model that torchvision lists, such as resnet18.
            weights: an entry such as DEFAULT or IMAGENET1K_V1, a .pth, .pt or .safetensors file, or None for random.
            pooling: of the last feature map: avg as the backbone pools, max, or avgmax for both.

        Raises ConfigError for an unknown name, entry or pooling, CheckpointError for a missing file.
        """
        known = list_models(module=torchvision.models)
        if name not in known:
            close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.0)
            raise ConfigError(
                f"backbone.name={name} is not a classifier of torchvision; the closest are {', '.join(close)}"
            )
        require("backbone.pooling", pooling)
        self.name = name
        self.weights = weights
        self.pooling = pooling
        self._path = weights_path(weights)
        if weights is not None and self._path is None:
            self._member(weights)

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any]) -> Self:
        """Build the backbone that `architecture()` describes, without its weights file."""
        backbone = cls(architecture["name"], None, architecture.get("pooling", "avg"))
        # Never a path: the description can come from somebody else's model.
        if architecture["weights"] is not None:
            backbone.weights = backbone._member(architecture["weights"]).name
        backbone._entry = backbone._member(architecture["variant"])
        return backbone

    def architecture(self) -> dict[str, Any]:
        """Describe the backbone in plain data: `weights` is the entry it has, `variant` the one it is built like."""
        weights = None if self._own_entry is None else self._own_entry.name
        described = {"weights": weights, "variant": self._entry.name, "pooling": self.pooling}
        return {"library": "torchvision", "name": self.name, **described}

    def preprocessing(self) -> dict[str, Any]:
        """Return the weights' own resize, size (both in pixels), interpolation, mean and std."""
        preset = self._entry.transforms()
        return {
            "resize": preset.resize_size[0],
            "size": preset.crop_size[0],
            "interpolation": preset.interpolation.value,
            "mean": list(preset.mean),
            "std": list(preset.std),
        }

    def categories(self) -> list[str] | None:
        """Return the class names of the weights, or None where they are unknown."""
        names = None if self._own_entry is None else self._own_entry.meta.get("categories")
        return None if names is None else list(names)

    def skeleton(self, replace: str = "classifier") -> Body:
        """Build the body on the meta device, for `load_state_dict(..., assign=True)`."""
        return self._pooled(self._skeleton(assemble(self.name, self._entry), replace)[0])

    def build(self, replace: str = "classifier") -> Body:
        """Build the body and load its weights.

        Args:
            replace: "classifier" for the whole of it, "last" for its last layer only, "nothing" to keep the logits.

        Raises DownloadError where weights cannot be fetched, CheckpointError where a file does not fit.
        """
        if self.weights is None:
            skeleton, cut = self._skeleton(assemble(self.name, self._entry), replace)
            module = apply_cut(initialise(self.name, self._entry), cut)
            return self._pooled(Body(module, skeleton.num_features))
        path = self._path or self._fetched()
        assembly = assemble(self.name, self._entry, read_state_dict(path))
        body, _ = self._skeleton(assembly, replace)
        # The parts that lost keys to the cut: in a file, they can hold a classifier of any shape.
        removed = {key.split(".")[0] for key in assembly.keys.difference(body.module.state_dict())}
        load_body(body.module, assembly.state, removed=removed, path=path, name=self.name)
        digest = self._file_digest if self._path else sha256_of(path)
        # Not before: layers read old files by the class of the network they are in.
        return self._pooled(Body(body.module, body.num_features, digest))

    def _pooled(self, body: Body) -> Body:
        return pooled(body, self.pooling, self.name)

    def _skeleton(self, assembly: Assembly, replace: str) -> tuple[Body, Cut]:
        key, size = (self.name, self._entry.name, replace), self.preprocessing()["size"]
        known = key in _CUTS
        cut = _CUTS[key][0] if known else plan_cut(assembly.classifier, size, replace)
        module = apply_cut(assembly.classifier, cut)
        if not known:
            _CUTS[key] = cut, count_features(module, size)
        return Body(module, _CUTS[key][1]), cut

    def _fetched(self) -> Path:
        url = self._entry.url
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
        return fetch(url, path, sha256=_sha256_in(url), what=f"the weights of {self.name}")

    def _member(self, name: str) -> WeightsEnum:
        entries = get_model_weights(self.name)
        if name not in entries.__members__:
            known = ", ".join(entries.__members__)
            raise ConfigError(
                f"backbone.weights={name} is unknown for {self.name}; it has {known}, or give a file or null"
            )
        return entries[name]

    @cached_property
    def _file_digest(self) -> str:
        assert self._path is not None
        return sha256_of(self._path)

    @cached_property
    def _own_entry(self) -> WeightsEnum | None:
        """The entry whose weights these are, also when they come as a file."""
        if self._path is None:
            return None if self.weights is None else self._member(self.weights)
        digests = [(entry, _sha256_in(entry.url)) for entry in get_model_weights(self.name)]
        return next((entry for entry, digest in digests if digest and self._file_digest.startswith(digest)), None)

    @cached_property
    def _entry(self) -> WeightsEnum:
        """The entry whose architecture and preprocessing these are."""
        if self._own_entry is None and self._path is not None:
            # A file of unknown origin: the first entry is the classic recipe (resize 256) that most such files follow,
            # DEFAULT often a newer one with another size.
            return next(iter(get_model_weights(self.name)))
        return self._own_entry or self._member("DEFAULT")


def _sha256_in(url: str) -> str | None:
    """The first digits of a file's sha256, which torchvision writes at the end of its name."""
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", url)
    return found[1] if found else None
