"""New layers from features to logits."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tlearn.errors import ConfigError
from tlearn.ranges import require


def linear(in_features: int, num_classes: int) -> nn.Linear:
    """Build one linear layer: features [N, in_features] -> logits [N, num_classes]."""
    return nn.Linear(in_features, num_classes)


def mlp(
    in_features: int,
    num_classes: int,
    hidden: Sequence[int] = (256,),
    dropout: float = 0.0,
    activation: str = "ReLU",
) -> nn.Sequential:
    """Build hidden layers, each Linear, activation and Dropout, and a last Linear to logits [N, num_classes].

    `activation` is the name of a class in torch.nn that needs no arguments. Raises ConfigError.
    """
    require("head.hidden", hidden)
    require("head.dropout", dropout)
    widths = [in_features, *hidden]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), _activation(activation), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))


@torch.no_grad()
def folded(weight: Tensor, bias: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight [C, F] and bias [C] of a linear layer that shifts and scales its inputs [N, F] by itself."""
    scaled = weight.double() * scale
    return scaled.to(weight.dtype), (bias - scaled @ shift.double()).to(bias.dtype)


def _activation(name: str) -> nn.Module:
    kind = getattr(nn, name, None)
    # ModuleList and its like are classes of layers that compute nothing.
    if not (isinstance(kind, type) and issubclass(kind, nn.Module) and kind.forward is not nn.Module.forward):
        raise ConfigError(f"head.activation={name} is not a class of torch.nn; try ReLU, GELU, SiLU or Tanh")
    try:
        return kind()
    except TypeError as error:
        raise ConfigError(
            f"head.activation={name} is not an activation ({error}); try ReLU, GELU, SiLU or Tanh"
        ) from error
