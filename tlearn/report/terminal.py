"""Results in a few lines on the terminal; metrics.json and the tables have all of them."""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tlearn.analysis.accuracy import wilson
from tlearn.analysis.data_profile import class_table, size_summary
from tlearn.analysis.direction import further_metrics
from tlearn.analysis.outputs import Outputs
from tlearn.console import answer, is_terminal, measured, say
from tlearn.display import print_table
from tlearn.report.data_report import Survey

_ACCURACIES = ("top1", "top5")
# Maximum length of a list on the terminal; a file has the rest.
_MOST_CLASSES, _MOST_FILES = 30, 20


def show_result(metrics: Mapping[str, float], outputs: Outputs) -> None:
    """Print the accuracy and loss of a model on a split, and its further metrics as far as a line goes."""
    split, images = outputs.split, len(outputs)
    # A run may have other metrics than accuracies.
    found = {"top1": float(outputs.correct().double().mean())}
    found |= {name: metrics[f"{split}/{name}"] for name in _ACCURACIES if f"{split}/{name}" in metrics}
    top1, *top5 = [measured(name, value) for name, value in found.items()]
    low, high = wilson(round(found["top1"] * images), images)
    interval = f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
    say(f"{split} {', '.join([f'{top1} {interval}', *top5])}")
    say(f"{split} {measured('loss', metrics[f'{split}/loss'])}, {images:,} images")
    words = [measured(name.replace("_", " "), value) for name, value in further_metrics(metrics, split).items()]
    room = shutil.get_terminal_size().columns if is_terminal() else sys.maxsize
    while words and len(f"{split} {', '.join(words)}") > room:
        words.pop()
    say(*([f"{split} {', '.join(words)}"] if words else []))
    if f"{split}/tta/loss" in metrics:
        say(f"{split} with tta {', '.join(_changed(metrics, split, _ACCURACIES))}")
        say(f"{split} with tta {', '.join(_changed(metrics, split, ('loss',)))}")


def _changed(metrics: Mapping[str, float], split: str, names: Iterable[str]) -> Iterator[str]:
    """Yield metrics with test-time augmentation, and their changes."""
    for name in names:
        key = f"{split}/tta/{name}"
        if key in metrics:
            yield f"{measured(name, metrics[key])} ({_change(name, metrics[f'{key}_change'])})"


def _change(name: str, value: float) -> str:
    if value == 0:
        return "unchanged"
    size = f"{abs(value):.2g}" if name == "loss" else f"{100 * abs(value):.2g} points"
    return f"{size} {'better' if (value < 0) == (name == 'loss') else 'worse'}"


def show_survey(survey: Survey, folder: Path) -> None:
    """Print the profile of a data set; long lists refer to the tables in a folder."""
    rows = class_table(survey.images.splits, survey.images.classes, survey.sizes)
    columns = ["class", *survey.images.splits, "median size"]
    cells = [[*(str(row[name]) for name in columns[:-1]), _median_size(row)] for row in rows[:_MOST_CLASSES]]
    print_table(columns, cells, spare=1)
    _say_rest(len(rows) - _MOST_CLASSES, "classes", folder / "classes.csv")
    say(*_sizes(size_summary(survey.sizes)))
    unreadable = [f"unreadable: {path}: {reason}" for path, reason in survey.images.skipped.items()]
    say(*unreadable[:_MOST_FILES])
    _say_rest(len(unreadable) - _MOST_FILES, "unreadable files", folder / "unreadable.csv")
    across = survey.across_splits
    groups = f"{len(survey.duplicates):,} groups, {len(across):,} of them across splits"
    say(f"files with the same content: {groups if survey.duplicates else 'none'}")
    for group in across[:_MOST_FILES]:
        say(f"the same image in several splits: {', '.join(path for _, path in group)}")
    _say_rest(len(across) - _MOST_FILES, "groups across splits", folder / "duplicates.csv")


def _median_size(row: Mapping[str, Any]) -> str:
    return "" if row["median_width"] is None else f"{row['median_width']} x {row['median_height']}"


def _sizes(summary: Mapping[str, float]) -> Iterator[str]:
    for side in ("width", "height") if summary else ():
        low, median, high = (summary[f"{side}/{name}"] for name in ("min", "median", "max"))
        yield f"{side}: {low:,} pixels" if low == high else f"{side}: {low:,} to {high:,} pixels, median {median:,}"
    if summary.get("tiny"):
        yield f"images with a side under 10 pixels: {summary['tiny']:,}"


def _say_rest(count: int, what: str, file: Path) -> None:
    if count > 0:
        say(f"... and {count:,} more {what}: {file}")


def show_paths(folder: Path) -> None:
    """Print the paths of the report and the run folder; scripts read the last line."""
    report, here = folder / "report.html", Path.cwd()
    if report.is_file():
        say(f"report: {report.relative_to(here) if report.is_relative_to(here) else report}")
    answer(folder)
