"""Run the trials of a sweep one after the other, survive those that fail, and show one table in the end."""

import csv
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tlearn.config.messages import explain
from tlearn.console import answer, complain, print_table, session
from tlearn.errors import SweepError

# The columns shown for each trial where it has them
FIGURES = ("val/top1", "val/loss", "test/top1", "test/loss", "params/trainable", "time/fit_s")


class Sweep:
    """Collects one row per trial."""

    def __init__(self) -> None:
        self._rows: list[dict[str, str]] = []
        self._overrides: list[list[str]] = []
        self._folder: Path | None = None
        self._quiet = False

    def trial(
        self, task: Callable[[DictConfig], dict[str, float]], config: DictConfig, check: Callable[[], None]
    ) -> dict[str, float]:
        """Run one trial; a failure is recorded and the sweep goes on."""
        job = HydraConfig.get()
        self._folder, self._quiet = Path(job.sweep.dir), config.quiet
        overrides = list(job.overrides.task)
        self._overrides.append(overrides)
        row = {"trial": str(job.job.num), "overrides": " ".join(overrides), "folder": job.runtime.output_dir}
        figures: dict[str, float] = {}
        try:
            check()
            figures = task(config)
            row |= {"status": "done", **{name: f"{figures[name]:.6g}" for name in FIGURES if name in figures}}
        except Exception as error:
            status, message = explain(error, list)
            if message is None:
                complain(traceback.format_exc().rstrip())
            message = message or repr(error)
            complain(f"tlearn: trial {row['trial']} failed: {message}")
            row |= {"status": f"failed ({status})", "error": message.splitlines()[0]}
        self._rows.append(row)
        self._write()
        return figures

    def _write(self) -> None:
        assert self._folder is not None
        columns = ["trial", "status", "overrides", *FIGURES, "folder", "error"]
        with (self._folder / "results.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)

    def conclude(self) -> None:
        """Print the table of all trials.

        Raises:
            SweepError: some trials failed.
        """
        if not self._rows:
            return
        shown = [name for name in FIGURES if any(name in row for row in self._rows)]
        table = []
        common = set.intersection(*map(set, self._overrides)) if len(self._rows) > 1 else set()
        for row, overrides in zip(self._rows, self._overrides, strict=True):
            # What all trials share would hide what tells them apart.
            cells = [
                row["trial"],
                " ".join(word for word in overrides if word not in common),
                *(row.get(name, "") for name in shown),
                row["status"],
            ]
            table.append(cells)
        with session(quiet=self._quiet):
            print_table(["trial", "overrides", *shown, "status"], table)
            answer(f"{self._folder}/results.csv")
        failed = sum(row["status"] != "done" for row in self._rows)
        if failed:
            raise SweepError(f"{failed} of {len(self._rows)} trials failed (see {self._folder}/results.csv)")
