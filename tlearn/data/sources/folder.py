"""Folders of images: which layout they have and which entries count, without opening a single file."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlearn.data.sources.base import SPLIT_NAMES, Listing, Sample
from tlearn.download import fetch_archive
from tlearn.errors import ConfigError, DataError, capped, counted

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

EXPECTED = """Expected one of:
  <data.root>/<class>/*.jpg
  <data.root>/train/<class>/*.jpg, and the same in val/ (or valid/, validation/) or test/ or both"""


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
        """Download the images unless a root was given or they are there."""
        if self.given or os.path.exists(self.root):
            return
        if self.url is None:
            raise ConfigError(f"data.root must be given: {self.root} does not exist and data.url names no archive")
        fetch_archive(self.url, self.root, sha256=self.sha256, top=self.top, what=self.name)

    def listing(self) -> Listing:
        """List the images; raise DataError, with the tree found, for any other layout."""
        found = scan_folder(self.root, self.allow_empty)
        empty = sorted(Path(path).name for path, split in found.empty if split in (None, "train"))
        return Listing(self.root, sorted(found.samples), empty, found.notes)


@dataclass
class Found:
    """Images, class folders without any as (path, split), notes on everything else, and how much was hidden."""

    samples: list[Sample] = field(default_factory=list)
    empty: list[tuple[str, str | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hidden: int = 0


def scan_folder(root: Path, allow_empty: bool = False) -> Found:
    """Find the images of a folder in either layout; raise DataError for any other tree."""
    if not os.path.isdir(root):
        raise DataError(
            f"data.root={root} is not a folder" if os.path.exists(root) else f"data.root={root} does not exist"
        )
    found = Found()
    for split, folder in _layout(root, found):
        scan_classes(root, folder, split, found)
    if not found.samples:
        raise _layout_error(root, "no images found", found.notes)
    required = [path for path, split in found.empty if split in (None, "train")]
    if required and not allow_empty:
        raise _empty_error(root, required, found.notes)
    found.notes += [f"{path}: no images" for path, split in found.empty if split in ("val", "test")]
    if found.hidden:
        found.notes.append(f"ignored {counted(found.hidden, 'hidden entry', 'hidden entries')}")
    return found


def scan_classes(root: Path, folder: Path, split: str | None, found: Found, skip: Collection[str] = ()) -> None:
    """Add to `found` what lies in each class folder of `folder`, apart from the classes in `skip`."""
    outer = {_inode(root), _inode(folder)}
    stray = classes = 0
    for entry in _entries(folder, found):
        if _kind(entry) != "folder":
            stray += _is_image(entry)
        elif _inode(entry.path) in outer:
            found.notes.append(f"loop skipped: {Path(entry.path).relative_to(root).as_posix()}")
        elif entry.name not in skip:
            classes += 1
            _scan_class(root, Path(entry.path), split, found, outer)
    where = f"{folder.name}/" if split else "data.root"
    if not classes:
        raise _layout_error(root, f"{where} has no class folders, and {counted(stray, 'image')} directly in it")
    if stray:
        found.notes.append(f"ignored {counted(stray, 'image')} directly in {where}, in no class folder")


def _layout(root: Path, found: Found) -> list[tuple[str | None, Path]]:
    """Return the folders that hold class folders, each with its split; None for a data set that is not split yet."""
    at_top = Found()
    folders = _folders(root, at_top)
    splits: dict[str | None, Path] = {}
    for folder in folders:
        # in any case: classes called "Train" and "Val" would train without complaint
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in splits:
            raise _layout_error(root, f"{splits[split].name}/ and {folder.name}/ are the same split")
        if split:
            splits[split] = folder
    # A class may be called "train" or "valid" too: only together do the names make a layout.
    if "train" in splits and len(splits) > 1:
        others = [folder.name for folder in folders if folder not in splits.values()]
        if others:
            found.notes.append(f"ignored folders beside the splits: {capped(others)}")
        found.hidden += at_top.hidden
        return list(splits.items())
    if "train" in splits and _holds_classes(splits["train"]):
        raise _layout_error(root, "train/ without val/ or test/", nested=splits["train"])
    if splits and "train" not in splits and len(splits) == len(folders):
        raise _layout_error(root, f"no train/ beside {capped(folder.name + '/' for folder in folders)}")
    for folder in folders:
        if os.path.isdir(folder / "train") and any(os.path.isdir(folder / name) for name in ("val", "valid", "test")):
            raise _layout_error(root, f"{folder.name}/ holds splits of its own", nested=folder)
    if nested := _nested(root):
        raise _layout_error(root, f"{folders[0].name}/ is an extra folder on top", nested=nested)
    return [(None, root)]


def _scan_class(root: Path, folder: Path, split: str | None, found: Found, outer: set[tuple[int, int]]) -> None:
    """Add one class to `found`: its images, searched recursively, and notes on everything else in it."""
    images: list[str] = []
    ignored: Counter[str] = Counter()
    odd: list[str] = []
    name = folder.relative_to(root).as_posix()
    start = len(os.fspath(folder))
    for entry, kind in _walk(folder, found, outer):
        path = name + entry.path[start:].replace(os.sep, "/")
        if kind == "loop":
            found.notes.append(f"loop skipped: {path}")
        elif kind != "file":
            odd.append(f"{path} ({kind})")
        elif _is_image(entry):
            images.append(path)
        else:
            ignored[_ending(entry)] += 1
    endings, lost = capped(sorted(ignored)), ignored.total()
    if lost > len(images):
        raise DataError(
            f"{lost} of the {counted(lost + len(images), 'file')} of class {folder.name!r} in {folder} would be "
            f"ignored: {endings}. Convert or remove them; images end in {' '.join(ENDINGS)}"
        )
    if lost:
        found.notes.append(f"{name}: {counted(lost, 'file')} ignored: {endings}")
    if odd:
        found.notes.append(f"{name}: skipped, not regular files: {capped(odd, 5)}")
    if not images:
        found.empty.append((name, split))
    found.samples.extend(Sample(path, folder.name, split) for path in images)


def _walk(folder: Path, found: Found, outer: set[tuple[int, int]]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield every visible entry below a folder with its kind; "loop" is a link to a folder already visited."""
    seen = outer | {_inode(folder)}
    folders = [os.fspath(folder)]
    links: list[os.DirEntry[str]] = []
    while folders or links:
        # Links come last, so that a folder reached both ways is listed under its own name.
        if not folders:
            link = links.pop(0)
            if _inode(link.path) in seen:
                yield link, "loop"
                continue
            folders.append(link.path)
        here = folders.pop()
        seen.add(_inode(here))
        for entry in _entries(here, found):
            kind = _kind(entry)
            if kind != "folder":
                yield entry, kind
            elif entry.is_symlink():
                links.append(entry)
            elif _inode(entry.path) not in seen:
                folders.append(entry.path)


def _entries(folder: str | Path, found: Found | None = None) -> list[os.DirEntry[str]]:
    """List a folder's visible entries by name and count the hidden ones."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    visible = [entry for entry in entries if not _is_hidden(entry.name)]
    if found is not None:
        found.hidden += len(entries) - len(visible)
    return visible


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(ENDINGS)


def _ending(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower() or "(no ending)"


def _kind(entry: os.DirEntry[str]) -> str:
    """Return what an entry is after following links: folder, file, or why it is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:
        # a link to itself, or into a folder that may not be searched
        return "broken link"
    return "not a file" if os.path.exists(entry.path) else "broken link"


def _inode(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _folders(folder: Path, found: Found | None = None) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder, found) if _kind(entry) == "folder"]


def _holds_classes(folder: Path) -> bool:
    return len(_folders(folder)) > 1 and not any(_is_image(entry) for entry in _entries(folder))


def _nested(root: Path) -> Path | None:
    """Find the folder meant by data.root when it lies inside single folders, as in an archive with an extra one."""
    folder = root
    # bounded, for a link may lead back up
    for _ in range(4):
        folders = _folders(folder)
        if len(folders) != 1:
            return None
        folder = folders[0]
        if _holds_classes(folder):
            return folder
    return None


def _empty_error(root: Path, names: list[str], notes: list[str]) -> DataError:
    listed = capped((f"class {Path(name).name!r} has no images: {root / name}" for name in names), separator="\n")
    about = [note for note in notes if note.split(": ")[0] in names]
    hint = "Add images, remove the folder, or keep the class without any: data.allow_empty=true"
    return DataError("\n".join([listed, *about, hint]))


def _layout_error(root: Path, reason: str, notes: Iterable[str] = (), nested: Path | None = None) -> DataError:
    fix = [f"The layout fits one folder deeper: data.root={nested}"] if nested else []
    return DataError("\n".join([f"{root}: {reason}", *notes, "Found:", *_tree(root), EXPECTED, *fix]))


def _tree(folder: Path, depth: int = 0) -> list[str]:
    """Draw two levels of a folder: at most eight folders each, files as a count with their endings."""
    entries = _entries(folder)
    folders = [entry for entry in entries if _kind(entry) == "folder"]
    endings = Counter(_ending(entry) for entry in entries if entry not in folders)
    files = f"  ({counted(endings.total(), 'file')}: {capped(sorted(endings), 5)})" if endings else ""
    lines = [f"{'  ' * depth}{folder.name if depth else folder}/{files}"]
    if depth < 2:
        for entry in folders[:8]:
            lines += _tree(Path(entry.path), depth + 1)
    hidden = len(folders) - (8 if depth < 2 else 0)
    if hidden > 0:
        lines.append(f"{'  ' * (depth + 1)}... {counted(hidden, 'more folder' if depth < 2 else 'folder')}")
    return lines
