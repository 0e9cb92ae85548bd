"""Images listed in a CSV file."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from tlearn.data.sources.base import SPLIT_NAMES, Listing, Sample
from tlearn.errors import DataError, capped


class CsvSource:
    """A CSV file with the columns path, label and perhaps split; paths are absolute or relative to the root."""

    def __init__(self, csv: str | Path, root: str | Path | None = None) -> None:
        self.csv = Path(csv).expanduser()
        self.root = Path(root).expanduser() if root is not None else self.csv.parent

    def prepare(self) -> None:
        """Do nothing: the images that a CSV file names are there already."""

    def listing(self) -> Listing:
        """List the images; raise DataError naming the file and the lines that are wrong."""
        try:
            with self.csv.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                columns = [name.strip().lower() for name in reader.fieldnames or []]
                notes = self._check_header(columns)
                reader.fieldnames = columns
                rows = [(reader.line_num, row) for row in reader]
        except OSError as error:
            raise DataError(f"cannot read data.csv={self.csv}: {error.strerror}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.csv} is not a CSV file in UTF-8: {error}") from error
        samples: list[Sample] = []
        problems = list(self._read(rows, samples))
        if problems:
            shown = capped(problems, separator="\n")
            raise DataError(f"{self.csv}: {len(problems)} of {len(rows)} rows cannot be used\n{shown}")
        if not samples:
            raise DataError(f"{self.csv} lists no images")
        return Listing(self.root, sorted(samples), notes=notes)

    def _check_header(self, columns: list[str]) -> list[str]:
        missing = [name for name in ("path", "label") if name not in columns]
        # a line that ends in commas has columns without a name
        columns = [name for name in columns if name]
        if missing or len(set(columns)) < len(columns):
            reason = f"no column {' and no column '.join(missing)}" if missing else "two columns of one name"
            found = ",".join(columns) or "nothing"
            raise DataError(f"{self.csv}, line 1: {reason}; expected path,label or path,label,split, found {found}")
        others = [name for name in columns if name not in ("path", "label", "split")]
        return [f"ignored columns of {self.csv.name}: {capped(others)}"] if others else []

    def _read(self, rows: list[tuple[int, dict[str, Any]]], samples: list[Sample]) -> Iterator[str]:
        """Fill `samples` from the rows and yield what is wrong with each row that cannot be used."""
        lines: dict[str, int] = {}
        with_split = any((row.get("split") or "").strip() for _, row in rows)
        for line, row in rows:
            # A name may begin or end with a blank, a label or a split may not.
            path, label, split = row["path"] or "", (row["label"] or "").strip(), (row.get("split") or "").strip()
            full = self.root / path
            key = os.path.abspath(full)
            if None in row:
                yield f"line {line}: more fields than columns; put quotes around a field with a comma"
            elif not path.strip():
                yield f"line {line}: path is empty"
            elif not label:
                yield f"line {line}: label is empty for {path}"
            elif with_split and split.lower() not in SPLIT_NAMES:
                known = ", ".join(SPLIT_NAMES)
                yield f"line {line}: split is {split!r}, and must be one of {known} in every row or empty in every row"
            elif key in lines:
                yield f"line {line}: {path} is on line {lines[key]} already"
            elif not os.path.isfile(full):
                yield f"line {line}: no such file: {full}"
            else:
                samples.append(Sample(PurePath(path).as_posix(), label, SPLIT_NAMES.get(split.lower())))
            lines.setdefault(key, line)
