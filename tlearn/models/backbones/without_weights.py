"""Let torchvision build a classifier for a weights entry without loading weights: tlearn does that itself."""

import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import WeightsEnum, get_model_builder

# Both replaced methods are shared by all threads.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Assembly:
    """A classifier with nothing loaded, the state dict meant for it, and the keys it would have loaded."""

    classifier: nn.Module
    state: MutableMapping[str, Tensor]
    keys: frozenset[str]


def assemble(name: str, entry: WeightsEnum, state: MutableMapping[str, Tensor] | None = None) -> Assembly:
    """Build a classifier on the meta device, at no cost of memory or random numbers.

    The builder decides by the entry what depends on the weights (image size of a ViT, input transform of GoogLeNet) and
    renames old keys of the state dict (DenseNet).
    """
    with on_meta():
        assembly = _build(name, entry, {} if state is None else state)
    assembly.classifier.to("meta")
    return assembly


def initialise(name: str, entry: WeightsEnum) -> nn.Module:
    """Build the same classifier in memory, with torchvision's random initialisation."""
    return _build(name, entry, {}).classifier


def _build(name: str, entry: WeightsEnum, state: MutableMapping[str, Tensor]) -> Assembly:
    with _intercepted(entry, state) as seen:
        classifier = get_model_builder(name)(weights=entry, progress=False)
    return Assembly(classifier, seen["state"], seen["keys"])


@contextmanager
def on_meta() -> Iterator[None]:
    """Build without memory for parameters and without drawing random numbers; the result is then moved to meta."""
    with torch.random.fork_rng(devices=[]), _EmptyOnMeta():
        yield


class _EmptyOnMeta(TorchFunctionMode):
    """Create uninitialised tensors without memory; a whole meta device would break builders that compute (RegNet)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def _intercepted(entry: WeightsEnum, state: MutableMapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Hand `state` to the builder as the entry's weights, and note what it would load instead of loading."""
    load, owner = nn.Module.load_state_dict, threading.get_ident()
    seen: dict[str, Any] = {}

    def note(self: nn.Module, state_dict: MutableMapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != owner:
            return load(self, state_dict, *args, **kwargs)
        seen.update(state=state_dict, keys=frozenset(self.state_dict()))
        return None

    with _LOCK:
        entry.get_state_dict = lambda *args, **kwargs: state
        nn.Module.load_state_dict = note  # type: ignore[assignment, method-assign]
        try:
            yield seen
        finally:
            nn.Module.load_state_dict = load  # type: ignore[method-assign]
            del entry.get_state_dict
