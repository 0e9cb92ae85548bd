"""Train on real pictures with real weights through the programs, and check the figures that users rely on."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

SHARED, WORK = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
WEIGHTS = f"backbone.weights={SHARED / 'weights' / 'mobilenet_v2.pth'}"


def program(name: str, *arguments: str) -> str:
    """Run a program and give what it printed."""
    started = time.monotonic()
    command = [sys.executable, "-m", f"tlearn.{name}", *arguments]
    environment = {**os.environ, "TLEARN_CACHE": str(WORK / "cache")}
    done = subprocess.run(
        command, cwd=WORK, env=environment, text=True, stdout=subprocess.PIPE, check=False, timeout=600
    )
    print(f"{name} {' '.join(arguments)}: {time.monotonic() - started:.0f} s, exit {done.returncode}", flush=True)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def figures(folder: Path) -> dict[str, float]:
    """Read a folder's metrics.json."""
    read: dict[str, float] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    print("  ", {name: round(value, 4) for name, value in read.items()}, flush=True)
    return read


def train(data: str, *more: str, computes: bool = True) -> Path:
    """Train mobilenet_v2's head on a set, and give the run folder, which is the last line printed.

    `computes` tells whether features must be computed, or all be there already.
    """
    printed = program(
        "train", "backbone=mobilenet_v2", WEIGHTS, f"data={data}", f"data.root={SHARED / 'data' / data}", *more
    )
    assert ("images/s" in printed) == computes, printed
    return Path(printed.strip().splitlines()[-1])


def evaluate(run: Path, split: str, folder: str, *more: str) -> dict[str, float]:
    """Measure a run again."""
    program("evaluate", f"run={run}", f"split={split}", f"hydra.run.dir={WORK / folder}", *more)
    return figures(WORK / folder)


def close(one: float, other: float) -> bool:
    """Tell whether two figures are equal but for what single precision and folded BatchNorm round differently."""
    return abs(one - other) <= 1e-5


def find_planted_faults() -> None:
    """Give ten training pictures the other label, put copies of five test pictures into train, and look for them."""
    root = WORK / "faulty"
    shutil.copytree(SHARED / "data" / "cat_dog", root)
    flipped = []
    for label, other in (("cat", "dog"), ("dog", "cat")):
        for path in sorted((root / "train" / label).iterdir())[17::80][:5]:
            flipped.append(path.rename(root / "train" / other / f"flipped_{path.name}").name)
    copied = []
    for number, path in enumerate(sorted((root / "test" / "dog").iterdir())[::30][:5]):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((image.width * 2 // 3, image.height * 2 // 3))
        copied.append(f"copy_{number}.jpg")
        small.save(root / "train" / "dog" / copied[-1], quality=40 + 10 * number)
    program(
        "train", "backbone=mobilenet_v2", WEIGHTS, "data=cat_dog", f"data.root={root}", f"hydra.run.dir={WORK / 'f'}"
    )
    with (WORK / "f" / "report" / "suspects.csv").open(encoding="utf-8") as file:
        names = [Path(row["path"]).name for row in csv.DictReader(file) if row["split"] != "test"]
    found = set(names[: len(names) // 20]) & set(flipped)
    with (WORK / "f" / "report" / "near_duplicates.csv").open(encoding="utf-8") as file:
        listed = {Path(row[side]).name for row in csv.DictReader(file) for side in ("path", "other_path")}
    print(f"   {len(found)} of 10 flipped labels and {len(listed & set(copied))} of 5 copies", flush=True)
    assert len(found) >= 7, (found, flipped)
    assert set(copied) <= listed, listed


def main() -> None:
    """Run everything, and stop at the first figure that is wrong."""
    ants = train("hymenoptera")
    first = figures(ants)
    assert first["val/top1"] >= 0.95, first
    assert not any(name.startswith("test/") for name in first), first

    two = evaluate(ants, "val", "two_processes", "trainer=ddp_cpu")
    assert close(two["val/top1"], first["val/top1"]), two
    assert close(two["val/loss"], first["val/loss"]), two

    short = ("trainer.max_epochs=2", "callbacks.early_stopping=null")
    cached = figures(train("hymenoptera", *short, computes=False))
    pictures = figures(train("hymenoptera", *short, "features=off", computes=False))
    assert all(close(cached[name], pictures[name]) for name in ("val/top1", "val/loss")), pictures

    cats = train("cat_dog")
    trained = figures(cats)
    assert trained["test/top1"] >= 0.96, trained
    again = evaluate(cats, "test", "again")
    assert all(close(again[name], trained[name]) for name in ("test/top1", "test/loss")), again

    fitted = figures(train("cat_dog", "module=full_batch", computes=False))
    assert fitted["test/top1"] >= 0.96, fitted
    # Of the smaller set: many a CPU takes ten times as long.
    half = figures(train("hymenoptera", "features.precision=bf16"))
    assert half["val/top1"] >= first["val/top1"] - 0.02, half
    whole = figures(train("cat_dog", "transforms.average=[crop,flip,squash]", "backbone.pooling=avgmax"))
    assert whole["test/top1"] >= 0.96, whole
    tail = figures(train("cat_dog", "finetune=partial", "finetune.stages=[features.18]", *short))
    assert tail["test/top1"] >= 0.96, tail

    for kind in ("flip", "views"):
        views = evaluate(cats, "test", kind, f"tta={kind}")
        assert close(views["test/loss"], trained["test/loss"]), views
        assert views["test/tta/top1"] >= trained["test/top1"] - 0.01, views
    assert trained["test/loss_scaled"] <= trained["test/loss"] + 1e-6, trained
    for run in (ants, cats, WORK / "views"):
        page = (run / "report.html").read_text(encoding="utf-8")
        assert "could not be made" not in page, run
        assert len(page) < 2_000_000, len(page)
    find_planted_faults()
    program("compare", f"runs={WORK / 'outputs'}", "metric=val/loss", f"hydra.run.dir={WORK / 'comparison'}")
    with (WORK / "comparison" / "compare.csv").open(encoding="utf-8") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file)]
    assert losses == sorted(losses), losses
    assert len(losses) >= 8, losses

    program(
        "predict", f"run={cats}", f"images={SHARED / 'data' / 'cat_dog' / 'test'}", "output=predictions.csv", "topk=2"
    )
    with (WORK / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = sum(Path(row["path"]).parent.name == row["class"] for row in rows)
    assert len(rows) == 300, len(rows)
    assert close(right / len(rows), trained["test/top1"]), right


if __name__ == "__main__":
    main()
