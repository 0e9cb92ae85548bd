"""A reading of a scanned tree: which folders are splits and classes; and the error of a tree without a single one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tlearn.data.sources.tree import Folder

# What a user may say of a tree: the keys to type and their values, data.root relative to the tree
Settings = Mapping[str, str]
SPLITS, NESTED, CLASSES = ({"data.layout": name} for name in ("splits", "nested", "classes"))
# Labels in file names, with a pattern that is found where it is asked for
NAMES = {"data": "filenames"}


@dataclass(frozen=True)
class Reading:
    """What the folders of a tree are; paths are relative to it.

    Args:
        folders: the folder of class folders of each split; None for a set that is not split yet.
        nested: class folders are those that hold images and no deeper folders with images; without, all folders in it.
        unlabelled: a test folder without classes, which is left alone.
        beside: folders beside the splits, which are left alone.
    """

    folders: Mapping[str | None, str]
    nested: bool = False
    unlabelled: str | None = None
    beside: Sequence[str] = ()

    def classes(self, tree: Folder, split: str | None) -> dict[str, Folder]:
        """Return the class folders of a split by their paths."""
        top = self.folders[split]
        inner = tree.at(top)
        if self.nested:
            return {path: folder for path, folder in _leaves(inner, top) if path != top}
        return {join(top, name): folder for name, folder in inner.folders.items()}

    def labels(self, tree: Folder, split: str | None) -> set[str]:
        """Return the names of the classes of a split that have images there."""
        return {last(path) for path, folder in self.classes(tree, split).items() if folder.total}

    def strays(self, tree: Folder) -> int:
        """Return the number of images around the folders that hold class folders, and of those beside nested ones."""
        places = [path.split("/") for path in self.folders.values() if path]
        around = {"/".join(parts[:end]) for parts in places for end in range(len(parts))}
        count = sum(len(tree.at(path).images) for path in around)
        for split, path in self.folders.items() if self.nested else ():
            count += tree.at(path).total - sum(folder.total for folder in self.classes(tree, split).values())
        return count


class LayoutError(Exception):
    """A tree that has no reading or more than one.

    Args:
        reason: what is in the way.
        offers: what the user might mean, for the caller to check and to put into words.
    """

    def __init__(self, reason: str, offers: Iterable[Settings] = (SPLITS, NAMES, NESTED, CLASSES)) -> None:
        super().__init__(reason)
        self.reason, self.offers = reason, list(offers)


def fits(tree: Folder, reading: Reading, fewest: int = 2) -> bool:
    """Return whether a reading can be trained on: enough classes, all with images, and no others outside train."""
    first = "train" if "train" in reading.folders else None
    classes, known = reading.classes(tree, first).values(), reading.labels(tree, first)
    whole = all(folder.total and folder.ignored <= folder.total for folder in classes)
    return len(known) >= fewest and whole and all(reading.labels(tree, split) <= known for split in reading.folders)


def _leaves(folder: Folder, path: str) -> Iterator[tuple[str, Folder]]:
    """Yield the folders with images and no deeper folders with images."""
    for name, inner in folder.filled.items():
        yield from _leaves(inner, join(path, name))
    if folder.images and not folder.filled:
        yield path, folder


def join(path: str, name: str) -> str:
    """Return the path of a folder in a folder; "" is the tree itself."""
    return f"{path}/{name}" if path else name


def last(path: str) -> str:
    """Return the name of the folder at a path."""
    return path.rpartition("/")[2]
