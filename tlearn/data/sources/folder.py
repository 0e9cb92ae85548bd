"""Folders of images: one per class, or splits with one per class in each."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from tlearn.data.sources.archive import Archive
from tlearn.data.sources.base import SPLIT_NAMES, SPLITS, Listing
from tlearn.data.sources.choices import Choice, choices
from tlearn.data.sources.collect import Found, scan_class, scan_classes
from tlearn.data.sources.layout import read
from tlearn.data.sources.reading import LayoutError, Reading, Settings
from tlearn.data.sources.tree import Folder, around, check_root, entries, inode, scan
from tlearn.errors import ConfigError, DataError, capped, counted, typed
from tlearn.ranges import require

EXPECTED = """Expected one of:
  <data.root>/<class>/*.jpg
  <data.root>/train/<class>/*.jpg, and the same in val/ (or valid/, validation/) or test/ or both
  labels elsewhere: in file names (data=filenames), in other folders' names (data=parents), in a table (data=csv)"""


class FolderSource:
    """A folder with one folder per class, or with train/ and val/ or test/ around them.

    Args:
        root: the folder; None for the archive's.
        allow_empty: keep classes without images.
        layout: "auto", or what the folders in the root are: "classes"; "splits"; or "nested", anything around the
            folders that hold images, which are the classes.
        unlabelled_test: "ignore" leaves a test folder without classes alone, "error" refuses it.
        archive: where the images come from if no root is given.
    """

    def __init__(
        self,
        root: str | Path | None,
        allow_empty: bool = False,
        layout: str = "auto",
        unlabelled_test: str = "ignore",
        archive: Archive | None = None,
    ) -> None:
        require("data.layout", layout)
        require("data.unlabelled_test", unlabelled_test)
        if root is None and archive is None:
            raise ConfigError("data.root must be given: data.root=FOLDER")
        self.archive = archive if root is None else None
        self.root = Path(os.path.expanduser(root)) if root is not None else archive.folder  # type: ignore[union-attr]
        self.allow_empty, self.layout, self.unlabelled_test = allow_empty, layout, unlabelled_test

    def prepare(self) -> None:
        """Download the images unless a root was given or they are there."""
        if self.archive is not None:
            self.archive.fetch()

    def listing(self) -> Listing:
        """List the images; raise DataError, with the tree found and what it may mean, for an unclear layout."""
        root = self.root
        check_root(root)
        tree, name = scan(root), root.absolute().name
        try:
            reading = read(tree, name, self.layout, self.unlabelled_test)
        except LayoutError as unclear:
            raise _layout_error(root, tree, unclear.reason, readings=choices(tree, name, unclear)) from unclear
        found = Found(notes=list(_notes(root, tree, reading)))
        if "" not in reading.folders.values():
            found.hidden = entries(root)[1]
        for split, path in reading.folders.items():
            if reading.nested:
                for folder in reading.classes(tree, split):
                    scan_class(root, root / folder, split, found, {inode(root)} | around(root))
            else:
                scan_classes(root, root / path, split, found)
        self._check_empty(tree, found)
        empty = sorted(Path(path).name for path, split in found.empty if split in (None, "train"))
        return Listing(root, sorted(found.samples), empty, found.all_notes())

    def _check_empty(self, tree: Folder, found: Found) -> None:
        if not found.samples:
            raise _layout_error(self.root, tree, "no images found", found.notes)
        required = [path for path, split in found.empty if split in (None, "train")]
        if required and not self.allow_empty:
            raise _empty_error(self.root, required, found.notes)
        found.notes += [f"{path}: no images" for path, split in found.empty if split in ("val", "test")]


def _notes(root: Path, tree: Folder, reading: Reading) -> Iterable[str]:
    """Yield what a reader might not expect of a reading: splits of other names, and what is left alone."""
    places = {split: path for split, path in reading.folders.items() if path}
    if reading.unlabelled:
        places["test"] = reading.unlabelled
    if any(path.lower() not in SPLIT_NAMES for path in places.values()):
        order = sorted(places, key=[*SPLITS, None].index)
        yield "read as " + ", ".join(f"{split or 'data.root'}: {places[split]}/" for split in order)
    if reading.beside:
        yield f"ignored folders beside the splits: {capped(reading.beside)}"
    if reading.unlabelled:
        count, images = counted(tree.at(reading.unlabelled).total, "image"), typed("images", root / reading.unlabelled)
        advice = f"classify them with python -m tlearn.predict run=RUN_FOLDER {images}"
        yield f"{reading.unlabelled}/: {count} without classes left alone; after training, {advice}"
    if strays := reading.strays(tree):
        yield f"ignored {counted(strays, 'image')} in no class folder"


def _empty_error(root: Path, names: list[str], notes: list[str]) -> DataError:
    listed = capped((f"class {Path(name).name!r} has no images: {root / name}" for name in names), separator="\n")
    about = [note for note in notes if note.split(": ")[0] in names]
    hint = "Add images, remove the folder, or keep the class without any: data.allow_empty=true"
    return DataError("\n".join([listed, *about, hint]))


def _layout_error(
    root: Path, tree: Folder, reason: str, notes: Iterable[str] = (), readings: Iterable[Choice] = ()
) -> DataError:
    # The likeliest comes last, right above the prompt.
    lines = [f"  {choice.meaning}: {_arguments(root, choice.settings)}" for choice in reversed(list(readings))]
    title = ["Possible readings, and what to type for each:"] if lines else []
    if tree.images and not lines:
        title = [
            f"Images without labels can be classified: python -m tlearn.predict run=RUN_FOLDER {typed('images', root)}"
        ]
    return DataError(
        "\n".join([f"{root}: {reason}", *notes, "Found:", *tree.lines(str(root)), EXPECTED, *title, *lines])
    )


def _arguments(root: Path, settings: Settings) -> str:
    """Write settings as they are typed in a shell."""
    values = {key: str(root / value) if key in ("data.root", "data.csv") else value for key, value in settings.items()}
    first = ("data", "data.csv", "data.pattern")
    keys = [*(key for key in first if key in values), *(key for key in values if key not in first)]
    # A pattern needs no quotes but the shell's: see `quoted_texts` of config/tree.
    return " ".join(
        f"{key}={shlex.quote(values[key])}" if key == "data.pattern" else typed(key, values[key]) for key in keys
    )
