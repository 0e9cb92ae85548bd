"""The contract of a backbone: implement `Backbone` for your own, and name it in backbone._target_."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

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


@runtime_checkable
class Backbone(Protocol):
    """A network without its classifier. Constructing a backbone builds and loads nothing.

    A backbone may also have, and tlearn then uses:
        weights: an argument of its constructor, which `finetune.pretrained=false` sets to None for random weights.
        name: what reports call it; else that is the name of its class.
        skeleton(replace): a method as `build`, which loads no weights; else `build` of `from_architecture` is called.
        categories(): a method that returns the class names of its logits, or None; with `build("nothing")`, which keeps
            the logits as features, `python -m tlearn.predict backbone=...` predicts them.
    """

    @classmethod
    def from_architecture(cls, architecture: dict[str, Any]) -> Self:
        """Build the backbone that `architecture()` describes, without weights: those of a model are loaded into it."""

    def architecture(self) -> dict[str, Any]:
        """Describe the backbone in plain data that JSON can hold: what `from_architecture` needs, and no weights."""

    def preprocessing(self) -> dict[str, Any]:
        """Return resize and size in pixels, interpolation, and mean and std per channel, as the weights want them."""

    def build(self, replace: str) -> Body:
        """Build the body and load its weights, if any.

        Args:
            replace: "classifier" to leave out the whole classifier, "last" only its last layer. A backbone without a
                classifier of its own may ignore it.
        """


def backbone_name(backbone: Backbone) -> str:
    """Return what a backbone is called."""
    return str(getattr(backbone, "name", None) or type(backbone).__name__)


def described_name(described: Mapping[str, Any]) -> str:
    """Return what a backbone is called that plain data describes, by its name or else by its class."""
    return str(described.get("name") or described["_target_"].rpartition(".")[2])
