"""The smallest real trainings, what they come to, and how one goes on after it was stopped."""

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from reliability_parts import forks

PROGRAM = "tlearn.train"
EPOCHS = 3
# Every image is drawn anew in every epoch, nothing is kept.
ON_THE_FLY = ("transforms=light", "features=off")
KINDS: dict[str, Sequence[str]] = {
    "on the fly": ON_THE_FLY,
    "cached": ("transforms=light", "features=cache", "features.views=2"),
    "gradual": (*ON_THE_FLY, "finetune=gradual", "finetune.unfreeze_epoch=1"),
    "dropout": (*ON_THE_FLY, "head=mlp", "head.dropout=0.5"),
    "mixup": (*ON_THE_FLY, "head=mlp", "transforms.mixup_alpha=0.4"),
    "early stopping": (*ON_THE_FLY, "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=10"),
    "moved folder": ON_THE_FLY,
    "mid-epoch": (*ON_THE_FLY, "callbacks.last.every_seconds=0"),
    "full batch": ("module=full_batch", "module.weight_decays=[1,0.1,0.01]"),
}


def draw(root: Path, seed: int = 0) -> Path:
    """Draw noisy images of three classes, 5 of each for train, 3 for val and 3 for test, and return their folder."""
    random = np.random.default_rng(seed)
    for split, count in (("train", 5), ("val", 3), ("test", 3)):
        for number, name in enumerate(("blue", "green", "red")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 200, (36, 40, 3))
                pixels[..., 2 - number] += 30
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{index}.png")
    return root


class Place:
    """Where a case keeps its files: the run, its cache and its temporary files.

    Args:
        folder: a folder of its own.
        images: of `draw`.
        run: the run folder, where it is not in that folder.
    """

    def __init__(self, folder: Path, images: Path, run: Path | None = None) -> None:
        self.folder, self.images, self.run = folder, images, run or folder / "run"
        self.cache, self.temporary = folder / "cache", folder / "tmp"
        self.temporary.mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its processes."""
        return {"TLEARN_CACHE": str(self.cache), "TMPDIR": str(self.temporary), "TLEARN_OFFLINE": "1"}

    def arguments(self, *more: str) -> list[str]:
        """Return the command line of a run that takes a second."""
        return [
            *("data=folder", f"data.root='{self.images}'", "data.batch_size=4", "data.num_workers=0"),
            *("backbone=tiny", "transforms.size=32", "trainer=cpu", f"trainer.max_epochs={EPOCHS}"),
            *("report=off", "logger=csv", *more, f"hydra.run.dir='{self.run}'"),
        ]

    def start(
        self, arguments: Sequence[str], prepare: Callable[[], object] | None = None, program: str = PROGRAM
    ) -> forks.Started:
        """Start a program here."""
        return forks.start(program, arguments, self.folder / "output.txt", self.environment, prepare)

    def going_on(self, arguments: Sequence[str]) -> Sequence[str]:
        """Return what a user types for a run to go on, or to start again if it has left no state."""
        has_state = (self.run / "checkpoints" / "last.ckpt").exists()
        return [f"resume='{self.run}'"] if has_state else arguments

    def go_on(self, arguments: Sequence[str]) -> str:
        """Let a stopped run go on to its end; return what went wrong, or nothing."""
        running = self.start(self.going_on(arguments))
        status = running.wait()
        if status is None:
            return "stuck when it went on"
        return f"status {status} when it went on: {running.last_line()}" if status else ""


def result(run: Path) -> dict[str, str]:
    """Return the SHA-256 of each part of what a run has computed."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    with (run / "metrics.csv").open(newline="") as lines:
        rows = [sorted((key, value) for key, value in row.items() if value) for row in csv.DictReader(lines)]
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    parts = {
        "weights": state["state_dict"],
        "optimizer": state["optimizer_states"],
        "best weights": load_file(run / "model" / "model.safetensors"),
        "metrics.csv": rows,
        "metrics.json": {name: value for name, value in metrics.items() if not name.startswith("time/")},
        "splits.csv": (run / "splits.csv").read_text(),
        "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
    }
    return {name: _digest(part) for name, part in parts.items()}


def _digest(part: Any) -> str:
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype}{list(value.shape)}".encode() + value.numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                add(key)
                add(value[key])
        elif isinstance(value, list | tuple):
            found.update(f"{len(value)}:".encode())
            for one in value:
                add(one)
        else:
            found.update(repr(value).encode())

    add(part)
    return found.hexdigest()


def difference(run: Path, expected: dict[str, str]) -> str:
    """Say in what a run's result is another than expected, or nothing."""
    try:
        found = result(run)
    except (OSError, ValueError, RuntimeError) as error:
        return f"unreadable result: {error}"
    other = [name for name, digest in expected.items() if found[name] != digest]
    return f"other {', '.join(other)}" if other else ""
