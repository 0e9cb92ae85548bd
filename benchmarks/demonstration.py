"""The built-in demonstration over seeds: a frozen pretrained body, the same network from scratch, a frozen random body.

python benchmarks/demonstration.py [SEEDS] [OVERRIDE ...]     (for instance: 3 data=hymenoptera data.root=FOLDER)
"""

import contextlib
import io
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tlearn.config.compose import compose
from tlearn.train import train

# Each for all its epochs, and at its best by accuracy: the loss of an overfitting network is lowest before it learns.
COMMON = ["monitor.metric=val/top1", "callbacks.early_stopping=null", "logger=csv", "report=off"]
KINDS = {
    "frozen pretrained body": [],
    "from scratch": ["finetune=scratch"],
    "frozen random body": ["backbone.weights=null"],
}


def main(seeds: int, overrides: list[str]) -> None:
    with TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            scores: list[float] = []
            for seed in range(seeds):
                arguments = [*COMMON, *overrides, *kind, f"seed={seed}"]
                with contextlib.redirect_stdout(io.StringIO()):
                    figures = train(compose(arguments, output_dir=Path(folder) / f"{name} {seed}"))
                scores.append(100 * figures.get("test/top1", figures["val/top1"]))
            mean = statistics.mean(scores)
            print(f"{name:<25} top-1 {mean:5.1f} % ({min(scores):.1f} to {max(scores):.1f}, {seeds} seeds)", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:])
