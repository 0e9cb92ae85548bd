"""Seconds of the full-batch fit of a linear head for ten weight decays, beside scikit-learn's.

python benchmarks/full_batch.py [--rows 4000] [--width 1280] [--classes 100,2]

Both get the same drawn features, standardise them, and fit one weight decay after another, each from the solution of
the one before, until no gradient is larger than the tolerance. The seconds are of the fits alone, in one process with
the same threads; the losses tell that both came to the same end. Needs scikit-learn.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import Record, interleave, parser, words
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from tlearn.analysis.linear_probe import Standardisation, minimise
from tlearn.config.tree import CONF_DIR
from tlearn.training.feature_blocks import BlockLoss, FeatureBlocks
from tlearn.training.full_batch import LBFGS

# As shipped
MODULE = OmegaConf.load(CONF_DIR / "module" / "full_batch.yaml")
# Heads as (weight [C, F], bias [C]) on standardised features, one for each weight decay
Heads = list[tuple[Tensor, Tensor]]
Fit = Callable[[Tensor, Tensor, int], Heads]


def main(options: argparse.Namespace) -> None:
    record = Record(options)
    fits: dict[str, Fit] = {"tlearn": fit_tlearn, "scikit-learn": fit_sklearn}
    jobs = {
        f"{name}, {classes} classes": partial(measured, fit, options, int(classes))
        for classes in options.classes
        for name, fit in fits.items()
    }
    interleave(record, jobs, options.pairs)
    record.say()
    for classes in options.classes:
        rows = [record.rows[f"{name}, {classes} classes"] for name in fits]
        for name in fits:
            record.say(f"{name}, {classes} classes: {record.spread(f'{name}, {classes} classes', 'seconds')} s")
        pairs = list(zip(*rows, strict=True))
        ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
        apart = max(float(np.abs(np.subtract(ours["losses"], theirs["losses"])).max()) for ours, theirs in pairs)
        record.say(f"{classes} classes: {np.median(ratios):.2f} times faster, losses at most {apart:.1g} apart")


def drawn(options: argparse.Namespace, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw features [N, F], positive as those behind a ReLU, of classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(options.rows) % classes
    centres = torch.randn(classes, options.width, generator=generator)
    noise = torch.randn(options.rows, options.width, generator=generator)
    return torch.relu(0.2 * centres[targets] + noise), targets


def measured(fit: Fit, options: argparse.Namespace, classes: int, pair: int) -> dict[str, Any]:
    """Fit features drawn for this pair; return seconds, and the objective of each weight decay."""
    features, targets = drawn(options, classes, pair)
    started = time.perf_counter()
    heads = fit(features, targets, classes)
    seconds = time.perf_counter() - started
    inputs = Standardisation.of([features])(features).double()
    losses = []
    for decay, head in zip(MODULE.weight_decays, heads, strict=True):
        weight, bias = (part.double() for part in head)
        loss = functional.cross_entropy(inputs @ weight.T + bias, targets) + decay / 2 * weight.square().sum()
        losses.append(float(loss))
    return {"seconds": seconds, "losses": losses}


def fit_tlearn(features: Tensor, targets: Tensor, classes: int) -> Heads:
    """Fit as module=full_batch does."""
    head = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    loss = BlockLoss(FeatureBlocks([(features, targets)], head.weight), nn.CrossEntropyLoss(), head)
    optimizer = LBFGS(head.parameters(), MODULE.max_iter, MODULE.tolerance, MODULE.history_size)
    found: Heads = []
    for decay in MODULE.weight_decays:
        optimizer.state.clear()
        minimise(optimizer, loss, head.weight, decay)
        found.append((head.weight.detach().clone(), head.bias.detach().clone()))
    return found


def fit_sklearn(features: Tensor, targets: Tensor, classes: int) -> Heads:
    """Fit by LogisticRegression, started from the solution before."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    inputs = StandardScaler().fit_transform(features.numpy())
    model = LogisticRegression(tol=MODULE.tolerance, max_iter=MODULE.max_iter, warm_start=True)
    found: Heads = []
    for decay in MODULE.weight_decays:
        # Its coefficient is that of the summed loss. Of two classes it has w, the difference of two weights w/2 and
        # -w/2, whose squares add up to half of its own.
        model.set_params(C=(2 if classes == 2 else 1) / (decay * len(targets)))
        model.fit(inputs, targets.numpy())
        weight, bias = torch.from_numpy(model.coef_.copy()), torch.from_numpy(model.intercept_.copy())
        if classes == 2:
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        found.append((weight, bias))
    return found


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--rows", type=int, default=4000, help="images (default 4000)")
    made.add_argument("--width", type=int, default=1280, help="features of each (default 1280)")
    made.add_argument("--classes", type=words, default=["100", "2"], help="default 100,2")
    return made.parse_args()


if __name__ == "__main__":
    main(arguments())
