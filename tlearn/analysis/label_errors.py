"""Pictures whose labels are doubtful, by classifiers that did not see them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tlearn.analysis.outputs import Outputs, joined

# On half the squared weights beside the mean loss, for features with mean squared length 1; divided by the classes, as
# the loss of one class is a smaller part of the mean where there are many.
_WEIGHT_DECAY = 0.01
_MOST_STEPS = 100


def held_out(features: Tensor, targets: Tensor, num_classes: int, folds: int = 5, seed: int = 0) -> Tensor:
    """Give each picture's probabilities [N, C] by a linear classifier fitted to the other folds.

    Folds hold equal parts of each class. A class whose only picture is the one looked at has a probability near 0.

    Args:
        features: [N, F].
        targets: class indices [N].
        folds: at most one for each picture.
        seed: which pictures are in a fold together; torch's own generator is not used.
    """
    # Whatever mode the caller is in, fitting needs gradients.
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode cannot be part of a graph.
        targets = targets.clone()
        fold = _folds(targets, min(folds, len(targets)), seed)
        probabilities = torch.full((len(targets), num_classes), 1 / num_classes)
        centred = features.float() - features.float().mean(0)
        scale = centred.square().mean(0).sqrt()
        rows = centred / scale.where(scale > 0, 1.0) / features.shape[1] ** 0.5
        for number in fold.unique().tolist() if len(targets) > 1 else ():
            others = fold != number
            weight, bias = _fit(rows[others], targets[others], num_classes)
            probabilities[~others] = F.linear(rows[~others], weight, bias).softmax(1)
    return probabilities


def _folds(targets: Tensor, folds: int, seed: int) -> Tensor:
    """Deal the pictures of one class after the other out to folds, in a random order."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    order = order[targets[order].argsort(stable=True)]
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(targets)) % max(1, folds))


def _fit(rows: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(num_classes, rows.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_STEPS, history_size=10, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(rows, weight, bias), targets)
        loss = loss + _WEIGHT_DECAY / num_classes / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def suspects(outputs: Sequence[Outputs]) -> list[dict[str, Any]]:
    """Rank all pictures of the splits by how doubtful their labels are, most doubtful first.

    Compared are the probability of the class and that of another one, each relative to what pictures of that class
    usually have, by classifiers that did not see the picture. The only picture of its class comes last, without
    probabilities. Source: Northcutt et al. 2021, Confident learning, arXiv:1911.00068.

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
    """Give how much more another class suits each picture than its own, -inf where nothing is known, and that class."""
    num_classes, own = probabilities.shape[1], targets[:, None]
    counts = torch.bincount(targets, minlength=num_classes)
    sums = torch.bincount(targets, probabilities.gather(1, own)[:, 0], num_classes)
    # Not below chance: a class that is hardly ever known would be suggested everywhere.
    usual = (sums / counts.clamp_min(1)).clamp_min(1 / num_classes)
    usual = usual.where(counts > 1, 1.0)
    suits = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log() - usual.log()
    others = suits.scatter(1, own, -torch.inf).max(1)
    doubts = others.values - suits.gather(1, own)[:, 0]
    return doubts.where(counts[targets] > 1, -torch.inf), others.indices
