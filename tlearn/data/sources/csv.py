"""Images listed in a table, or in the tables of a folder in Hugging Face's image-folder form."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from urllib.parse import unquote

from tlearn.data.sources.base import SPLIT_NAMES, Listing, Sample
from tlearn.data.sources.columns import ROLES, choose_columns
from tlearn.data.sources.named_files import NamedFiles
from tlearn.data.sources.table import Table, encoding_error, read_table
from tlearn.errors import DataError, capped, typed
from tlearn.ranges import require

# What Hugging Face calls the table in a folder of images
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Rows by which a folder is judged that the paths may be relative to, and how many such folders are tried
_JUDGED, _TRIED = 20, 200


class CsvSource:
    """A table with a column of paths, one of labels and perhaps one of splits, in any form that programs write.

    Args:
        csv: the table: CSV, TSV, JSON lines or Parquet; or a folder with metadata.csv (or .jsonl, .parquet) beside its
            images or in each of its splits.
        root: what paths are relative to; None: the table's folder.
        columns: names of the columns with path, label and split, where they are called otherwise.
        encoding: of a table that is not in Unicode; None: recognised.
    """

    def __init__(
        self,
        csv: str | Path,
        root: str | Path | None = None,
        columns: Mapping[str, str | int | None] | None = None,
        encoding: str | None = None,
    ) -> None:
        self.csv = Path(os.path.expanduser(csv))
        self.root = Path(os.path.expanduser(root)) if root is not None else None
        self.columns, self.encoding = dict(columns or {}), encoding
        if encoding is not None:
            require("data.encoding", encoding)

    def prepare(self) -> None:
        """Do nothing: the images that a table names are there already."""

    def listing(self) -> Listing:
        """List the images; raise DataError naming file and lines for what cannot be used."""
        if os.path.isdir(self.csv):
            return self._folder()
        root = self.root if self.root is not None else self.csv.parent
        samples, notes = self._samples(self.csv, root)
        return Listing(root, sorted(samples), notes=notes)

    def _folder(self) -> Listing:
        """List the images of a folder whose tables name files relative to themselves."""
        folders = [self.csv, *sorted(filter(os.path.isdir, self.csv.iterdir()))]
        files = [folder / name for folder in folders for name in METADATA if os.path.isfile(folder / name)]
        if not files:
            raise DataError(
                f"data.csv={self.csv} is a folder without {', '.join(METADATA)}: name a table in it, or take its "
                f"folders for classes: data=folder {typed('data.root', self.csv)}"
            )
        found: list[Sample] = []
        all_notes: list[str] = []
        tables: dict[str, Path] = {}
        for file in files:
            samples, notes = self._samples(file, file.parent)
            inner = file.parent.relative_to(self.csv)
            samples = [sample._replace(path=(inner / sample.path).as_posix()) for sample in samples]
            for sample in samples:
                if (other := tables.setdefault(sample.path, file)) != file:
                    raise DataError(f"{other} and {file} both list {sample.path}: remove one of the two")
            found += samples
            all_notes += notes
        if all(sample.split is None for sample in found):
            splits = [SPLIT_NAMES.get(PurePath(sample.path).parts[0].lower()) for sample in found]
            if "train" in splits and None not in splits and len(set(splits)) > 1:
                found = [sample._replace(split=split) for sample, split in zip(found, splits, strict=True)]
        return Listing(self.csv, sorted(found), notes=all_notes)

    def _samples(self, file: Path, root: Path) -> tuple[list[Sample], list[str]]:
        """Read one table whose paths are relative to `root`."""
        files = NamedFiles(root)
        tables = read_table(file, self.encoding)
        chosen = {name: choose_columns(file, table, self.columns, files.is_file) for name, table in tables.items()}
        reading = next(iter(tables))
        if len(tables) > 1:
            # Files that are there decide where the text alone does not.
            fitting = [name for name in tables if _names_files(tables[name], chosen[name][0]["path"], files)]
            if len(fitting) != 1:
                raise encoding_error(file, tables)
            [reading] = fitting
        table, (places, notes) = tables[reading], chosen[reading]
        rows = _Rows(table, places, files)
        problems = list(rows.read())
        if problems:
            shown = capped(problems, separator="\n")
            counts = f"{len(problems)} of {len(table.rows)} rows cannot be used"
            raise DataError("\n".join([f"{file}: {counts}", shown, *([] if rows.samples else rows.elsewhere())]))
        if not rows.samples:
            raise DataError(f"{file} lists no images")
        return rows.samples, [*table.notes, *notes, *rows.notes(file.name)]


def _names_files(table: Table, place: int, files: NamedFiles) -> bool:
    """Return whether a table has paths beyond ASCII, and all of them are files."""
    names = [fields[place] for _, fields in table.rows if place < len(fields) and not fields[place].isascii()]
    return bool(names) and all(map(files.is_file, names))


def _other_forms(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield names without the folders of another machine, without quotes, in another case or with another ending."""
    tidy = [name.strip().replace("\\", "/") for name in names]
    for cut in range(1, 1 + min((name.count("/") for name in tidy), default=0)):
        yield ["/".join(name.split("/")[cut:]) for name in tidy]
    changes = (lambda name: name.strip("'\""), str.lower, str.upper, unquote, lambda name: name.rpartition(".")[0])
    yield from (list(map(change, tidy)) for change in changes)


