"""Metrics beyond those of torchmetrics, or exact where its own are not: each is one number over a whole split.

A metric of a run is a `torchmetrics.Metric`, built with `num_classes`, cloned for each split, and updated with

- logits [N, C] in double precision, shifted so that the largest of each image is 0: torchmetrics would take logits that
  happen to lie between 0 and 1 for probabilities;
- targets [N].

Its `higher_is_better` says which end is best. It is computed from all images of all processes: states are counts, sums
or whole lists. On train only those with `on_train` are measured, which cost next to nothing: a step of a head on cached
features takes some milliseconds, to which the other metrics of `metrics=full` would add 40 %, and AUROC would keep all
logits of an epoch.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from tlearn.analysis.outputs import among_top


def shifted(logits: Tensor) -> Tensor:
    """Return logits [N, C] as metrics take them."""
    # MPS has no double precision.
    precise = logits.float() if logits.device.type == "mps" else logits.double()
    return precise - precise.amax(1, keepdim=True)


def top_k(num_classes: int, k: int) -> "TopK | None":
    """Build top-k accuracy, or nothing where it would always be 1."""
    return TopK(k) if k < num_classes else None


def accuracies(num_classes: int) -> dict[str, Metric]:
    """Build top-1, and top-5 for more than five classes (with fewer it would always be 1)."""
    built = {f"top{k}": top_k(num_classes, k) for k in (1, 5)}
    return {name: metric for name, metric in built.items() if metric is not None}


def cloned(metrics: Mapping[str, Metric], prefix: str) -> MetricCollection:
    """Clone metrics for a split."""
    # Not in groups: torchmetrics would take metrics for one whose states are the same after the first batch.
    return MetricCollection(
        {name: metric.clone() for name, metric in metrics.items()}, compute_groups=False, prefix=prefix
    )


class _Mean(Metric):
    """A mean over images; `zero` is where its sum starts, and of the sum's type."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, zero: float, **more: Any) -> None:
        super().__init__(**more)
        self.add_state("total", torch.tensor(zero), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Return the mean over all images so far."""
        return self.total / self.count


class _ImageMean(_Mean):
    """The mean over images of what `values` computes."""

    def values(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return values [N, ...], whose sum over an image counts."""
        raise NotImplementedError

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self.total += self.values(logits, targets).sum()
        self.count += len(targets)


class MeanLoss(_Mean):
    """The mean over images of a loss that is the mean of each batch.

    That of torchmetrics looks for NaN in each batch, and leaves it out: three waits for a GPU in a step of training.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(0.0, **more)

    def update(self, loss: Tensor, images: int) -> None:
        """Add a batch."""
        self.total += loss * images
        self.count += images


class TopK(_ImageMean):
    """The share of images whose class is among the k most probable; of equal ones, the first classes count."""

    higher_is_better = True
    on_train = True

    def __init__(self, k: int, **more: Any) -> None:
        super().__init__(0, **more)
        self.k = k

    def values(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return whether each image counts."""
        return among_top(logits, targets, self.k)


class ClassMeanAccuracy(Metric):
    """The mean over classes of each class's top-1 accuracy, also called balanced accuracy.

    Classes without an image in the split are left out, also where images are taken for them, which torchmetrics counts
    as 0.
    """

    higher_is_better = True
    full_state_update = False
    right: Tensor
    count: Tensor

    def __init__(self, num_classes: int, **more: Any) -> None:
        super().__init__(**more)
        self.num_classes = num_classes
        self.add_state("right", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        right = targets[logits.argmax(1) == targets]
        self.right += torch.bincount(right, minlength=self.num_classes)
        self.count += torch.bincount(targets, minlength=self.num_classes)

    def compute(self) -> Tensor:
        """Return the mean over the classes seen so far."""
        present = self.count > 0
        return (self.right[present] / self.count[present]).mean()


class AUROC(Metric):
    """The area under the ROC curve of each class against all others, by its probability; the mean over classes.

    It is the share of pairs of an image of the class and another image that are in the right order; equal
    probabilities count half (Mann and Whitney 1947, On a test of whether one of two random variables is stochastically
    larger than the other). Classes without an image, or with all images, have none and are left out, where torchmetrics
    counts them as 0; with no class left, as for a single image, it is NaN. For two classes it is that of either.
    """

    higher_is_better = True
    full_state_update = False
    probabilities: list[Tensor]
    targets: list[Tensor]

    def __init__(self, num_classes: int, **more: Any) -> None:
        super().__init__(**more)
        self.num_classes = num_classes
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Keep a batch."""
        self.probabilities.append(logits.softmax(1))
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """Return the mean over classes of all images so far."""
        probabilities, targets = dim_zero_cat(self.probabilities), dim_zero_cat(self.targets)
        counts = torch.bincount(targets, minlength=self.num_classes).tolist()
        areas = [
            _area(probabilities[:, label].contiguous(), targets == label)
            for label, count in enumerate(counts)
            if 0 < count < len(targets)
        ]
        return torch.stack(areas).mean() if areas else probabilities.new_tensor(torch.nan)


def _area(scores: Tensor, positive: Tensor) -> Tensor:
    """Compute the share of pairs (positive, other) in which the positive's score is higher, equal ones as half."""
    others, positives = scores[~positive].sort().values, scores[positive]
    lower, not_higher = (torch.searchsorted(others, positives, right=right) for right in (False, True))
    # The mean of both counts: integers, so that no rounding depends on the order of images
    return (lower + not_higher).sum() / (2 * len(others) * len(positives))


class BrierScore(_ImageMean):
    """The mean squared distance between probabilities and the truth, summed over classes: from 0, the best, to 2.

    For two classes it is twice the score of one class's probability. Source: Brier 1950, Verification of forecasts
    expressed in terms of probability.
    """

    higher_is_better = False

    def __init__(self, num_classes: int, **more: Any) -> None:
        super().__init__(0.0, **more)
        self.num_classes = num_classes

    def values(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the squared distance of each class [N, C]."""
        return (logits.softmax(1) - F.one_hot(targets, self.num_classes)).square()
