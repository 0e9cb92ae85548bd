"""The table of predictions, written row by row: CSV, or Parquet in row groups."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlearn.errors import ConfigError, DataError
from tlearn.files import is_stream, writing, writing_text

_PARQUET = ".parquet"
# Rows that Parquet keeps together, as many as are in memory
_GROUP = 2**16


def check_table(output: Path) -> None:
    """Refuse a table that cannot be written here.

    Raises:
        ConfigError: Parquet, and pyarrow is not installed, or to a pipe.
    """
    if output.suffix.lower() == _PARQUET:
        _pyarrow(output)
        if is_stream(output):
            raise ConfigError(f"output={output} is not a regular file, which Parquet needs: choose a .csv output")


def check_names(output: Path, names: Iterable[object]) -> None:
    """Refuse paths and classes that the table cannot hold.

    Raises:
        DataError: Parquet, and one is not text.
    """
    for name in names if output.suffix.lower() == _PARQUET else ():
        try:
            str(name).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{str(name)!a} is not UTF-8, as Parquet demands: choose a .csv output") from error


@contextmanager
def prediction_table(output: Path, topk: int) -> Iterator[Callable[[Sequence[str]], Any]]:
    """Open a table with the columns path, class, probability, class_2, ..., and yield what writes a row of text."""
    more = [f"{name}_{rank}" for rank in range(2, topk + 1) for name in ("class", "probability")]
    columns = ["path", "class", "probability", *more]
    if output.suffix.lower() == _PARQUET:
        with _parquet_table(output, columns) as write:
            yield write
    else:
        with writing_text(output) as file:
            writer, head = csv.writer(file), iter([columns])
            # With the first row, so that a pipe gets nothing from what is refused
            yield lambda row: writer.writerows([*head, row])
            writer.writerows(head)


@contextmanager
def _parquet_table(output: Path, columns: Sequence[str]) -> Iterator[Callable[[Sequence[str]], Any]]:
    pyarrow, parquet = _pyarrow(output)
    kinds = [pyarrow.float64() if name.startswith("probability") else pyarrow.string() for name in columns]
    schema = pyarrow.schema(list(zip(columns, kinds, strict=True)))
    group: list[Sequence[str]] = []

    def write_group() -> None:
        texts = [pyarrow.array(values, pyarrow.string()) for values in zip(*group, strict=True)]
        table.write_table(pyarrow.table(texts, list(columns)).cast(schema))
        group.clear()

    def write(row: Sequence[str]) -> None:
        group.append(row)
        if len(group) == _GROUP:
            write_group()

    # The writer writes the end of the file when it is closed, also by the collector: so always here.
    with writing(output) as file, parquet.ParquetWriter(file, schema) as table:
        yield write
        if group:
            write_group()


def _pyarrow(output: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f'output={output} is Parquet: pip install "tlearn[parquet]", or choose a .csv output'
        ) from error
    return pyarrow, parquet
