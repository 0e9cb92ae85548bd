"""Put runs side by side, the best first: python -m tlearn.compare runs=FOLDER metric=val/top1."""

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlearn.config.command import program
from tlearn.console import answer, print_table, say, session
from tlearn.errors import ConfigError

if TYPE_CHECKING:
    from tlearn.runs.comparison import Run

# The figures shown on the terminal beside the one asked for; the files have all.
_SHOWN = ("val/top1", "val/loss", "test/top1", "test/loss", "time/fit_s")
_MOST_CURVES, _MOST_LINES, _MOST_SETTINGS = 12, 40, 8


def compare(config: DictConfig) -> dict[str, float]:
    """Print and write what was chosen differently in runs, and what came of it."""
    from tlearn.runs import comparison
    from tlearn.runs.folder import RunFolder

    metric = config.metric
    runs = _read(config.runs if isinstance(config.runs, str) else list(config.runs))
    known = sorted({name for run in runs for name in run.figures})
    if metric not in known:
        raise ConfigError(f"metric={metric}: no run has that figure; there are {', '.join(known) or 'none at all'}")
    table = comparison.comparison_table(runs, metric)
    folder = RunFolder(config.paths.output_dir)
    with folder.claimed(), session(folder.path / "compare.log", quiet=config.quiet):
        _write_page(folder.path, runs, table, metric)
        _show(table, comparison.differing(runs), metric)
        answer(folder.path)
    return {"runs": len(runs), "done": sum(run.status == "done" for run in runs), metric: table[0][metric]}


def _read(given: str | Sequence[str]) -> list["Run"]:
    """Find and read runs.

    Raises:
        ConfigError: a place that does not exist, or holds no runs.
    """
    from tlearn.runs.comparison import find_runs, read_run

    folders: list[Path] = []
    for one in [given] if isinstance(given, str) else given:
        path = os.path.expanduser(one)
        matching = [path] if os.path.isdir(path) else sorted(filter(os.path.isdir, glob.glob(path)))
        if not matching:
            raise ConfigError(f"runs={one}: no such folder (a folder, a list of folders, or a quoted glob)")
        folders += map(Path, matching)
    runs = [run for folder in find_runs(folders) if (run := read_run(folder)) is not None]
    if not runs:
        raise ConfigError(f"runs={given}: no run of tlearn.train there")
    return runs


def _write_page(folder: Path, runs: Sequence["Run"], table: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Write compare.html: the table, the curves of the best runs, the figure over what was chosen; and their files."""
    from tlearn.analysis.learning_curves import curves_figure, curves_table
    from tlearn.report.page import Block, Section, Text, write_page
    from tlearn.report.page_files import Exhibits
    from tlearn.runs.comparison import differing, settings_figure

    exhibits = Exhibits(folder)
    settings = differing(runs)
    done = [row for row in table if row[metric] is not None]
    rest = [f"{row['run']}: {row['status']}: {row['error']}" for row in table if row["status"] != "done"]
    blocks: list[Block] = (
        [Text([f"{len(rest)} of {len(runs)} runs are not done:", *rest], warning=True)] if rest else []
    )
    linked = [{"run": _link(row, folder), **{name: row[name] for name in list(row)[1:-1]}} for row in table]
    blocks.append(exhibits.table("compare", f"Runs, the best {metric} first", table, shown=linked))
    sections = [Section("Runs", blocks)]
    curve = metric if metric.startswith("val/") else f"val/{metric.partition('/')[2]}"
    best = {row["run"]: Path(row["folder"]) for row in done[:_MOST_CURVES]}
    if curves := curves_table(best, curve):
        caption = f"{curve} of the best {len(best)} runs" if len(done) > len(best) else curve
        figure = exhibits.figure("compare_curves", caption, lambda: curves_figure(best, curve), curves)
        sections.append(Section("Curves", [figure]))
    if several := [name for name in settings if len({row[name] for row in done} - {None}) > 1]:
        caption = f"{metric} over each setting that differs"
        figure = exhibits.figure("compare_settings", caption, lambda: settings_figure(done, several, metric))
        sections.append(Section("Settings", [figure]))
    write_page(folder / "compare.html", f"{len(runs)} runs by {metric}", sections, f"best: {done[0]['run']}")


def _link(row: Mapping[str, Any], folder: Path) -> Any:
    """Lead to a run's own report, where it has one."""
    from tlearn.report.page import Link

    report = Path(row["folder"]) / "report.html"
    return Link(row["run"], os.path.relpath(report, folder)) if report.is_file() else row["run"]


def _show(table: Sequence[Mapping[str, Any]], settings: Sequence[str], metric: str) -> None:
    """Print the best runs, and name all that are not done."""
    figures = [name for name in _SHOWN if name != metric and any(row.get(name) is not None for row in table)]
    columns = ["run", metric, *settings[:_MOST_SETTINGS], *figures]
    done = [row for row in table if row["status"] == "done"]
    print_table(columns, [[_cell(row.get(name)) for name in columns] for row in done[:_MOST_LINES]])
    if len(done) > _MOST_LINES:
        say(f"... and {len(done) - _MOST_LINES} more, listed in compare.csv")
    for row in table:
        if row["status"] != "done":
            say(f"{row['run']}: {row['status']}: {row['error']}")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


main, script = program("compare", compare)

if __name__ == "__main__":
    script()
