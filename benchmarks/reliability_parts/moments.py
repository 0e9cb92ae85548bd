"""Moments of a run that can be counted, and what happens at one of them."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlearn.features import compute
from tlearn.features.extract import Extractor
from tlearn.runs.record import RunRecord
from tlearn.sweeps.heads import Heads
from tlearn.training.last_checkpoint import LastCheckpoint
from tlearn.training.module import TransferModule

# Before which methods, by the part of a run that they belong to
METHODS: dict[str, list[tuple[type, str]]] = {
    "extraction": [(Extractor, "_batch"), (compute._Writer, "flush")],
    "training": [
        *((TransferModule, name) for name in ("on_before_backward", "validation_step", "on_validation_epoch_end")),
        *((LastCheckpoint, name) for name in ("on_train_epoch_start", "on_train_batch_start", "_save")),
    ],
    # Heads of a sweep that train as one, and what is written of each then
    "together": [(Heads, "_after_step"), (RunRecord, "start_like"), (RunRecord, "finish")],
    "evaluation": [(TransferModule, "test_step"), (TransferModule, "finish")],
}


@dataclass(frozen=True)
class Moment:
    """The k-th moment of a part of a run, and what is done then.

    Args:
        part: one of METHODS.
        at: which one, from 1; 0 for none.
        act: what is done in the process of the run, once.
        counted: where the number of moments of each part is written when the process ends, if anywhere.
    """

    part: str = ""
    at: int = 0
    act: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    counted: Path | None = None

    def install(self) -> None:
        """Count in this process from now on."""
        # Images come one by one from the store, so that a kill finds a part of them there.
        compute._SEGMENT_BYTES = 1
        passed: Counter[str] = Counter()
        own = os.getpid()
        for part, methods in METHODS.items():
            for owner, name in methods:
                setattr(owner, name, self._counting(getattr(owner, name), part, passed, own))

    def _counting(self, method: Callable[..., Any], part: str, passed: Counter[str], own: int) -> Callable[..., Any]:
        def counting(*args: Any, **more: Any) -> Any:
            # Workers of a loader are forks of the run, with its counts.
            if os.getpid() == own:
                passed[part] += 1
                if part == self.part and passed[part] == self.at:
                    self.act()
                if self.counted is not None:
                    self.counted.write_text(" ".join(f"{name} {count}" for name, count in passed.items()))
            return method(*args, **more)

        return counting


def counts(path: Path) -> dict[str, int]:
    """Return the number of moments of each part that a run has counted."""
    words = path.read_text().split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))
