"""The trials of a sweep, collected from their own folders whoever ran them, and results.csv, which has them all."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tlearn.files import write_table
from tlearn.runs.ranking import metric_order
from tlearn.runs.trial import Trial, read_trials

RESULTS = "results.csv"
# Of a search: the file that all its processes share, and the name of the study in it
STUDY, STUDY_NAME = "study.journal", "search"


def collect(folder: Path) -> list[Trial]:
    """Read the rows of all trials below a sweep's folder, by number."""
    return sorted(_found(folder), key=lambda trial: trial.number)


def _found(folder: Path) -> Iterator[Trial]:
    for here, below, files in os.walk(folder):
        if any(name.startswith("trial_") for name in files):
            trials = read_trials(Path(here))
            yield from trials
            # What a run has written need not be searched.
            if trials and Path(here) != folder:
                below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))


def with_missing(trials: Sequence[Trial], planned: int, elsewhere: Collection[int] = ()) -> list[Trial]:
    """Return the trials of a sweep that has ended, with those that left no word of their end as missing.

    Args:
        trials: as they were collected.
        planned: how many there were to be, or 0 where that is not known.
        elsewhere: those that other processes of a search still run.
    """
    known = {trial.number for trial in trials}
    last = max([planned, *(number + 1 for number in (*known, *elsewhere))])
    trials = [*trials, *(Trial(number, [], status="") for number in range(last) if number not in known)]
    return sorted(map(partial(_at_end, elsewhere=elsewhere), trials), key=lambda trial: trial.number)


def _at_end(trial: Trial, elsewhere: Collection[int]) -> Trial:
    """Return a trial as it is when a sweep ends; its row may be of an earlier try."""
    if trial.status == "done" or (trial.status not in ("", "running") and trial.number not in elsewhere):
        return trial
    if trial.number in elsewhere:
        return replace(trial, status="running", error="in another process")
    return replace(trial, status="missing", error="killed" if trial.status else "never started")


def write_results(folder: Path, trials: Sequence[Trial]) -> None:
    """Write the table of all trials with every metric in full.

    Raises:
        OutputError: it cannot be written.
    """
    names = sorted({name for trial in trials for name in trial.metrics}, key=metric_order)
    columns = ["trial", "status", "overrides", *names, "folder", "error"]
    rows = [
        {
            "trial": trial.number,
            "status": trial.outcome,
            "overrides": " ".join(trial.overrides),
            **{name: trial.metrics.get(name) for name in names},
            "folder": trial.folder,
            "error": trial.error,
        }
        for trial in trials
    ]
    write_table(folder / RESULTS, rows, columns)
