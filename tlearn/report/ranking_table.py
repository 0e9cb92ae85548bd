"""A ranking of runs as a table on the terminal, and the reasons of those that have no place in it."""

from collections.abc import Sequence
from typing import Any

from tlearn.console import say
from tlearn.display import print_table
from tlearn.runs.ranking import (
    MAIN_METRICS,
    MOST_SETTINGS,
    Entry,
    Group,
    entry_names,
    four_digits,
    metric_words,
    setting_text,
    settings_words,
    short_names,
)

# Stands for all settings where they are many
_UNUSUAL = "unlike most"
_MOST_ROWS, _MOST_REASONS = 40, 20


def print_ranking(
    groups: Sequence[Group], metric: str | None, label: str, others: Sequence[tuple[Entry, str, str]], file: str
) -> None:
    """Print what is done, the best first, and below it why others are not.

    Args:
        groups: as `ranked` returns them.
        metric: what they are ordered by.
        label: what an entry is: a run or a trial.
        others: what is not done, each with its status and its error.
        file: where the whole table lies.
    """
    if groups:
        columns, rows, spare = ranking_columns(groups[:_MOST_ROWS], metric, label)
        print_table(columns, rows, spare=len(spare))
    if len(groups) > _MOST_ROWS:
        say(f"... and {len(groups) - _MOST_ROWS} more rows, all in {file}")
    if any(len(group.entries) > 1 for group in groups):
        say("over seeds: mean \N{PLUS-MINUS SIGN} standard deviation of the first column, mean of further metrics")
    lines = reasons(others, label)
    for line in lines[:_MOST_REASONS]:
        say(line)
    if len(lines) > _MOST_REASONS:
        say(f"... and {len(lines) - _MOST_REASONS} more reasons, all in {file}")


def shown_metrics(groups: Sequence[Group], metric: str | None) -> list[str]:
    """Choose the metrics to show beside one: what groups have, and what is not the same for all of them."""
    names = [name for name in MAIN_METRICS if name != metric and any(group.mean(name) is not None for group in groups)]
    return [name for name in names if len(groups) == 1 or len({group.mean(name) for group in groups}) > 1]


def ranking_columns(
    groups: Sequence[Group], metric: str | None, label: str
) -> tuple[list[str], list[list[str]], list[str]]:
    """Return a ranking as text: columns, rows, and the last columns' metrics, which a narrow terminal may lack.

    Args:
        groups: as `ranked` returns them.
        metric: what they are ordered by.
        label: what an entry is, for the column of names.
    """
    settings, others = setting_cells(groups), shown_metrics(groups, metric)
    seeds = ["seeds"] if any(len(group.entries) > 1 for group in groups) else []
    columns = [*([metric_words(metric)] if metric else []), *settings[0], *seeds, label, *map(metric_words, others)]
    rows = [
        [
            *([group.text(metric)] if metric else []),
            *(value if name == _UNUSUAL else setting_text(value) for name, value in cells.items()),
            *([str(len(group.entries))] if seeds else []),
            entry_names(group.entries),
            *("" if (mean := group.mean(name)) is None else four_digits(mean) for name in others),
        ]
        for group, cells in zip(groups, settings, strict=True)
    ]
    return columns, rows, others


def setting_cells(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return each group's settings as cells by their columns: one for each setting, or one for all if they are many."""
    names = dict.fromkeys(name for group in groups for name in group.settings)
    if len(names) > MOST_SETTINGS:
        return [{_UNUSUAL: settings_words(group.settings, brief=True)} for group in groups]
    short = short_names(names)
    return [{short[name]: group.settings.get(name) for name in names} for group in groups]


def reasons(entries: Sequence[tuple[Entry, str, str]], label: str) -> list[str]:
    """Write one line for each status and error, naming who has it and the settings that all of those share.

    Args:
        entries: what is not done, each with its status and its error.
        label: what an entry is.
    """
    together: dict[tuple[str, str], list[Entry]] = {}
    for entry, status, error in entries:
        together.setdefault((status, error), []).append(entry)
    lines = []
    for (status, error), found in together.items():
        settings = found[0].settings.items()
        shared = {key: value for key, value in settings if all(one.settings.get(key) == value for one in found)}
        which = f" ({settings_words(shared)})" if 0 < len(shared) <= MOST_SETTINGS else ""
        lines.append(f"{label}{'s' if len(found) > 1 else ''} {entry_names(found, 3)}{which} {status}: {error}")
    return lines
