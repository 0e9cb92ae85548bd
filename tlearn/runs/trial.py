"""The result of one trial: a row in the trial's own folder, which any process of any launcher can write."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlearn.files import write_json


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Args:
        number: as Hydra counts, from 0.
        overrides: its part of the command line.
        folder: its run folder; None where it never had one.
        status: running, done, pruned, failed, or missing (it left no word, or only that it had started).
        metrics: all that its program returned.
        objective: the metric that the sweep optimises, if any.
        exit_status: what the program alone would have ended with.
        error: one line.
    """

    number: int
    overrides: Sequence[str]
    folder: Path | None = None
    status: str = "running"
    metrics: Mapping[str, float] = field(default_factory=dict)
    objective: str | None = None
    exit_status: int = 0
    error: str = ""

    @property
    def outcome(self) -> str:
        """Return the status as tables show it: a failed trial's with its exit status."""
        return f"failed ({self.exit_status})" if self.status == "failed" else self.status


def write_trial(trial: Trial) -> None:
    """Write a trial's row; it replaces the trial's earlier one.

    Raises:
        OutputError: it cannot be written.
    """
    assert trial.folder is not None
    # A moved sweep is found where it is, so the folder is not part of the row.
    row = {name: value for name, value in vars(trial).items() if name != "folder"}
    # By number: trials that were given the same folder do not write over each other.
    write_json(trial.folder / f"trial_{trial.number}.json", row, durable=True)


def read_trials(folder: Path) -> list[Trial]:
    """Read the rows of a folder; one that cannot be read is left out, as if it had not been written."""
    trials = []
    for path in folder.glob("trial_*.json"):
        try:
            trials.append(Trial(folder=folder, **json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(trials, key=lambda trial: trial.number)
