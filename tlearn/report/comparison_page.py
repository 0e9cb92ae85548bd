"""compare.html: many runs on one page, the best first, and the files beside it."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlearn.analysis.learning_curves import curves_figure, curves_table
from tlearn.report import page
from tlearn.report.comparison_figures import ranking_figure, settings_drawn, settings_figure
from tlearn.report.page_files import Exhibits
from tlearn.report.ranking_table import reasons, setting_cells, shown_metrics
from tlearn.runs.comparison import Run, comparison_table, name_of
from tlearn.runs.ranking import (
    MOST_SETTINGS,
    Entry,
    Group,
    as_precise_as,
    entry_names,
    four_digits,
    metric_words,
    setting_text,
    settings_words,
    short_names,
)

_MOST_CURVES, _MOST_DRAWN, _MOST_REASONS = 12, 20, 20


def write_comparison(
    folder: Path,
    runs: Sequence[Run],
    groups: Sequence[Group],
    others: Sequence[tuple[Entry, str, str]],
    metric: str,
    mode: str = "auto",
) -> None:
    """Write compare.html, and compare.csv with every run and all metrics.

    Args:
        folder: where they go.
        runs: all of them.
        groups: those that are done, as `ranked` returns them.
        others: those that are not, each with its status and its error.
        metric: what the groups are ordered by.
        mode: which end of it is best, as `ranked` takes it.
    """
    files, folders = Exhibits(folder), {name_of(run, runs): run.folder for run in runs}
    named = dict(zip(_names(groups), groups, strict=True))
    blocks: list[page.Block] = [_best(groups[0], metric, len(runs) - len(others), len(runs))]
    if others:
        lines = reasons(others, "run")
        more = [f"... and {len(lines) - _MOST_REASONS} more, all in compare.csv"] if len(lines) > _MOST_REASONS else []
        told = [f"{len(others)} of {len(runs)} runs are not done:", *lines[:_MOST_REASONS], *more]
        blocks.append(page.Text(told, warning=True))
    blocks += _drawn(files, named, metric)
    caption = f"Runs, the best {metric_words(metric)} first; the file has every run with all metrics in full"
    rows = _rows(groups, metric, folders, folder)
    blocks.append(files.table("compare", caption, comparison_table(runs, metric, mode), shown=rows))
    details = [*_curves(files, named, metric, folders), *_settings(files, groups, metric)]
    sections = [page.Section("Runs", blocks), *([page.Section("More", details)] if details else [])]
    page.write_page(folder / "compare.html", f"{len(runs)} runs by {metric_words(metric)}", sections)


def _names(groups: Sequence[Group]) -> list[str]:
    """Name groups by their settings, options by their name alone, and by their runs where that is not enough."""
    words = [settings_words(group.settings, brief=True) for group in groups]
    count = Counter(words)
    return [
        name if name and count[name] == 1 else f"{entry_names(group.entries)} {name}".rstrip()
        for name, group in zip(words, groups, strict=True)
    ]


def _best(group: Group, metric: str, done: int, total: int) -> page.Block:
    text, _, spread = group.text(metric).partition(" ")
    seeds = f"{spread}, {len(group.entries)} seeds" if spread else ""
    short = short_names(group.settings)
    settings = [(short[name], setting_text(value), "") for name, value in group.settings.items() if value is not None]
    run = ("best run", entry_names(group.entries[:1]), "")
    reached = (f"best {metric_words(metric)}", text, seeds)
    return page.KeyMetrics([reached, run, *settings[:MOST_SETTINGS], ("runs done", f"{done} of {total}", "")])


def _rows(groups: Sequence[Group], metric: str, folders: Mapping[str, Path], folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the page's table: the metric first, numbers as numbers, links to the best runs' reports."""
    several = any(len(group.entries) > 1 for group in groups)
    rows = []
    for group, settings in zip(groups, setting_cells(groups), strict=True):
        mean, spread = group.mean(metric), group.spread(metric)
        if mean is not None and spread is not None:
            spread = float(as_precise_as(four_digits(mean), spread))
        rows.append(
            {
                metric_words(metric): mean,
                **({"\N{PLUS-MINUS SIGN}": spread, "seeds": len(group.entries)} if several else {}),
                **settings,
                "run": _link(group, folders, folder),
                **{metric_words(name): group.mean(name) for name in shown_metrics(groups, metric)},
            }
        )
    return rows


def _link(group: Group, folders: Mapping[str, Path], folder: Path) -> Any:
    """Lead to the report of a group's best run, where it has one."""
    name, report = entry_names(group.entries), folders[group.entries[0].name] / "report.html"
    # An address has no backslashes.
    return page.Link(name, Path(os.path.relpath(report, folder)).as_posix()) if report.is_file() else name


def _drawn(files: Exhibits, named: Mapping[str, Group], metric: str) -> list[page.Block]:
    drawn = {name: group for name, group in named.items() if group.is_finite(metric)}
    best = dict(list(drawn.items())[:_MOST_DRAWN])
    if len(best) < 2:
        return []
    caption = metric_words(metric) + (f", the best {len(best)} of {len(drawn)}" if len(best) < len(drawn) else "")
    if any(len(group.entries) > 1 for group in best.values()):
        caption += ": each seed (dots), mean (diamonds) and standard deviation (lines)"
    return [files.figure("compare_ranking", caption, lambda: ranking_figure(best, metric))]


def _curves(files: Exhibits, named: Mapping[str, Group], metric: str, folders: Mapping[str, Path]) -> list[page.Block]:
    curve = metric if metric.startswith("val/") else f"val/{metric.partition('/')[2]}"
    best = {name: folders[group.entries[0].name] for name, group in list(named.items())[:_MOST_CURVES]}
    if not (rows := curves_table(best, curve)):
        return []
    caption = f"{metric_words(curve)} of the best {len(best)}" if len(named) > len(best) else metric_words(curve)
    figure = files.figure("compare_curves", caption, lambda: curves_figure(best, curve), rows)
    return [page.Group("Learning curves", [figure])]


def _settings(files: Exhibits, groups: Sequence[Group], metric: str) -> list[page.Block]:
    if not settings_drawn(groups):
        return []
    caption = f"{metric_words(metric)} of each run over each setting that differs"
    figure = files.figure("compare_settings", caption, lambda: settings_figure(groups, metric))
    return [page.Group("Settings", [figure])]
