"""Milliseconds of a training step: of a head on kept features inside the Trainer, and of whole networks on batches.

python benchmarks/steps.py --data FOLDER --weights mobilenet_v2.pth [--parts head,batch]

`head`: tlearn's command line with a warm cache, the ordinary loggers and checkpoints, and a callback that notes when
each batch begins. Between two such moments lies all that a step costs: fetching the batch, forward, backward, step,
metrics, logging. Between epochs lie validation and checkpoints: `with all` is the whole of fit() by its steps.

`batch`: seconds of forward, backward and step for 64 pictures of 224 pixels that are in memory already, on every kind
of device there is: frozen networks with the course's head, as tlearn holds them and as the course does (body in train
mode).
"""

import argparse
import json
import os
import statistics
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning import Callback, LightningModule, Trainer
from measure import (
    PRECISIONS,
    Job,
    Record,
    add_override,
    add_pictures,
    choices,
    interleave,
    limit,
    parser,
    read_once,
    tlearn,
    words,
)

TIMES = "step_times.json"
PARTS = ("head", "batch")


class StepTimes(Callback):
    """Note when each training batch begins; the run folder gets the milliseconds between them, epoch by epoch."""

    def __init__(self) -> None:
        self.starts: list[list[float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.starts.append([])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.starts[-1].append(time.perf_counter())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The first epoch warms up.
        steps = [1000 * (later - earlier) for starts in self.starts[1:] for earlier, later in pairwise(starts)]
        noted = {"steps": sum(map(len, self.starts)), "milliseconds": steps}
        (Path(trainer.default_root_dir) / TIMES).write_text(json.dumps(noted), encoding="utf-8")


def main(options: argparse.Namespace) -> None:
    record = Record(options)
    jobs: dict[str, Job] = {}
    with TemporaryDirectory() as folder:
        if "head" in options.parts:
            read_once(options.data / options.set)
            # The callback is found in this folder.
            before = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
            # Fills the cache
            head(options, Path(folder), -1)
            jobs["head"] = partial(head, options, Path(folder))
        if "batch" in options.parts:
            sizes = ["--batch", str(options.batch_size), "--rounds", str(options.batches)]
            for name in options.backbones:
                jobs[f"batch {name}"] = partial(limit, ["batch", "--backbones", name, *sizes])
        interleave(record, jobs, options.pairs)
    for name in jobs:
        record.say()
        for key in [key for key in record.rows.get(name, [{}])[0] if key not in ("pair", "metrics")]:
            record.say(f"{name}: {key:<40} {record.spread(name, key)}")


def head(options: argparse.Namespace, folder: Path, pair: int) -> dict[str, Any]:
    """Train a head for many epochs on features that are there already."""
    overrides = [
        "backbone=mobilenet_v2",
        f"backbone.weights='{options.weights}'",
        f"data={options.set}",
        f"data.root='{options.data / options.set}'",
        "data.batch_size=64",
        f"trainer.max_epochs={options.epochs if pair >= 0 else 1}",
        "callbacks.early_stopping=null",
        "+callbacks.step_times._target_=steps.StepTimes",
        # One split for all, so that all features are there
        "seed=0",
        *PRECISIONS[options.precision],
        *options.override,
    ]
    place = folder / f"run {pair}"
    measured = tlearn(overrides, place, folder / "cache")
    noted = json.loads((place / TIMES).read_text(encoding="utf-8"))
    steps = noted["milliseconds"] or [float("nan")]
    return {
        "seconds": measured["seconds"],
        "accuracy": measured["accuracy"],
        "ms per step": statistics.median(steps),
        "ms per step, mean": statistics.mean(steps),
        "ms per step with all": 1000 * measured["metrics"]["time/fit_s"] / noted["steps"],
    }


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    add_override(made)
    add_pictures(made)
    made.add_argument("--parts", type=choices(PARTS), default=PARTS, help=f"of {','.join(PARTS)}")
    made.add_argument("--set", default="cat_dog", choices=("cat_dog", "hymenoptera"), help="for head")
    made.add_argument("--precision", default="fp32", choices=PRECISIONS, help="of the features, for head")
    made.add_argument("--epochs", type=int, default=100, help="for head (default 100)")
    made.add_argument("--backbones", type=words, default=["densenet121", "resnet50"], help="for batch")
    made.add_argument("--batches", type=int, default=3, help="for batch (default 3)")
    made.add_argument("--batch-size", type=int, default=64, help="for batch (default 64)")
    return made.parse_args()


if __name__ == "__main__":
    main(arguments())
