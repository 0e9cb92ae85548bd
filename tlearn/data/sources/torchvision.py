"""Where pictures come from: a folder, a CSV file or a torchvision data set, each giving one list of samples."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from tlearn.data.sources.folder import SPLIT_NAMES, Found, capped, scan_classes, scan_folder
from tlearn.download import fetch_archive, is_offline
from tlearn.errors import ConfigError, DataError, DownloadError, TlearnError

CALTECH_PICTURES = 8677


class Sample(NamedTuple):
    """One picture: its path below the root with forward slashes, its class, and its split if the source says so."""

    path: str
    label: str
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """The pictures of one source in the order of their paths, and one line for the user about each oddity."""

    root: Path
    samples: list[Sample]
    empty_classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class FolderSource:
    """A folder with one folder per class, or with train/ and val/ or test/ around them."""

    def __init__(
        self,
        root: str | Path | None,
        name: str = "folder",
        download_root: str | Path = "data",
        url: str | None = None,
        sha256: str | None = None,
        top: str | None = None,
        allow_empty: bool = False,
    ) -> None:
        self.given = root is not None
        self.root = Path(root).expanduser() if root is not None else Path(download_root).expanduser() / name
        self.name, self.url, self.sha256, self.top, self.allow_empty = name, url, sha256, top, allow_empty

    def prepare(self) -> None:
        """Download the pictures unless a root was given or they are there."""
        if self.given or os.path.exists(self.root):
            return
        if self.url is None:
            raise ConfigError(f"data.root must be given: {self.root} does not exist and data.url names no archive")
        fetch_archive(self.url, self.root, sha256=self.sha256, top=self.top, what=self.name)

    def listing(self) -> Listing:
        """List the pictures; raise DataError, with the tree found, for a layout that is neither."""
        found = scan_folder(self.root, self.allow_empty)
        empty = sorted(Path(path).name for path, split in found.empty if split in (None, "train"))
        return Listing(self.root, _samples(found), empty, found.notes)


class CsvSource:
    """A CSV file with the columns path, label and perhaps split; paths are absolute or relative to the root."""

    def __init__(self, csv: str | Path, root: str | Path | None = None) -> None:
        self.csv = Path(csv).expanduser()
        self.root = Path(root).expanduser() if root is not None else self.csv.parent

    def prepare(self) -> None:
        """Do nothing: the pictures that a CSV file names are there already."""

    def listing(self) -> Listing:
        """List the pictures; raise DataError naming the file and the lines that are wrong."""
        try:
            with self.csv.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                columns = [name.strip().lower() for name in reader.fieldnames or []]
                notes = self._check_header(columns)
                reader.fieldnames = columns
                rows = [(reader.line_num, row) for row in reader]
        except OSError as error:
            raise DataError(f"cannot read data.csv={self.csv}: {error.strerror}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.csv} is not a CSV file in UTF-8: {error}") from error
        samples: list[Sample] = []
        problems = list(self._read(rows, samples))
        if problems:
            shown = capped(problems, separator="\n")
            raise DataError(f"{self.csv}: {len(problems)} of {len(rows)} rows cannot be used\n{shown}")
        if not samples:
            raise DataError(f"{self.csv} lists no pictures")
        return Listing(self.root, sorted(samples), notes=notes)

    def _check_header(self, columns: list[str]) -> list[str]:
        missing = [name for name in ("path", "label") if name not in columns]
        # a line that ends in commas has columns without a name
        columns = [name for name in columns if name]
        if missing or len(set(columns)) < len(columns):
            reason = f"no column {' and no column '.join(missing)}" if missing else "two columns of one name"
            found = ",".join(columns) or "nothing"
            raise DataError(f"{self.csv}, line 1: {reason}; expected path,label or path,label,split, found {found}")
        others = [name for name in columns if name not in ("path", "label", "split")]
        return [f"ignored columns of {self.csv.name}: {capped(others)}"] if others else []

    def _read(self, rows: list[tuple[int, dict[str, Any]]], samples: list[Sample]) -> Iterator[str]:
        """Fill `samples` from the rows and yield what is wrong with each row that cannot be used."""
        lines: dict[str, int] = {}
        with_split = any((row.get("split") or "").strip() for _, row in rows)
        for line, row in rows:
            # A name may begin or end with a blank, a label or a split may not.
            path, label, split = row["path"] or "", (row["label"] or "").strip(), (row.get("split") or "").strip()
            full = self.root / path
            key = os.path.abspath(full)
            if None in row:
                yield f"line {line}: more fields than columns; put quotes around a field with a comma"
            elif not path.strip():
                yield f"line {line}: path is empty"
            elif not label:
                yield f"line {line}: label is empty for {path}"
            elif with_split and split.lower() not in SPLIT_NAMES:
                known = ", ".join(SPLIT_NAMES)
                yield f"line {line}: split is {split!r}, and must be one of {known} in every row or empty in every row"
            elif key in lines:
                yield f"line {line}: {path} is on line {lines[key]} already"
            elif not os.path.isfile(full):
                yield f"line {line}: no such file: {full}"
            else:
                samples.append(Sample(PurePath(path).as_posix(), label, SPLIT_NAMES.get(split.lower())))
            lines.setdefault(key, line)


class _Layout(NamedTuple):
    """Where torchvision keeps a data set below its root, and what it calls splits and picture files."""

    folder: str
    needs: tuple[str, ...]
    splits: dict[str, str]
    files: str = ""


_LAYOUTS = {
    "Caltech101": _Layout("caltech101", ("101_ObjectCategories",), {}),
    "Flowers102": _Layout(
        "flowers-102",
        ("jpg", "imagelabels.mat", "setid.mat"),
        {"train": "train", "val": "val", "test": "test"},
        "_image_files",
    ),
    "OxfordIIITPet": _Layout(
        "oxford-iiit-pet", ("images", "annotations"), {"trainval": "train", "test": "test"}, "_images"
    ),
}


class TorchvisionSource:
    """Caltech101, Flowers102 or OxfordIIITPet as torchvision downloads, checks and lays it out.

    `root` is torchvision's: the folder that holds caltech101/, flowers-102/ or oxford-iiit-pet/. `url` is what a user
    without network is told to fetch; torchvision knows its own addresses.
    """

    def __init__(
        self,
        dataset: str,
        root: str | Path | None,
        download_root: str | Path = "data",
        url: str | Sequence[str] = (),
    ) -> None:
        if dataset not in _LAYOUTS:
            raise ConfigError(f"data.source.dataset={dataset} is none of {', '.join(_LAYOUTS)}")
        self.dataset, self.layout, self.given = dataset, _LAYOUTS[dataset], root is not None
        self.root = Path(download_root if root is None else root).expanduser()
        self.folder = self.root / self.layout.folder
        self.urls = [url] if isinstance(url, str) else list(url)

    def prepare(self) -> None:
        """Download the data set unless a root was given or it is there; raise DownloadError."""
        self._check_scipy()
        if self.given or not self._missing():
            return
        if is_offline():
            raise self._error("TLEARN_OFFLINE is set, so nothing is downloaded")
        self._open(download=True)

    def listing(self) -> Listing:
        """List the pictures in their official splits, or without a split where there are none."""
        self._check_scipy()
        if self._missing():
            raise self._error(f"not found: {capped(map(str, self._missing()))}")
        return self._official() if self.layout.splits else self._caltech()

    def _caltech(self) -> Listing:
        root, found = self.folder / "101_ObjectCategories", Found()
        # clutter for detectors to reject, no class
        scan_classes(root, root, None, found, skip=("BACKGROUND_Google",))
        if len(found.pictures) < CALTECH_PICTURES:
            # torchvision takes a half extracted archive for the whole data set
            reason = f"{root} holds {len(found.pictures)} of {CALTECH_PICTURES} pictures"
            if not self.given:
                raise self._error(f"{reason}; remove {self.folder} and start again")
            found.notes.append(reason)
        return Listing(root, _samples(found), notes=found.notes)

    def _official(self) -> Listing:
        samples = []
        for official, split in self.layout.splits.items():
            data = self._open(split=official)
            names = getattr(data, "classes", None) or [f"{number:03d}" for number in range(1, max(data._labels) + 2)]
            for path, label in zip(getattr(data, self.layout.files), data._labels, strict=True):
                samples.append(Sample(Path(path).relative_to(self.folder).as_posix(), names[label], split))
        missing = sorted(sample.path for sample in samples if not os.path.isfile(self.folder / sample.path))
        if missing:
            raise DataError(
                f"{len(missing)} of {len(samples)} pictures are missing in {self.folder}: {capped(missing)}; "
                "extract its archive again"
            )
        return Listing(self.folder, sorted(samples))

    def _open(self, **options: Any) -> Any:
        from torchvision import datasets

        try:
            return getattr(datasets, self.dataset)(self.root, **options)
        # torchvision's downloads fail with anything from URLError to BadZipFile, its readers with any parse error
        except Exception as error:
            raise self._error(f"torchvision: {type(error).__name__}: {error}") from error

    def _missing(self) -> list[Path]:
        return [self.folder / name for name in self.layout.needs if not os.path.exists(self.folder / name)]

    def _check_scipy(self) -> None:
        if self.dataset == "Flowers102":
            try:
                import scipy.io  # noqa: F401
            except ImportError as error:
                raise ConfigError('the labels of Flowers102 need scipy: pip install "tlearn[flowers]"') from error

    def _error(self, reason: str) -> TlearnError:
        needs = ", ".join(str((self.folder / name).absolute()) for name in self.layout.needs)
        if self.given:
            folder = self.layout.folder
            return DataError(f"{self.dataset}: {reason}. data.root={self.root} must hold {folder}/ with {needs}")
        urls = ", ".join(self.urls) or f"the archives of {self.dataset}"
        return DownloadError(f"{self.dataset}: {reason}\nBy hand: fetch {urls}, unpack, and put in place {needs}")


def _samples(found: Found) -> list[Sample]:
    return sorted(Sample(*picture) for picture in found.pictures)
