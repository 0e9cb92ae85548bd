"""The tree that a layout is read from: which entries of a folder count and what each is, without opening a file."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tlearn.data.formats import ending, is_hidden, is_image_name
from tlearn.errors import DataError, capped, counted

_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
# Deeper folders count as empty: no data set nests so deep, and Python's stack ends somewhere.
_DEEPEST = 40

Inode = tuple[int, int]


@dataclass(frozen=True)
class Folder:
    """One folder of a scanned tree.

    Args:
        images: names of the images directly in it.
        others: endings of the other files directly in it, with their counts.
        folders: its folders by name.
        links: names of those that are links.
        tables: names of the other files that may hold labels.
    """

    images: Sequence[str] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    folders: Mapping[str, "Folder"] = field(default_factory=dict)
    links: Collection[str] = ()
    tables: Sequence[str] = ()

    @cached_property
    def total(self) -> int:
        """The number of images in it at any depth."""
        return len(self.images) + sum(folder.total for folder in self.folders.values())

    @cached_property
    def ignored(self) -> int:
        """The number of other files in it at any depth."""
        return sum(self.others.values()) + sum(folder.ignored for folder in self.folders.values())

    @cached_property
    def filled(self) -> dict[str, "Folder"]:
        """Its folders that hold images at any depth."""
        return {name: folder for name, folder in self.folders.items() if folder.total}

    @cached_property
    def branches(self) -> dict[str, "Folder"]:
        """Its folders that hold images, without links to what lies in the others."""
        own = {id(inner) for name, folder in self.filled.items() if name not in self.links for inner in folder.inner()}
        return {name: folder for name, folder in self.filled.items() if name not in self.links or id(folder) not in own}

    def inner(self) -> Iterator["Folder"]:
        """Yield this folder and all below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.inner()

    def innermost(self) -> tuple[str, "Folder"]:
        """Return the path and content of the folder within single ones, which hold less than it."""
        path, folder = "", self
        while len(folder.filled) == 1 and 2 * len(folder.images) < folder.total:
            [(name, folder)] = folder.filled.items()
            path = f"{path}/{name}"
        return path, folder

    def at(self, path: str) -> "Folder":
        """Return the folder at a path with forward slashes; "" is this one."""
        folder = self
        for name in path.split("/") if path else ():
            folder = folder.folders[name]
        return folder

    def lines(self, name: str, depth: int = 0) -> Iterator[str]:
        """Draw two levels: at most eight folders each, files as a count with their endings."""
        endings = sorted({*map(ending, self.images), *self.others})
        files = len(self.images) + sum(self.others.values())
        yield f"{'  ' * depth}{name}/" + (f"  ({counted(files, 'file')}: {capped(endings, 5)})" if files else "")
        shown = 8 if depth < 2 else 0
        for inner in list(self.folders)[:shown]:
            yield from self.folders[inner].lines(inner, depth + 1)
        if (hidden := len(self.folders) - shown) > 0:
            yield f"{'  ' * (depth + 1)}... {counted(hidden, 'more folder' if shown else 'folder')}"


def scan(root: str | Path) -> Folder:
    """Read the tree of a folder; links are followed, but not back to a folder that they lie in, be it around the root.

    A folder below that may not be read counts as empty: it is refused only where its images are needed.
    """
    known: dict[Inode, Folder] = {}
    deepest = len(around(root)) + _DEEPEST

    def read(path: str | Path, above: frozenset[Inode]) -> Folder:
        here = inode(path)
        if here not in known:
            images, others, folders, links, tables = [], Counter[str](), {}, set(), []
            for entry in entries(path)[0]:
                what = kind(entry)
                if what == "file" and is_image_name(entry.name):
                    images.append(entry.name)
                elif what != "folder":
                    others[ending(entry.name)] += 1
                    tables += [entry.name] if ending(entry.name) in _TABLES else []
                elif len(above) < deepest and inode(entry.path) not in above | {here}:
                    if entry.is_symlink():
                        links.add(entry.name)
                    try:
                        folders[entry.name] = read(entry.path, above | {here})
                    except DataError:
                        folders[entry.name] = Folder()
            known[here] = Folder(images, others, folders, links, tables)
        return known[here]

    return read(root, frozenset(around(root)))


def check_root(root: Path) -> None:
    """Raise DataError unless the root of a source is a folder."""
    if not os.path.isdir(root):
        raise DataError(f"data.root={root} {'is not a folder' if os.path.exists(root) else 'does not exist'}")


def entries(folder: str | Path) -> tuple[list[os.DirEntry[str]], int]:
    """List a folder's visible entries by name, and count the hidden ones."""
    try:
        with os.scandir(folder) as found:
            listed = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    visible = [entry for entry in listed if not is_hidden(entry.name)]
    return visible, len(listed) - len(visible)


def kind(entry: os.DirEntry[str]) -> str:
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


def inode(path: str | Path) -> Inode:
    """Return what names a folder or file itself, by whichever path it is reached."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def around(folder: str | Path) -> set[Inode]:
    """Return the folders that a folder lies in."""
    return {inode(parent) for parent in Path(folder).resolve().parents}
