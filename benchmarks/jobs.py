"""Whole training jobs: tlearn's command line with an empty cache beside the loops of tutorials and other libraries.

python benchmarks/jobs.py --data FOLDER --weights mobilenet_v2.pth [--rows tutorial,corrected,udacity,lightning,fastai]

FOLDER holds hymenoptera/ and cat_dog/. tlearn and the tutorial's loop learn for as many epochs on hymenoptera; the
corrected loop (its body in eval mode) stops at the accuracy asked for, because both reach it: its row compares the time
to the same accuracy, and belongs beside the tutorial's. lightning and fastai learn for --library-epochs. Udacity's loop
makes one epoch on all training pictures of cat_dog; tlearn learns from four in five of them, for --epochs, and chooses
its best epoch by the others. Accuracies are on test for cat_dog, and on val after the last epoch for hymenoptera, where
one picture of 153 is 0.65 points.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure import (
    IMPORTS,
    PRECISIONS,
    Record,
    add_override,
    add_pictures,
    baseline,
    choices,
    interleave,
    parser,
    read_once,
    run,
    tlearn,
)

# The data set of each row
ROWS = {
    "tutorial": "hymenoptera",
    "corrected": "hymenoptera",
    "udacity": "cat_dog",
    "lightning": "hymenoptera",
    "fastai": "hymenoptera",
}


def main(options: argparse.Namespace) -> None:
    record = Record(options)
    run(IMPORTS)
    for data in ("hymenoptera", "cat_dog"):
        rows = [row for row in options.rows if ROWS[row] == data]
        if not rows:
            continue
        read_once(options.data / data)
        with TemporaryDirectory() as folder:
            ours = {
                f"tlearn {kind}, {data}": partial(cold, options, data, kind, Path(folder)) for kind in options.precision
            }
            interleave(record, ours | {row: partial(loop, options, row) for row in rows}, options.pairs)
    record.say()
    record.show()
    record.say()
    for row in options.rows:
        for kind in options.precision:
            record.ratio(row, f"tlearn {kind}, {ROWS[row]}")


def cold(options: argparse.Namespace, data: str, kind: str, folder: Path, seed: int) -> dict[str, Any]:
    """Run tlearn with a cache that nothing was put into yet."""
    overrides = [
        "backbone=mobilenet_v2",
        f"backbone.weights='{options.weights}'",
        f"data={data}",
        f"data.root='{options.data / data}'",
        f"trainer.max_epochs={options.epochs}",
        # all epochs, as the loops do
        "callbacks.early_stopping=null",
        f"seed={seed}",
        *PRECISIONS[kind],
        *options.override,
    ]
    place = folder / f"{kind}-{seed}"
    measured = tlearn(overrides, place / "run", place / "cache")
    shutil.rmtree(place)
    return measured


def loop(options: argparse.Namespace, row: str, seed: int) -> dict[str, Any]:
    """Run a loop of baselines.py."""
    more: list[str] = [] if options.max_batches is None else ["--max-batches", str(options.max_batches)]
    if row == "tutorial" or (row == "corrected" and options.stop_at is not None):
        more += ["--epochs", str(options.epochs)]
    if row == "corrected" and options.stop_at is not None:
        more += ["--stop-at", str(options.stop_at)]
    if row in ("lightning", "fastai"):
        more += ["--epochs", str(options.library_epochs)]
    python = options.python_fastai if row == "fastai" else sys.executable
    data = options.data / ROWS[row]
    return baseline(row, ["--data", data, "--weights", options.weights, "--seed", str(seed), *more], python)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    add_override(made)
    add_pictures(made)
    made.add_argument(
        "--rows", type=choices(ROWS), default=["tutorial", "corrected", "udacity"], help=f"of {','.join(ROWS)}"
    )
    made.add_argument("--precision", type=choices(PRECISIONS), default=["fp32", "bf16"], help="of fp32,bf16,default")
    made.add_argument("--epochs", type=int, default=20, help="of tlearn and of the tutorial's loop (default 20)")
    made.add_argument("--stop-at", type=float, default=0.96, help="accuracy at which the corrected loop stops")
    made.add_argument("--library-epochs", type=int, default=5, help="of lightning and fastai (default 5)")
    made.add_argument("--python-fastai", default=sys.executable, help="a Python that has fastai and torchvision")
    made.add_argument("--max-batches", type=int, help="of the loops' passes, to see whether it all runs")
    return made.parse_args()


if __name__ == "__main__":
    main(arguments())
