"""Doubtful labels, found by classifiers that did not see the image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tlearn.analysis.linear_probe import held_out
from tlearn.analysis.outputs import Outputs, joined


def suspects(outputs: Sequence[Outputs]) -> list[dict[str, Any]]:
    """Rank all images of the splits by how doubtful their labels are, most doubtful first.

    Compares the out-of-sample probabilities of the given class and of another one, each relative to the mean of that
    class. The only image of a class comes last, without probabilities. Source: Northcutt et al. 2021, Confident
    learning, arXiv:1911.00068.

    Each row has rank, split, path, class, suggested, probability_of_class and probability_of_suggested. Raises
    ValueError where features were not kept or there are fewer than two classes.
    """
    every = joined(outputs)
    if every.features is None:
        raise ValueError("doubtful labels are looked for by features, and these were not kept")
    if len(every.classes) < 2:
        raise ValueError("doubtful labels are looked for among at least two classes")
    probabilities = held_out(every.features, every.targets, len(every.classes))
    doubts, suggested = _doubts(probabilities, every.targets)
    splits = [part.split for part in outputs for _ in range(len(part))]
    rows = []
    for rank, index in enumerate(doubts.argsort(descending=True, stable=True).tolist(), 1):
        label, other = int(every.targets[index]), int(suggested[index])
        known = bool(doubts[index] > -torch.inf)
        row: dict[str, Any] = {"rank": rank, "split": splits[index], "path": every.paths[index]}
        row |= {"class": every.classes[label], "suggested": every.classes[other] if known else None}
        row["probability_of_class"] = float(probabilities[index, label]) if known else None
        row["probability_of_suggested"] = float(probabilities[index, other]) if known else None
        rows.append(row)
    return rows


def _doubts(probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute how much better another class fits each image, -inf where unknown, and that class."""
    num_classes, own = probabilities.shape[1], targets[:, None]
    counts = torch.bincount(targets, minlength=num_classes)
    sums = torch.bincount(targets, probabilities.gather(1, own)[:, 0], num_classes)
    # At least chance: otherwise a class that is rarely recognised would be suggested everywhere.
    usual = (sums / counts.clamp_min(1)).clamp_min(1 / num_classes)
    usual = usual.where(counts > 1, 1.0)
    suits = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log() - usual.log()
    others = suits.scatter(1, own, -torch.inf).max(1)
    doubts = others.values - suits.gather(1, own)[:, 0]
    return doubts.where(counts[targets] > 1, -torch.inf), others.indices
