"""Tables as spreadsheets, pandas, R and data sets on the web write them: CSV, TSV, JSON lines and Parquet."""

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlearn.data.formats import HEAD, foreign_kind, is_image_name
from tlearn.data.sources.encoding import TRIED, beyond_ascii, decoded, is_unicode, readings
from tlearn.errors import ConfigError, DataError, capped, counted

# Names that programs give to the column of row numbers
_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")
_SEPARATORS = (",", ";", "\t", "|")
_SAVE = "save the table as CSV in UTF-8"

Rows = list[tuple[int, list[str]]]


@dataclass(frozen=True)
class Table:
    """The rows of a table as text.

    Args:
        columns: their names; empty for one without a name or with the numbers of the rows.
        rows: the line (or the number) of each row, and its fields, of which there may be more or fewer than columns.
        notes: what was found out about the file, and left out.
        unit: what rows are counted by.
        separator: what parts the fields of a line.
    """

    columns: list[str]
    rows: Rows
    notes: list[str] = field(default_factory=list)
    unit: str = "line"
    separator: str = ","


def read_table(file: Path, encoding: str | None = None) -> dict[str, Table]:
    """Read a table: in one way, or in each way that its encoding allows, by the encoding's name.

    Raises:
        DataError: the file cannot be read, or is not a table.
        ConfigError: it is a Parquet file, and pyarrow is not installed.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read data.csv={file}: {error.strerror}") from error
    if content.startswith(b"PAR1"):
        return {"": _parquet(file)}
    if content.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{file} is a workbook or an archive, not a table: {_SAVE}")
    if content and not content.lstrip().startswith(b"{") and (kind := foreign_kind(content[:HEAD])):
        raise DataError(f"{file} is not a table but {kind}")
    texts = _texts(file, content, encoding)
    try:
        return {name: _of_text(file.name, text, "" if encoding else name) for name, text in texts.items()}
    except (csv.Error, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as a table: {error}") from error


def encoding_error(file: Path, tables: dict[str, Table]) -> DataError:
    """Return the error for a table that several encodings fit: how each would read it, and the option that says so."""
    lines = [f"{file} is neither UTF-8 nor UTF-16, and fits several encodings; choose the one that reads it rightly:"]
    for name, table in tables.items():
        words = beyond_ascii(" ".join([*table.columns, *(value for _, fields in table.rows for value in fields)]))
        lines.append(f"  data.encoding={name}: {capped(words, 6)}")
    return DataError("\n".join(lines))


def _texts(file: Path, content: bytes, encoding: str | None) -> dict[str, str]:
    if encoding is None:
        if found := readings(content):
            return found
        tried = f"tried {', '.join(TRIED)}"
        raise DataError(f"{file} is text in an unknown encoding ({tried}): name it, data.encoding=NAME, or {_SAVE}")
    try:
        return {encoding: decoded(content, encoding)}
    except UnicodeError as error:
        raise DataError(f"{file} is not text in data.encoding={encoding} ({error}): name another") from error


def _of_text(name: str, text: str, encoding: str) -> Table:
    guessed = encoding and not is_unicode(encoding)
    notes = [f"{name} is read as {encoding}, in which alone it makes sense"] if guessed else []
    if "\0" in text:
        raise ValueError("it has bytes of zero, as no text has")
    separator = ","
    if text.lstrip().startswith(("{", "[")):
        columns, rows = _json(text)
    else:
        separator, columns, rows = _delimited(text)
    columns = ["" if _INDEX.fullmatch(column) else column.strip() for column in columns]
    kept = [(line, fields) for line, fields in rows if any(value.strip() for value in fields)]
    if empty := len(rows) - len(kept):
        notes.append(f"ignored {counted(empty, 'row')} of {name} without any value")
    return Table(columns, kept, notes, separator=separator)


def _json(text: str) -> tuple[list[str], Rows]:
    """Read an object for each line, or a list of objects."""
    if text.lstrip().startswith("["):
        objects = list(enumerate(json.loads(text), 1))
    else:
        # Not splitlines: JSON may hold other ends of lines, such as U+2028, in its texts.
        objects = [(line, json.loads(row)) for line, row in enumerate(text.split("\n"), 1) if row.strip()]
    if wrong := [line for line, row in objects if not isinstance(row, dict)]:
        raise ValueError(f"line {wrong[0]} is not a JSON object")
    if len(objects) == 1 and any(
        isinstance(value, dict | list) or is_image_name(key) for key, value in objects[0][1].items()
    ):
        raise ValueError('it is one JSON object; expected one for each image, as {"path": "a.jpg", "label": "cat"}')
    columns = list(dict.fromkeys(key for _, row in objects for key in row))
    return columns, [(line, [_text(row.get(column)) for column in columns]) for line, row in objects]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _delimited(text: str) -> tuple[str, list[str], Rows]:
    """Read CSV with the separator that the header and the rows agree on, and return that, the columns and the rows."""
    # First lines of Excel and of PowerShell
    told = re.match(r"(?:\"?sep=(.)\"?|#TYPE [^\r\n]*)\r?\n", text)
    first, text = (1, text[told.end() :]) if told else (0, text)
    separators = [told[1]] if told and told[1] else [one for one in _SEPARATORS if len(_header(text, one)) > 1]
    if {"path", "label"} <= {name.strip().lower() for name in _header(text, ",")}:
        separators = [","]
    # R's write.table, with names in quotes
    if not separators and len(_header(text, " ")) > 1:
        separators = [" "]
    parsed = {separator: _parse(text, separator) for separator in separators or [","]}
    separator, rows = max(parsed.items(), key=lambda one: _agreement(one[1]))
    columns, body = (rows[0][1], rows[1:]) if rows else ([], [])
    # R's write.table names no column for the names of its rows.
    numbers = [fields[0] for _, fields in body if len(fields) == len(columns) + 1]
    if len(numbers) == len(body) and numbers == [str(number) for number in range(1, len(body) + 1)]:
        columns = ["", *columns]
    return separator, columns, [(line + first, fields) for line, fields in body]


def _parse(text: str, separator: str) -> Rows:
    # A quote behind a blank opens a field as well: "path", "label"
    quoted = re.search(rf'{re.escape(separator)} +"', text) is not None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=quoted)
    return [(reader.line_num, fields) for fields in reader if fields]


def _header(text: str, separator: str) -> list[str]:
    return next((fields for fields in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if fields), [])


def _agreement(rows: Rows) -> tuple[float, int]:
    """Return the share of rows with as many fields as the first, and that number."""
    width = len(rows[0][1]) if rows else 0
    return sum(len(fields) == width for _, fields in rows) / max(1, len(rows)), width


def _parquet(file: Path) -> Table:
    """Read the columns of text and numbers; pictures and lists in others are left out."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f'{file} is a Parquet file: pip install "tlearn[parquet]" reads it, or {_SAVE}') from error
    try:
        schema = parquet.read_schema(file)
        inner = [one.name for one in schema if pyarrow.types.is_nested(one.type) or _is_bytes(pyarrow, one.type)]
        content = parquet.read_table(file, columns=[name for name in schema.names if name not in inner])
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    values = [[_text(value) for value in column.to_pylist()] for column in content.columns]
    columns = ["" if _INDEX.fullmatch(name) else name for name in content.column_names]
    rows = [(number, list(fields)) for number, fields in enumerate(zip(*values, strict=True), 1)]
    notes = [f"left out the columns of {file.name} that hold no text and no numbers: {capped(inner)}"] if inner else []
    return Table(columns, rows, notes, "row")


def _is_bytes(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    return any(check(kind) for check in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary))
