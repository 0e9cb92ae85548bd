"""How time and memory grow with the number of pictures.

python benchmarks/scale.py --folder FOLDER [--counts 1000,10000,100000]

Draws sets of small JPEG files of ten classes below FOLDER, where a second run finds them again, and trains on each with
an empty cache, then again with what that has left there. Milliseconds of CPU and memory per picture are those beyond a
run on 100 pictures, which is nearly all start-up.
"""

import argparse
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measure import IMPORTS, Record, add_override, interleave, parser, read_once, run, tlearn
from PIL import Image

FEWEST, CLASSES, BLOCK = 100, 10, 1000


def main(options: argparse.Namespace) -> None:
    record = Record(options)
    counts = sorted({FEWEST, *options.counts})
    for count in counts:
        draw(options.folder / str(count), count)
        read_once(options.folder / str(count))
    run(IMPORTS)
    with TemporaryDirectory() as folder:
        jobs = {f"{count} pictures": partial(train, options, count, Path(folder)) for count in counts}
        interleave(record, jobs, options.pairs)
    record.say()
    record.show()
    started = {row["pair"]: row for row in record.rows.get(f"{FEWEST} pictures", [])}
    for count, kind in product(counts, ("cold", "warm")):
        name = f"{count} pictures"
        record.say(f"{name}, {kind:<30} {record.spread(name, f'{kind}_anonymous_mib')} MiB of anonymous memory")
        rows = [row for row in record.rows.get(name, []) if count > FEWEST and row["pair"] in started]
        for row in rows:
            first, extra = started[row["pair"]], count - FEWEST
            more = {key: row[f"{kind}_{key}"] - first[f"{kind}_{key}"] for key in ("cpu_seconds", "anonymous_mib")}
            row["ms_per_picture"] = 1000 * more["cpu_seconds"] / extra
            row["kib_per_picture"] = 1024 * more["anonymous_mib"] / extra
        if rows:
            spreads = [record.spread(name, key) for key in ("ms_per_picture", "kib_per_picture")]
            record.say(f"{name}, {kind:<30} {spreads[0]} ms of CPU and {spreads[1]} KiB per picture beyond {FEWEST}")


def train(options: argparse.Namespace, count: int, folder: Path, seed: int) -> dict[str, Any]:
    """Train with an empty cache, its memory watched."""
    overrides = [
        "backbone=tiny",
        "data=folder",
        f"data.root='{options.folder.absolute() / str(count)}'",
        f"trainer.max_epochs={options.epochs}",
        f"seed={seed}",
        *options.override,
    ]
    place, found = folder / f"{count}-{seed}", dict[str, Any]()
    for kind in ("cold", "warm"):
        measured = tlearn(overrides, place / kind, place / "cache", watch=True)
        found |= {f"{kind}_{key}": measured[key] for key in ("seconds", "cpu_seconds", "anonymous_mib")}
    shutil.rmtree(place)
    return {"seconds": found["cold_seconds"], "accuracy": measured["accuracy"], **found}


def draw(folder: Path, count: int) -> None:
    """Draw a set of pictures, unless it is there already."""
    done = folder.with_suffix(".json")
    if done.exists():
        return
    print(f"drawing {count} pictures in {folder} ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    for label in range(CLASSES):
        (folder / f"class {label}").mkdir(parents=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(partial(draw_block, folder, count), range(0, count, BLOCK)):
            pass
    # Last: a set that was cut short is drawn anew.
    done.write_text(json.dumps({"pictures": count, "classes": CLASSES}), encoding="utf-8")


def draw_block(folder: Path, count: int, start: int) -> None:
    """Draw some consecutive pictures: each class is a pattern of colours, each picture a noisy version of it."""
    generator = np.random.default_rng(start)
    patterns = np.random.default_rng(0).integers(0, 256, (CLASSES, 4, 4, 3))
    for index in range(start, min(start + BLOCK, count)):
        label = index % CLASSES
        noisy = patterns[label] + generator.normal(0, 40, (4, 4, 3))
        small = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        side = int(generator.integers(48, 65))
        smooth = np.asarray(small.resize((side, side), Image.Resampling.BILINEAR), dtype=np.int16)
        grain = generator.integers(-12, 13, smooth.shape, dtype=np.int16)
        picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        picture.save(folder / f"class {label}" / f"{index:07d}.jpg", quality=80)


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    add_override(made)
    made.add_argument("--folder", type=Path, required=True, help="where the pictures are drawn, and found again")
    counts = [1_000, 10_000, 100_000]
    made.add_argument("--counts", type=lambda text: [int(word) for word in text.split(",")], default=counts)
    made.add_argument("--epochs", type=int, default=3, help="(default 3)")
    return made.parse_args()


if __name__ == "__main__":
    main(arguments())