class _Rows:
    """Turn the rows of a table into `samples`, and tell what is wrong or odd about them."""

    def __init__(self, table: Table, places: Mapping[str, int], files: NamedFiles) -> None:
        self.table, self.places, self.files = table, places, files
        self.samples: list[Sample] = []

    def _value(self, fields: Sequence[str], role: str) -> str:
        place = self.places.get(role, len(fields))
        return fields[place] if place < len(fields) else ""

    def read(self) -> Iterator[str]:
        """Fill `samples` and yield what is wrong with each row that cannot be used."""
        lines: dict[str, int] = {}
        unit, root, width = self.table.unit, self.files.root, len(self.table.columns)
        with_split = any(self._value(fields, "split").strip() for _, fields in self.table.rows)
        for line, fields in self.table.rows:
            # A name may begin or end with a blank, a label or a split may not.
            path, label, split = (self._value(fields, role) for role in ROLES)
            label, split = label.strip(), split.strip()
            found = self.files.find(path)
            key = os.path.abspath(root / (found[0] if len(found) == 1 else path))
            if any(more.strip() for more in fields[width:]):
                yield f"{unit} {line}: more fields than columns; put quotes around a field with a comma"
            elif not path.strip():
                yield f"{unit} {line}: path is empty"
            elif not label:
                yield f"{unit} {line}: label is empty for {path}"
            elif with_split and split.lower() not in SPLIT_NAMES:
                known = ", ".join(SPLIT_NAMES)
                yield (
                    f"{unit} {line}: split is {split!r}, and must be one of {known} in every row or empty in every row"
                )
            elif key in lines:
                yield f"{unit} {line}: {path} is on {unit} {lines[key]} already"
            elif not found:
                yield f"{unit} {line}: no such file: {root / path}"
            elif len(found) > 1:
                yield f"{unit} {line}: {path} may be {' or '.join(found)}: write its ending"
            else:
                self.samples.append(Sample(PurePath(found[0]).as_posix(), label, SPLIT_NAMES.get(split.lower())))
            lines.setdefault(key, line)

    def elsewhere(self) -> list[str]:
        """Say which other folder has the images, or how else their paths must be written, if that is found."""
        names = [path for _, fields in self.table.rows if (path := self._value(fields, "path")).strip()][:_JUDGED]
        root = self.files.root.absolute()
        folders = [root.parent, *(sorted(filter(os.path.isdir, root.iterdir())) if os.path.isdir(root) else [])]
        having = [folder for folder in folders[:_TRIED] if names and all(map(NamedFiles(folder).is_file, names))]
        if len(having) == 1:
            return [f"they are there with {typed('data.root', having[0])}"]
        forms = (form for form in _other_forms(names) if all(map(self.files.is_file, form)))
        if form := next(forms, []):
            return [f"write the paths as they are in {root}: {self.files.find(form[0])[0]}, and not {names[0]}"]
        return []

    def notes(self, name: str) -> list[str]:
        """Say how paths and labels were read where that is not as they are written."""
        paths = [self._value(fields, "path") for _, fields in self.table.rows]
        found = [self.files.find(path)[0] for path in paths]
        endings = sorted(
            {PurePath(file).suffix for path, file in zip(paths, found, strict=True) if len(file) > len(path)}
        )
        notes = [f"paths of {name} are read with an ending: {capped(endings)}"] if endings else []
        if any("\\" in path and "\\" not in file for path, file in zip(paths, found, strict=True)):
            notes.append(f"backslashes in paths of {name} are read as slashes")
        written: dict[str, set[str]] = {}
        for _, fields in self.table.rows:
            written.setdefault((label := self._value(fields, "label")).strip(), set()).add(label)
        if blanks := [repr(form) for forms in written.values() if len(forms) > 1 for form in sorted(forms)]:
            notes.append(f"warning: labels of {name} are read without the blanks around them: {capped(blanks)}")
        return notes
