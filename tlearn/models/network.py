"""Body and head as one network whose frozen parts never change."""

import difflib
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from tlearn.errors import ConfigError
from tlearn.models.graph.divide import FrozenPart, divide, run_rest

Stages = Sequence[str] | str


@dataclass(frozen=True)
class _Start:
    """Where a body continues: a frozen part without its layers, which every copy of the network would copy, too."""

    ndim: int
    rest: fx.Graph | None
    stages: tuple[str, ...]


class TransferNetwork(nn.Module):
    """A body (images -> features) and a head (features -> logits).

    `stages` are the parts of the body that train: dotted names of its modules or parameters, with all below them, or
    "all". Every other part is frozen: it takes no gradient and stays in evaluation mode, so that neither an optimizer
    nor BatchNorm nor dropout changes what it computes.
    """

    def __init__(self, body: nn.Module, head: nn.Module, stages: Stages = ()) -> None:
        super().__init__()
        self.body = body
        self.head = head
        # Names, not modules: copies of the network keep them, and a replica's parameters say nothing about gradients.
        self.stages: tuple[str, ...] = ()
        self._start: _Start | None = None
        self.body.requires_grad_(False)
        self.unfreeze(stages)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [N, C]; for the shapes of images see `features`."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Compute features [N, F] of images [N, 3, S, S], without a graph while the whole body is frozen.

        For images [N, V, 3, S, S], V versions of each, it returns the mean features. After `start_after`, inputs are
        outputs of the frozen part, with their shape in place of [3, S, S].
        """
        # Not inference mode: the head's backward pass needs ordinary tensors.
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.stages)):
            if images.ndim == 1 + (3 if self._start is None else self._start.ndim):
                return self._run(images)
            return self._run(images.flatten(0, 1)).unflatten(0, images.shape[:2]).mean(dim=1)

    def frozen_part(self, size: int, later: Stages = ()) -> FrozenPart:
        """Find the part of the body that cannot change now or in a `later` stage, for images of `size` pixels.

        Raises NotDivisibleError, with the reason, where nothing can be computed ahead.
        """
        stages = (*self.stages, *self._checked(later))
        return replace(divide(self.body, lambda name: _covers(stages, name), size), stages=stages)

    def start_after(self, part: FrozenPart | None) -> None:
        """Take the output of a frozen part in place of images from now on; None: take images again.

        Raises ValueError where something of the part trains.
        """
        start = None if part is None else _Start(len(part.shape), part.rest, part.stages)
        _check_trainable(start, self.stages)
        self._start = start

    @property
    def skips_body(self) -> bool:
        """Whether inputs are features already, as after `start_after` a body of which nothing trains."""
        return self._start is not None and self._start.rest is None

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything that is not frozen."""
        super().train(mode)
        for name, module in self.body.named_modules():
            if not _covers(self.stages, name):
                module.training = False
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load as torch does; a state dict without layer versions (safetensors keep none) has the present ones."""
        if not hasattr(state_dict, "_metadata"):
            state_dict = OrderedDict(state_dict)
            # MNASNet refuses to load what has no version.
            state_dict._metadata = self.state_dict()._metadata  # type: ignore[attr-defined]
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def unfreeze(self, stages: Stages) -> None:
        """Unfreeze more parts of the body.

        Raises ConfigError for a name that is not a part with parameters, ValueError for one that `start_after` skips.
        """
        names = self._checked(stages)
        _check_trainable(self._start, names)
        self.stages = tuple(dict.fromkeys((*self.stages, *names)))
        for name, parameter in self.body.named_parameters():
            if _covers(self.stages, name):
                parameter.requires_grad_(True)
        self.train(self.training)

    def parameter_groups(self, lr: float, body_lr_scale: float, later: Stages = ()) -> list[dict[str, Any]]:
        """Group the parameters for an optimizer: the head's, then the body's that train now or in a `later` stage.

        Those of later stages are in from the start, so that unfreezing changes no optimizer; without gradients,
        optimizers leave them alone.
        """
        stages = (*self.stages, *self._checked(later))
        body = [parameter for name, parameter in self.body.named_parameters() if _covers(stages, name)]
        groups = [{"name": "head", "params": list(self.head.parameters()), "lr": lr}]
        if body:
            groups.append({"name": "body", "params": body, "lr": lr * body_lr_scale})
        return groups

    def trained_modules(self, later: Stages = ()) -> list[nn.Module]:
        """List the modules of the head, and those of the body that train now or in a `later` stage."""
        stages = (*self.stages, *self._checked(later))
        return [*self.head.modules(), *(part for name, part in self.body.named_modules() if _covers(stages, name))]

    def frozen_keys(self, later: Stages = ()) -> list[str]:
        """List the keys of `state_dict()`, parameters and buffers, that cannot change now or in a `later` stage."""
        stages = (*self.stages, *self._checked(later))
        return [f"body.{key}" for key in self.body.state_dict() if not _covers(stages, key)]

    def sizes(self) -> dict[str, int]:
        """Count all parameters, and those that train now, as metrics.json has them."""
        return dict(zip(("params/total", "params/trainable"), count_parameters(self), strict=True))

    def _run(self, values: Tensor) -> Tensor:
        if self._start is None:
            return self.body(values)
        return values if self._start.rest is None else run_rest(self.body, self._start.rest, values)

    def _checked(self, stages: Stages) -> tuple[str, ...]:
        names = (stages,) if isinstance(stages, str) else tuple(stages)
        parameters = [name for name, _ in self.body.named_parameters()]
        for name in names:
            if not any(_covers((name,), parameter) for parameter in parameters):
                raise ConfigError(_unknown_stage(name, parameters))
        return names


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode during the block, then restore the mode of each module."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def count_parameters(part: nn.Module) -> tuple[int, int]:
    """Count all parameters of a module, and those that train now."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in part.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors by name, dtype, shape and bytes, whatever their order and device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # numpy has no bfloat16, and a scalar cannot be viewed as bytes.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_trainable(start: _Start | None, stages: Sequence[str]) -> None:
    passed = [stage for stage in stages if start is not None and not _covers(start.stages, stage)]
    if passed:
        raise ValueError(f"{passed[0]} cannot train: the network starts after a part that was frozen with it")


def _covers(stages: Sequence[str], name: str) -> bool:
    return any(stage == "all" or name == stage or name.startswith(f"{stage}.") for stage in stages)


def _unknown_stage(stage: str, parameters: list[str]) -> str:
    if not parameters:
        return "the body has no parameters that could train: choose finetune=frozen"
    parts = list(dict.fromkeys(name.split(".")[0] for name in parameters))
    below = {name.rsplit(".", depth)[0] for name in parameters for depth in range(1, name.count(".") + 1)}
    close = difflib.get_close_matches(stage, sorted(below | set(parts)), n=3)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return (
        f"stage {stage!r} is not a part of the body with parameters; {hint}its top-level parts are {', '.join(parts)}"
    )
