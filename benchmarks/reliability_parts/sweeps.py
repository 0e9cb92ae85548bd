"""What a sweep has come to."""

import csv
from pathlib import Path


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a sweep's table."""
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(folder: Path) -> dict[str, str]:
    """Return what a sweep has measured in each trial: status and metrics, without times and places."""
    return {
        f"{row['trial']} {name}": value
        for row in rows(folder)
        for name, value in row.items()
        if name in ("status", "error") or name.startswith(("val/", "test/"))
    }
