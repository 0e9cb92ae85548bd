"""A CSV log that a resumed run goes on with."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers.logger import rank_zero_experiment


class CSVLogger(loggers.CSVLogger):
    """Lightning's CSVLogger, but for the file of a resumed run, which that one deletes."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Give the writer; the first time, with the rows that are there."""
        if self._experiment is None:
            path = Path(self.log_dir) / "metrics.csv"
            before = path.read_bytes() if path.is_file() else b""
            # A run that was killed can have left half a row, which the next one would be joined to.
            before = before[: before.rfind(b"\n") + 1]
            writer: Any = super().experiment
            if before:
                path.write_bytes(before)
                writer.metrics_keys = next(csv.reader([before.decode("utf-8").splitlines()[0]]))
        return self._experiment
