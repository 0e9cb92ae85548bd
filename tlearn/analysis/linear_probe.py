"""Linear probes: features on one scale, a linear layer fitted by L-BFGS, and probabilities of images held out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# On half the squared weights beside the mean loss, for features with mean squared length 1; divided by the classes, as
# the loss of one class is a smaller part of the mean where there are many.
_WEIGHT_DECAY = 0.01
_MOST_STEPS = 100


@dataclass(frozen=True)
class Standardisation:
    """Mean and deviation [F] that bring features [N, F] to mean 0 and deviation 1, so that none counts more."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Measure features [N, F]."""
        return cls(features.mean(0), features.std(0, correction=0))

    @property
    def scale(self) -> Tensor:
        """What features are divided by; those that do not vary keep their size."""
        return self.deviation.where(self.deviation > 0, 1.0)

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise features [N, F]."""
        return (features - self.mean) / self.scale

    @torch.no_grad()
    def adapt(self, layer: nn.Linear) -> None:
        """Change a layer of features so that it computes the same logits from standardised ones."""
        layer.bias.add_(layer.weight @ self.mean)
        layer.weight.mul_(self.scale)

    @torch.no_grad()
    def revert(self, layer: nn.Linear) -> None:
        """Undo `adapt`."""
        layer.weight.div_(self.scale)
        layer.bias.sub_(layer.weight @ self.mean)


def lbfgs(parameters: Iterable[Tensor], max_iter: int, tolerance: float, history_size: int = 10) -> torch.optim.LBFGS:
    """Build L-BFGS with a line search, converged where no gradient is larger than `tolerance`."""
    return torch.optim.LBFGS(
        parameters,
        max_iter=max_iter,
        tolerance_grad=tolerance,
        history_size=history_size,
        line_search_fn="strong_wolfe",
    )


def minimise(
    optimizer: Any,
    loss: Callable[[], Tensor],
    weight: Tensor,
    weight_decay: float,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> None:
    """Minimise a mean loss and a penalty on its layer's weight in one step of `lbfgs`, bare or wrapped by Lightning."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = loss() + weight_decay / 2 * weight.square().sum()
        backward(objective)
        return objective

    optimizer.step(closure)


def held_out(features: Tensor, targets: Tensor, num_classes: int, folds: int = 5, seed: int = 0) -> Tensor:
    """Compute each image's probabilities [N, C] by a linear classifier fitted to the other folds.

    Folds hold equal parts of each class. A class whose only image is the one looked at has a probability near 0.

    Args:
        features: [N, F].
        targets: class indices [N].
        folds: at most one for each image.
        seed: decides which images are in a fold together; torch's own generator is not used.
    """
    # Whatever mode the caller is in, fitting needs gradients.
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode cannot be part of a graph.
        targets, features = targets.clone(), features.float()
        fold = _folds(targets, min(folds, len(targets)), seed)
        probabilities = torch.full((len(targets), num_classes), 1 / num_classes)
        mean = features.mean(0)
        # Not `Standardisation.of`, whose last digit differs: a fit that stops early makes the fourth of it.
        standardise = Standardisation(mean, (features - mean).square().mean(0).sqrt())
        rows = standardise(features) / features.shape[1] ** 0.5
        for number in fold.unique().tolist() if len(targets) > 1 else ():
            others = fold != number
            layer = _fitted(rows[others], targets[others], num_classes)
            probabilities[~others] = layer(rows[~others]).softmax(1).detach()
    return probabilities


def _folds(targets: Tensor, folds: int, seed: int) -> Tensor:
    """Deal the images of one class after the other out to folds, in a random order."""
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
