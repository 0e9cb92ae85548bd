"""Three data sets that torchvision downloads and lays out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torchvision import datasets

from tlearn.data.sources.base import Listing, Sample
from tlearn.data.sources.collect import Found, scan_classes
from tlearn.download import is_offline
from tlearn.errors import ConfigError, DataError, DownloadError, TlearnError, capped
from tlearn.ranges import one_of, require

CALTECH_IMAGES = 8677


class _Layout(NamedTuple):
    """Where torchvision keeps a data set below its root, and what it calls splits and image files."""

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
        require("data.source.dataset", dataset, one_of(*_LAYOUTS))
        self.dataset, self.layout, self.given = dataset, _LAYOUTS[dataset], root is not None
        self.root = Path(os.path.expanduser(download_root if root is None else root))
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
        """List the images in their official splits, or without a split where there are none."""
        self._check_scipy()
        if self._missing():
            raise self._error(f"not found: {capped(map(str, self._missing()))}")
        return self._official() if self.layout.splits else self._caltech()

    def _caltech(self) -> Listing:
        root, found = self.folder / "101_ObjectCategories", Found()
        # clutter for detectors to reject, not a class
        scan_classes(root, root, None, found, skip=("BACKGROUND_Google",))
        if len(found.samples) < CALTECH_IMAGES:
            # torchvision takes a half extracted archive for the whole data set
            reason = f"{root} holds {len(found.samples)} of {CALTECH_IMAGES} images"
            if not self.given:
                raise self._error(f"{reason}; remove {self.folder} and start again")
            found.notes.append(reason)
        return Listing(root, sorted(found.samples), notes=found.notes)

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
                f"{len(missing)} of {len(samples)} images are missing in {self.folder}: {capped(missing)}; "
                "extract its archive again"
            )
        return Listing(self.folder, sorted(samples))

    def _open(self, **options: Any) -> Any:
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
