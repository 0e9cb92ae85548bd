"""Which columns of a table have the paths, the labels and the splits: by name, as told, or as only they fit."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tlearn.data.sources.base import SPLIT_NAMES
from tlearn.data.sources.table import Table
from tlearn.errors import DataError, capped, typed

ROLES = ("path", "label", "split")
# What tables of image data sets call them, beside the names of the roles
_NAMES = {
    "path": "file_name filename file filepath file_path image image_path image_name image_id img img_path id name",
    "label": "class class_name label_name category target y species breed diagnosis",
}
# Rows by which a column is judged
_JUDGED = 100


def choose_columns(
    file: Path, table: Table, told: Mapping[str, str | int | None], is_file: Callable[[str], bool]
) -> tuple[dict[str, int], list[str]]:
    """Return the place of the column of each role, and notes on what was guessed and ignored.

    Args:
        file: the table, for messages.
        table: its content.
        told: names of columns by role, where the user gave them.
        is_file: whether a value of the path column names an image that is there.

    Raises:
        DataError: a column that is not there, or a role that none or several fit.
    """
    chosen: dict[str, int] = {}
    for role in ROLES:
        names = [name.lower() for name in table.columns]
        if (name := told.get(role)) is not None:
            chosen[role] = _named(file, table, role, str(name))
        elif role in names:
            chosen[role] = _single(file, table, names, role)
    guessed = [role for role in ("path", "label") if role not in chosen]
    if "path" in guessed:
        chosen["path"] = _path_column(file, table, chosen, is_file)
    if "label" in guessed:
        chosen["label"] = _label_column(file, table, chosen)
    options = " ".join(typed(f"data.columns.{role}", table.columns[chosen[role]]) for role in guessed)
    notes = [f"guessed from {file.name}: {options}"] if guessed else []
    free = _free(table, chosen)
    for place in free:
        values = {value.strip().lower() for value in _values(table, place)}
        if "split" not in chosen and "train" in values and len(values) > 1 and values <= SPLIT_NAMES.keys():
            told_so = typed("data.columns.split", table.columns[place])
            notes.append(f"the column {table.columns[place]} of {file.name} looks like splits: {told_so} takes it so")
    if free:
        notes.append(f"ignored columns of {file.name}: {capped(table.columns[place] for place in free)}")
    return chosen, notes


def _named(file: Path, table: Table, role: str, name: str) -> int:
    """Find the column that the user named, whose case need not be right if only one column has the name."""
    if name in table.columns:
        return _single(file, table, table.columns, name)
    folded = [column.casefold() for column in table.columns]
    if name.casefold() in folded:
        return _single(file, table, folded, name.casefold())
    raise DataError(f"{file}: no column {name} (data.columns.{role}); it has {_found(table)}")


def _single(file: Path, table: Table, names: list[str], name: str) -> int:
    if names.count(name) > 1:
        raise DataError(f"{file}, line 1: two columns of one name: {name}; found {_found(table)}")
    return names.index(name)


def _found(table: Table) -> str:
    return ",".join(name for name in table.columns if name) or "nothing"


def _free(table: Table, chosen: Mapping[str, int]) -> list[int]:
    return [place for place, name in enumerate(table.columns) if name and place not in chosen.values()]


def _values(table: Table, place: int) -> list[str]:
    return [value for _, fields in table.rows if place < len(fields) and (value := fields[place]).strip()]


def _called(table: Table, role: str, places: list[int]) -> list[int]:
    return [place for place in places if table.columns[place].lower().replace(" ", "_") in _NAMES[role].split()]


def _path_column(file: Path, table: Table, chosen: Mapping[str, int], is_file: Callable[[str], bool]) -> int:
    """Find the one column whose values are images, or is called so."""
    if any(is_file(name) for name in table.columns if name):
        others = iter(("label", *(f"column{number}" for number in range(3, len(table.columns) + 2))))
        line = table.separator.join("path" if is_file(name) else next(others) for name in table.columns)
        above = f"put a line with the names of the columns above it: {line}".replace("\t", "<tab>")
        raise DataError(f"{file}, line 1 names an image: {above}")
    if table.columns and table.columns[0].lstrip().startswith("#"):
        raise DataError(f"{file}, line 1 is a comment: delete it, so that the names of the columns come first")
    places = _free(table, chosen)
    judged = {place: _values(table, place)[:_JUDGED] for place in places}
    fitting = [place for place, values in judged.items() if values and all(map(is_file, values))]
    called = _called(table, "path", fitting or places)
    found = fitting if len(fitting) == 1 else called
    if len(found) == 1:
        return found[0]
    raise _error(file, table, "path", found or fitting or places)


def _label_column(file: Path, table: Table, chosen: Mapping[str, int]) -> int:
    """Find the one column that is called so, or whose values repeat, or the only other one."""
    places = _free(table, chosen)
    called = _called(table, "label", places)
    if not called and _is_one_hot(table, places):
        names = capped(table.columns[place] for place in places)
        raise DataError(
            f"{file} has a column of 0 and 1 for each class ({names}): write one column label with their names"
        )
    repeating = [place for place in places if 1 < len(set(values := _values(table, place))) < len(values)]
    found = next((fitting for fitting in (called, repeating, places) if len(fitting) == 1), [])
    if found:
        return found[0]
    raise _error(file, table, "label", called or repeating or places)


def _is_one_hot(table: Table, places: list[int]) -> bool:
    """Return whether each row has a 1 in one of several columns, and else 0."""
    rows = [[fields[place].strip() if place < len(fields) else "" for place in places] for _, fields in table.rows]
    marks = ({"0", "1"}, {"0.0", "1.0"})
    return (
        len(places) > 1
        and bool(rows)
        and all(set(row) in marks and sum(mark in ("1", "1.0") for mark in row) == 1 for row in rows)
    )


def _error(file: Path, table: Table, role: str, places: list[int]) -> DataError:
    fit = "several fit" if len(places) > 1 else "none fits"
    reason = f"{file}, line 1: no column {role}, and {fit}; expected path,label or "
    lines = [typed(f"data.columns.{role}", table.columns[place]) for place in places[:20]]
    name_it = ["name it with one of:", *(f"  {line}" for line in lines)] if lines else []
    if role == "path" and len(lines) == 1:
        name_it = ["it is one column: the names stand in the first line, with , ; | or a tab between them"]
    return DataError("\n".join([f"{reason}path,label,split, found {_found(table)}", *name_it]))
