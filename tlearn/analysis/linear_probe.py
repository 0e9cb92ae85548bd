"""Linear probes: standardised features, a linear layer fitted by L-BFGS, and out-of-sample probabilities."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Coefficient of half the squared weights added to the mean loss, for features with mean squared length 1; divided by
# the number of classes, as each class has a smaller share of the mean where there are many.
_WEIGHT_DECAY = 0.01
_MOST_STEPS = 100
# Part of its mean by which a feature varies when it is constant but for rounding
_ROUNDING = 1e-6
# Images of which statistics are computed at once
_ROWS = 1024


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation [F] that standardise features [N, F]."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, blocks: Iterable[Tensor]) -> Self:
        """Compute mean and standard deviation of features, from blocks [n, F] of them."""
        count, first, sums, squares = 0, None, torch.zeros(()), torch.zeros(())
        # In small parts, which sums in double precision copy
        for block in (part for whole in blocks for part in whole.split(_ROWS)):
            # Relative to one image: a constant feature deviates by exactly 0, and a large mean loses no digits.
            first = block[0].clone() if first is None else first
            apart = block - first
            count += len(block)
            sums = sums + apart.sum(0, dtype=sum_dtype(block))
            squares = squares + apart.square_().sum(0, dtype=sum_dtype(block))
        if first is None:
            raise ValueError("no features")
        mean = sums / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        return cls((first + mean).to(first.dtype), deviation.to(first.dtype))

    @property
    def scale(self) -> Tensor:
        """Divisor of the features; 1 for constant ones, whose rounding would become noise."""
        return self.deviation.where(self.deviation > _ROUNDING * self.mean.abs(), 1.0)

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise features [N, F]."""
        # One copy of the features, and not two
        return (features - self.mean).div_(self.scale)

    @torch.no_grad()
    def adapt(self, layer: nn.Linear) -> None:
        """Change a linear layer on raw features into one with the same logits on standardised features."""
        layer.bias.add_(layer.weight @ self.mean)
        layer.weight.mul_(self.scale)

    @torch.no_grad()
    def revert(self, layer: nn.Linear) -> None:
        """Undo `adapt`."""
        layer.weight.div_(self.scale)
        layer.bias.sub_(layer.weight @ self.mean)


def sum_dtype(values: Tensor) -> torch.dtype:
    """Return the precision of sums: double but on Apple's GPUs, which have none."""
    return torch.float if values.device.type == "mps" else torch.double


def lbfgs(parameters: Iterable[Tensor], max_iter: int, tolerance: float) -> torch.optim.LBFGS:
    """Build L-BFGS with a line search, converged where no gradient is larger than `tolerance`."""
    return torch.optim.LBFGS(
        parameters, max_iter=max_iter, tolerance_grad=tolerance, history_size=10, line_search_fn="strong_wolfe"
    )


def minimise(
    optimizer: Any,
    loss: Callable[[], Tensor],
    weight: Tensor,
    weight_decay: float,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> None:
    """Minimise a mean loss plus weight decay in one step of `lbfgs`, bare or wrapped by Lightning."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = loss() + weight_decay / 2 * weight.square().sum()
        backward(objective)
        return objective

    optimizer.step(closure)


def held_out(features: Tensor, targets: Tensor, num_classes: int, folds: int = 5, seed: int = 0) -> Tensor:
    """Compute cross-validated probabilities [N, C], each by a linear classifier fitted to the other folds.

    Folds are stratified. The only image of a class gets a probability near 0 for it.

    Args:
        features: [N, F].
        targets: class indices [N].
        folds: at most the number of images.
        seed: seed of the folds; torch's global generator is not used.
    """
    # Fitting needs gradients, also where the caller has disabled them.
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode cannot be part of a graph.
        targets, features = targets.clone(), features.float()
        fold = _folds(targets, min(folds, len(targets)), seed)
        probabilities = torch.full((len(targets), num_classes), 1 / num_classes)
        mean = features.mean(0)
        # Not `Standardisation.of`: its last digit differs, which becomes the fourth after a fit that stops early.
        standardise = Standardisation(mean, (features - mean).square().mean(0).sqrt())
        rows = standardise(features) / features.shape[1] ** 0.5
        for number in fold.unique().tolist() if len(targets) > 1 else ():
            others = fold != number
            layer = _fitted(rows[others], targets[others], num_classes)
            probabilities[~others] = layer(rows[~others]).softmax(1).detach()
    return probabilities


def _folds(targets: Tensor, folds: int, seed: int) -> Tensor:
    """Assign the images of each class in turn to folds, in random order."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    order = order[targets[order].argsort(stable=True)]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(targets)) % max(1, folds))


def _fitted(rows: Tensor, targets: Tensor, num_classes: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, rows.shape[1], num_classes)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    optimizer = lbfgs(layer.parameters(), _MOST_STEPS, 1e-4)
    minimise(optimizer, lambda: F.cross_entropy(layer(rows), targets), layer.weight, _WEIGHT_DECAY / num_classes)
    return layer
