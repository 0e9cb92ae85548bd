"""metrics.csv: the metrics of all epochs as an append-only table, also for resumed runs."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tlearn.files import append_row, read_table, write_bytes, write_table


class CSVLogger(Logger):
    """Append each row at once; where it has new columns, replace the whole table.

    Lightning's CSVLogger deletes the table of a resumed run and rewrites the file in place.

    Args:
        save_dir: the folder of metrics.csv.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self._file = Path(save_dir) / "metrics.csv"
        self._columns: list[str] | None = None
        self.rows = 0

    @property
    def name(self) -> str:
        """Return an empty name: the table is in the folder itself."""
        return ""

    @property
    def version(self) -> str:
        """Return an empty version, as for the name."""
        return ""

    @property
    def save_dir(self) -> str:
        """Return the folder of metrics.csv."""
        return str(self._file.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write a row.

        Args:
            metrics: numbers or tensors of one element, by column.
            step: the optimizer step they belong to.
        """
        row = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        row["step"] = step
        if self._columns is None:
            self.keep()
            assert self._columns is not None
        self.rows += 1
        if row.keys() <= set(self._columns):
            append_row(self._file, row, self._columns)
            return
        rows = read_table(self._file) if self._columns else []
        self._columns = sorted({*self._columns, *row})
        write_table(self._file, [*rows, row], self._columns)

    @rank_zero_only
    def keep(self, count: int | None = None) -> None:
        """Keep the first rows of an existing table, by default all; go without an incomplete last one of a killed run.

        What follows belongs to steps that a resumed run takes again.
        """
        content = self._file.read_bytes() if self._file.is_file() else b""
        lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
        kept = lines if count is None else lines[: count + 1]
        if b"".join(kept) != content:
            write_bytes(self._file, b"".join(kept))
        self._columns = next(csv.reader([line.decode() for line in kept[:1]]), [])
        self.rows = max(0, len(kept) - 1)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the run folder holds the configuration."""
