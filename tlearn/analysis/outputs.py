"""The outputs of a network on a split, from which all tables and figures are computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network on the N images of a split, in the order of the split.

    Args:
        split: train, val or test.
        classes: the C class names in the order of the logits.
        root: folder that the paths are relative to.
        paths: files of the N images.
        targets: true class indices [N].
        logits: [N, C] in single precision, on the CPU.
        features: inputs of the head [N, F], or None where they were not kept.
        temperature: divisor of the logits before the softmax; 1 for none.
    """

    split: str
    classes: Sequence[str]
    root: Path
    paths: Sequence[str]
    targets: Tensor
    logits: Tensor
    features: Tensor | None = None
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def probabilities(self) -> Tensor:
        """Probabilities [N, C]."""
        return (self.logits / self.temperature).softmax(1)

    @cached_property
    def predictions(self) -> Tensor:
        """Indices of the most probable classes [N]."""
        return self.logits.argmax(1)

    @cached_property
    def confidences(self) -> Tensor:
        """Probabilities of the predictions [N]."""
        return self.probabilities.amax(1)

    @cached_property
    def losses(self) -> Tensor:
        """The cross-entropy of each image [N]."""
        return F.cross_entropy(self.logits / self.temperature, self.targets, reduction="none")

    def correct(self, top: int = 1) -> Tensor:
        """Return whether the class of each image is among the `top` most probable ones, bool [N]."""
        return among_top(self.logits, self.targets, top)

    def best(self, index: int, count: int = 5) -> list[tuple[str, float]]:
        """Return the most probable classes of an image with their probabilities, at most `count`."""
        top = self.logits[index].topk(min(count, len(self.classes))).indices.tolist()
        # For equal logits, topk and argmax can differ.
        order = list(dict.fromkeys([int(self.predictions[index]), *top]))[:count]
        return [(self.classes[at], float(self.probabilities[index, at])) for at in order]

    def scaled(self, temperature: float) -> Self:
        """Return the outputs with another temperature."""
        # The same temperature keeps cached properties.
        return self if temperature == self.temperature else replace(self, temperature=temperature)

    def rows(self, count: int = 5) -> list[dict[str, Any]]:
        """Build a table: path, class, prediction, probability, probability of the class, loss and the next classes."""
        of_class = self.probabilities.gather(1, self.targets[:, None])[:, 0]
        table = []
        for index, path in enumerate(self.paths):
            best = self.best(index, count)
            row: dict[str, Any] = {"path": path, "class": self.classes[int(self.targets[index])]}
            row |= {"prediction": best[0][0], "probability": best[0][1]}
            row |= {"probability_of_class": float(of_class[index]), "loss": float(self.losses[index])}
            for rank, (name, value) in enumerate(best[1:], 2):
                row |= {f"prediction_{rank}": name, f"probability_{rank}": value}
            table.append(row)
        return table


def among_top(logits: Tensor, targets: Tensor, top: int) -> Tensor:
    """Return whether targets [N] are among the `top` highest logits [N, C], bool [N]; of equal ones, the first count.

    `topk` would choose among equal ones as it likes.
    """
    if top == 1:
        return logits.argmax(1) == targets
    own = logits.gather(1, targets[:, None])
    before = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(1) < top


def compute_metrics(outputs: Outputs) -> dict[str, float]:
    """Compute loss (cross-entropy), top1 and, beyond five classes, top5 over all images."""
    found = {"loss": float(outputs.losses.double().mean()), "top1": float(outputs.correct().double().mean())}
    if len(outputs.classes) > 5:
        found["top5"] = float(outputs.correct(5).double().mean())
    return found


def averaged(views: Tensor) -> Tensor:
    """Return the logarithms [N, C] of the mean probabilities of views [N, V, C], which are valid logits."""
    return views.double().log_softmax(-1).logsumexp(1).sub(math.log(views.shape[1])).float()


def view_metrics(outputs: Outputs, views: Tensor) -> dict[str, float]:
    """Compute the metrics with test-time augmentation over views [N, V, C], and their changes."""
    single, mean = compute_metrics(outputs), compute_metrics(replace(outputs, logits=averaged(views)))
    metrics = {f"{outputs.split}/tta/{name}": value for name, value in mean.items()}
    return metrics | {f"{outputs.split}/tta/{name}_change": mean[name] - single[name] for name in mean}


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Join splits of the same root and classes; features only where all have them."""
    features = [part.features for part in parts if part.features is not None]
    return replace(
        parts[0],
        split="+".join(part.split for part in parts),
        paths=[path for part in parts for path in part.paths],
        targets=torch.cat([part.targets for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        features=torch.cat(features) if len(features) == len(parts) else None,
    )
