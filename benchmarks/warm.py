"""What a second run and a sweep cost once features are kept, beside a first run and beside importing the libraries.

python benchmarks/warm.py --data FOLDER --weights mobilenet_v2.pth [--set cat_dog] [--precision fp32]

FOLDER holds hymenoptera/ and cat_dog/. Each round starts with an empty cache of its own, so its runs have an order: a
cold run, the same run again, sweeps of heads on what they left, each then also on another empty cache. Accuracies are
those on the pictures held out, of a sweep the best of its trials by val/loss.
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

RATES = "optimizer.lr=0.0003,0.001,0.003,0.01,0.03"
SWEEPS = {
    "20 mlps": ["head=mlp", "head.hidden=[64],[128],[256],[512]", RATES],
    "20 linear": [RATES, "optimizer.weight_decay=0,0.0001,0.001,0.01"],
    "100 linear": [
        f"{RATES},0.0001,0.0006,0.002,0.006,0.02",
        f"optimizer.weight_decay={','.join(f'{n / 1000:g}' for n in range(10))}",
    ],
    "1000 linear": [
        f"optimizer.lr={','.join(f'{0.0001 * 1.06**n:.6f}' for n in range(100))}",
        f"optimizer.weight_decay={','.join(f'{n / 1000:g}' for n in range(10))}",
    ],
}


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
        for name in options.sweeps:
            record.ratio(f"cold {name} {kind}", f"cold {kind}")
            record.ratio(f"warm {name} {kind}", f"warm {kind}")


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
    # As the sweeps, without a report
    alone = [*common, "report=off"]
    record.add(f"cold {kind}", pair=pair, **tlearn(alone, folder / "cold", cache))
    record.add(f"warm {kind}", pair=pair, **tlearn(alone, folder / "warm", cache))
    for name in options.sweeps:
        place = folder / name.replace(" ", "-")
        for state, kept in (("warm", cache), ("cold", place / "cache")):
            record.add(f"{state} {name} {kind}", pair=pair, **sweep(common, options, name, place / state, kept))
    shutil.rmtree(folder)


def sweep(overrides: list[str], options: argparse.Namespace, name: str, folder: Path, cache: Path) -> dict[str, Any]:
    """Run all trials in one process."""
    arguments = [
        "-m",
        "tlearn.train",
        *("-m", "report=off"),
        *SWEEPS[name],
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
    made.add_argument(
        "--sweeps", type=choices(SWEEPS), default=list(SWEEPS), help=f"of {','.join(SWEEPS)}; or none: ''"
    )
    made.add_argument("--sweep-override", action="append", default=[], metavar="KEY=VALUE", help="for the sweeps only")
    return made.parse_args()


if __name__ == "__main__":
    main(arguments())
