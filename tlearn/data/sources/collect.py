"""Collect the images of class folders as samples, with a note on every entry that is not one."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlearn.data.formats import ENDINGS, ending, is_image_name
from tlearn.data.sources.base import Sample
from tlearn.data.sources.tree import Inode, around, entries, inode, kind
from tlearn.errors import DataError, capped, counted


@dataclass
class Found:
    """Images, class folders without any as (path, split), notes on everything else, and how much was hidden."""

    samples: list[Sample] = field(default_factory=list)
    empty: list[tuple[str, str | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hidden: int = 0

    def all_notes(self) -> list[str]:
        """Return the notes and a last one on hidden entries."""
        hidden = [f"ignored {counted(self.hidden, 'hidden entry', 'hidden entries')}"] if self.hidden else []
        return [*self.notes, *hidden]


def scan_classes(root: Path, folder: Path, split: str | None, found: Found, skip: Collection[str] = ()) -> None:
    """Add to `found` what lies in each class folder of `folder`, apart from the classes in `skip`."""
    outer = {inode(root), inode(folder)} | around(root)
    stray = 0
    for entry in _visible(folder, found):
        if kind(entry) != "folder":
            stray += is_image_name(entry.name)
        elif inode(entry.path) in outer:
            found.notes.append(f"loop skipped: {Path(entry.path).relative_to(root).as_posix()}")
        elif entry.name not in skip:
            scan_class(root, Path(entry.path), split, found, outer)
    if stray:
        where = f"{folder.name}/" if split else "data.root"
        found.notes.append(f"ignored {counted(stray, 'image')} directly in {where}, in no class folder")


def scan_class(root: Path, folder: Path, split: str | None, found: Found, outer: set[Inode]) -> None:
    """Add one class to `found`: its images, searched recursively, and notes on everything else in it."""
    name = folder.relative_to(root).as_posix()
    images, ignored = image_paths(root, folder, found, outer)
    endings, lost = capped(sorted(ignored)), ignored.total()
    if lost > len(images):
        raise DataError(
            f"{lost} of the {counted(lost + len(images), 'file')} of class {folder.name!r} in {folder} would be "
            f"ignored: {endings}. Convert or remove them; images end in {' '.join(ENDINGS)}"
        )
    if lost:
        found.notes.append(f"{name}: {counted(lost, 'file')} ignored: {endings}")
    if not images:
        found.empty.append((name, split))
    found.samples.extend(Sample(path, folder.name, split) for path in images)


def image_paths(root: Path, folder: Path, found: Found, outer: set[Inode]) -> tuple[list[str], Counter[str]]:
    """Return the images below a folder, relative to the root, and the endings of other files; note what is neither."""
    images: list[str] = []
    ignored: Counter[str] = Counter()
    odd: list[str] = []
    name = folder.relative_to(root).as_posix()
    start = len(os.fspath(folder))
    for entry, what in _walk(folder, found, outer):
        path = (name + entry.path[start:].replace(os.sep, "/")).removeprefix("./")
        if what == "loop":
            found.notes.append(f"loop skipped: {path}")
        elif what != "file":
            odd.append(f"{path} ({what})")
        elif is_image_name(entry.name):
            images.append(path)
        else:
            ignored[ending(entry.name)] += 1
    if odd:
        found.notes.append(f"{name}: skipped, not regular files: {capped(odd, 5)}")
    return images, ignored


def _walk(folder: Path, found: Found, outer: set[Inode]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield every visible entry below a folder with its kind; "loop" is a link to a folder already visited."""
    seen = outer | {inode(folder)}
    folders = [os.fspath(folder)]
    links: list[os.DirEntry[str]] = []
    while folders or links:
        # Links come last, so that a folder reached both ways is listed under its own name.
        if not folders:
            link = links.pop(0)
            if inode(link.path) in seen:
                yield link, "loop"
                continue
            folders.append(link.path)
        here = folders.pop()
        seen.add(inode(here))
        for entry in _visible(here, found):
            what = kind(entry)
            if what != "folder":
                yield entry, what
            elif entry.is_symlink():
                links.append(entry)
            elif inode(entry.path) not in seen:
                folders.append(entry.path)


def _visible(folder: str | Path, found: Found) -> list[os.DirEntry[str]]:
    visible, hidden = entries(folder)
    found.hidden += hidden
    return visible
