"""What a second run and a sweep cost once features are kept, beside a first run and beside importing the libraries.

python benchmarks/warm.py --data FOLDER --weights mobilenet_v2.pth [--set cat_dog] [--precision fp32]

FOLDER holds hymenoptera/ and cat_dog/. Each round starts with an empty cache of its own, so its runs have an order: a
cold run, the same run again, a sweep of 20 heads on what they left; then the same
sweep on another empty cache. Accuracies are those on the pictures held out, of a sweep the best of its trials by
val/loss.
"""

import argparse
import csv
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure import (
    IMPORTS,
    PRECISIONS,
    FailedError,
    Record,
    add_override,
    add_pictures,
    choices,
    parser,
    read_once,
    run,
    tlearn,
    variables,
)

# Four heads at five learning rates
SWEEP = ["-m", "head=mlp", "head.hidden=[64],[128],[256],[512]", "optimizer.lr=0.0003,0.001,0.003,0.01,0.03"]


def main(options: argparse.Namespace) -> None:
    record = Record(options)
    read_once(options.data / options.set)
    run(IMPORTS)
    for pair in range(options.pairs):
        with TemporaryDirectory() as folder:
            try:
                for kind in options.precision:
                    measure(record, options, pair, kind, Path(folder) / kind)
                record.add("imports", pair=pair, seconds=run(IMPORTS).seconds)
            except FailedError as error:
                print(f"  failed: {error}", flush=True)
    record.say()
    record.show()
    record.say()
    for kind in options.precision:
        record.ratio(f"warm {kind}", "imports")
        record.ratio(f"cold sweep {kind}", f"cold {kind}")
        record.ratio(f"warm sweep {kind}", f"cold {kind}")


def measure(record: Record, options: argparse.Namespace, pair: int, kind: str, folder: Path) -> None:
    """Make one round with a precision."""
    common = [
        "backbone=mobilenet_v2",
        f"backbone.weights='{options.weights}'",
        f"data={options.set}",
        f"data.root='{options.data / options.set}'",
        f"seed={pair}",
        *PRECISIONS[kind],
        *options.override,
    ]
    cache = folder / "cache"
    record.add(f"cold {kind}", pair=pair, **tlearn(common, folder / "cold", cache))
    record.add(f"warm {kind}", pair=pair, **tlearn(common, folder / "warm", cache))
    if options.sweep:
        record.add(f"warm sweep {kind}", pair=pair, **sweep(common, options, folder / "warm sweep", cache))
        record.add(f"cold sweep {kind}", pair=pair, **sweep(common, options, folder / "cold sweep", folder / "other"))
    shutil.rmtree(folder)


def sweep(overrides: list[str], options: argparse.Namespace, folder: Path, cache: Path) -> dict[str, Any]:
    """Run all trials in one process."""
    arguments = [
        "-m",
        "tlearn.train",
        "report=off",
        *SWEEP,
        *overrides,
        *options.sweep_override,
        f"hydra.sweep.dir='{folder}'",
    ]
    done = run(arguments, sys.executable, variables(cache))
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        trials = list(csv.DictReader(file))
    best = min(trials, key=lambda trial: float(trial["val/loss"]))
    score = float(best.get("test/top1") or best["val/top1"])
    return {"seconds": done.seconds, "peak_mib": done.peak_mib, "accuracy": score, "trials": len(trials)}


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    add_override(made)
    add_pictures(made)
    made.add_argument("--set", default="cat_dog", choices=("cat_dog", "hymenoptera"), help="(default cat_dog)")
    made.add_argument("--precision", type=choices(PRECISIONS), default=["fp32"], help="of fp32,bf16,default")
    made.add_argument("--sweep", action=argparse.BooleanOptionalAction, default=True, help="sweep too (default)")
    made.add_argument("--sweep-override", action="append", default=[], metavar="KEY=VALUE", help="for the sweeps only")
    return made.parse_args()


if __name__ == "__main__":
    main(arguments())
