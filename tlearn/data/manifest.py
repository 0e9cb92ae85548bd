"""The manifest of a run, splits.csv: which images are in which split, with size and digest of each file."""

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlearn.data.file_table import FileTable
from tlearn.data.sources.base import SPLITS, Sample, Splits
from tlearn.errors import DataError, capped, counted
from tlearn.files import active, inert, writing_text

COLUMNS = ["path", "label", "split", "bytes", "sha256"]
# As earlier versions wrote it
_OLD_COLUMNS = COLUMNS[:-1]
SIZE = re.compile("[0-9]{1,18}")
_DIGEST = re.compile("[0-9a-f]{64}|")


@dataclass(frozen=True)
class Manifest:
    """The recorded split of a run: samples by split, and of each file its size in bytes and, if known, its digest."""

    splits: dict[str, list[Sample]]
    sizes: dict[str, int]
    digests: dict[str, str] = field(default_factory=dict)


def write_manifest(path: Path, files: FileTable, splits: Splits) -> str:
    """Write path, label, split, size and digest of every sample as CSV.

    Returns a SHA-256 of path, label, split and size of all, in hexadecimal. Raises OutputError where writing fails, and
    DataError for missing files.
    """
    digest = hashlib.sha256()
    with writing_text(path, durable=True) as file:
        # The default \r\n: with \n alone, a name that contains \r would not be quoted.
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in _rows(files, splits):
            digest.update(json.dumps(row).encode() + b"\n")
            writer.writerow([*map(inert, row), files.digest(row[0]) or ""])
    return digest.hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read a manifest of `write_manifest`; raise DataError for any other file."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header, rows = next(reader, []), [(reader.line_num, [active(cell) for cell in row]) for row in reader]
    except OSError as error:
        raise DataError(f"cannot read the split manifest {path}: {error.strerror}") from error
    except csv.Error as error:
        raise DataError(f"{path} is not a split manifest: {error}") from error
    if header not in (COLUMNS, _OLD_COLUMNS) or not rows:
        raise DataError(f"{path} is not a split manifest: it must have the columns {','.join(COLUMNS)} and a row")
    splits: dict[str, list[Sample]] = {}
    sizes: dict[str, int] = {}
    digests: dict[str, str] = {}
    for line, row in rows:
        valid = len(row) == len(header) and row[0] and row[1] and row[2] in SPLITS and SIZE.fullmatch(row[3])
        if not (valid and _DIGEST.fullmatch("".join(row[4:]))):
            raise DataError(f"{path}, line {line} is not {','.join(header)}: {','.join(row)}")
        if row[0] in sizes:
            raise DataError(f"{path}, line {line}: {row[0]} is listed twice")
        splits.setdefault(row[2], []).append(Sample(*row[:3]))
        sizes[row[0]] = int(row[3])
        if any(row[4:]):
            digests[row[0]] = row[4]
    return Manifest({name: splits[name] for name in SPLITS if name in splits}, sizes, digests)


def unchanged_files(manifest: Manifest, files: FileTable) -> int:
    """Count the files of a manifest that exist with the recorded size."""
    return sum(files.size(path) == size for path, size in manifest.sizes.items())


def check_manifest(manifest: Manifest, files: FileTable) -> None:
    """Raise DataError unless every file of a manifest exists with the recorded size, and digest where it is known.

    Args:
        manifest: the record.
        files: the files as they are now.
    """
    problems = []
    for path, expected in manifest.sizes.items():
        size, found = files.size(path), files.digest(path)
        if size is None:
            problems.append(f"missing: {path}")
        elif size != expected:
            problems.append(f"{size} instead of {expected} bytes: {path}")
        elif found is not None and manifest.digests.get(path, found) != found:
            problems.append(f"other content: {path}")
    if problems:
        raise DataError(
            f"{len(problems)} of {len(manifest.sizes)} images in {files.root} are not those of the split manifest\n"
            + capped(problems, separator="\n")
        )


def _rows(files: FileTable, splits: Splits) -> Iterator[tuple[str, str, str, int]]:
    """Yield path, label, split and size of every sample by path; raise DataError in the end for missing files."""
    missing = []
    for sample, name in sorted((sample, name) for name, chosen in splits.items() for sample in chosen):
        size = files.size(sample.path)
        if size is None:
            missing.append(sample.path)
        else:
            yield sample.path, sample.label, name, size
    if missing:
        raise DataError(f"{counted(len(missing), 'image')} missing in {files.root}: {capped(missing)}")
