"""Train on real pictures with real weights through the programs, and check the figures that users rely on."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

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
    assert ("pictures/s" in printed) == computes, printed
    return Path(printed.strip().splitlines()[-1])


def evaluate(run: Path, split: str, folder: str, *more: str) -> dict[str, float]:
    """Measure a run again."""
    program("evaluate", f"run={run}", f"split={split}", f"hydra.run.dir={WORK / folder}", *more)
    return figures(WORK / folder)


def close(one: float, other: float) -> bool:
    """Tell whether two figures are equal but for what single precision and folded BatchNorm round differently."""
    return abs(one - other) <= 1e-5


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

    fitted = figures(train("cat_dog", "optimizer=lbfgs", computes=False))
    assert fitted["test/top1"] >= 0.96, fitted
    half = figures(train("cat_dog", "features.precision=bf16"))
    assert half["test/top1"] >= trained["test/top1"] - 0.01, half
    whole = figures(train("cat_dog", "transforms.average=[crop,flip,squash]", "backbone.pooling=avgmax"))
    assert whole["test/top1"] >= 0.96, whole
    tail = figures(train("cat_dog", "finetune=partial", "finetune.stages=[features.18]", *short))
    assert tail["test/top1"] >= 0.96, tail

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
