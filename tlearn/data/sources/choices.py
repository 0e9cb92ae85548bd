"""Put into words what an unclear tree may mean: each reading that works, with the settings that choose it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from tlearn.data.sources.base import SPLITS
from tlearn.data.sources.csv import METADATA
from tlearn.data.sources.layout import read
from tlearn.data.sources.names import is_about_images, label_pattern, split_of, splits_of
from tlearn.data.sources.reading import LayoutError, Reading, Settings, fits, join, last
from tlearn.data.sources.tree import Folder
from tlearn.errors import capped, counted

_MOST_NAMES = 5


@dataclass(frozen=True)
class Choice:
    """One reading of a tree in words, and the settings to type for it; data.root is relative to the tree."""

    meaning: str
    settings: Settings


def choices(tree: Folder, name: str, unclear: LayoutError) -> list[Choice]:
    """Return the readings of an unclear tree that can be trained on.

    Args:
        tree: the scanned folder.
        name: its own name.
        unclear: why it has no single reading, and what it may mean.
    """
    if any(set(METADATA) & set(folder.tables) for folder in (tree, *tree.folders.values())):
        return [Choice("labels in metadata, as Hugging Face's image folders have it", {"data": "csv", "data.csv": ""})]
    found: list[Choice] = []
    for offer in unclear.offers:
        path = offer.get("data.root", "")
        folder, where = tree.at(path), f"{path}/ alone, " if path else ""
        if "(?P<split>" in offer.get("data.pattern", ""):
            names = [re.match(offer["data.pattern"], f"{name}/") for name in folder.filled]
            found_labels = {match["label"] for match in names if match}
            where = "splits in the names of the folders" if found_labels else "splits in each class folder"
            found.append(Choice(f"{where}, {_classes(found_labels or folder.filled)}", offer))
        elif "data.pattern" in offer:
            found.append(Choice(f"{counted(len(folder.filled) - 1, 'class', 'classes')} without it", offer))
        elif "data" in offer:
            labels = list(_labels_in_names(folder, path)) or _in_tables(folder, path)
            found += [Choice(meaning, {**offer, **more}) for meaning, more in labels]
        else:
            # A single class can be evaluated on where nothing else is meant.
            reading = _usable(folder, last(path) or name, offer, 1 if len(unclear.offers) == 1 else 2)
            if reading and not _is_said(reading, folder, found):
                found.append(Choice(where + _meaning(folder, reading), offer))
    return found or list(islice(_sound_parts(tree), 1))


def _in_tables(tree: Folder, path: str) -> Iterator[tuple[str, Settings]]:
    """Yield the tables beside images without labels, none of which has been opened yet."""
    flat = [place for place, _ in _flat_folders(tree) if split_of(place.partition("/")[0]) in (None, "train")]
    for table in tree.tables if len(flat) == 1 else ():
        settings = {"data": "csv", "data.csv": join(path, table), "data.root": join(path, flat[0]).rstrip("/")}
        yield f"labels in {table}, if it names the images", settings


def _sound_parts(tree: Folder, path: str = "", deepest: int = 4) -> Iterator[Choice]:
    """Yield the folders that can be trained on by themselves."""
    for name, folder in tree.filled.items() if deepest else ():
        place = join(path, name)
        if reading := _usable(folder, name, {}, 2):
            yield Choice(f"{place}/ alone, {_meaning(folder, reading)}", {"data.root": place})
        yield from _sound_parts(folder, place, deepest - 1)


def _is_said(reading: Reading, folder: Folder, found: list[Choice]) -> bool:
    """Return whether nested class folders are those of another choice, or mix splits that another choice keeps."""
    if not reading.nested or "train" in reading.folders:
        return False
    splits = any("splits" in choice.settings.values() for choice in found)
    return splits or reading.labels(folder, None) == set(folder.filled)


def _usable(folder: Folder, name: str, offer: Settings, fewest: int) -> Reading | None:
    """Return the reading of a folder with these settings, or None where it cannot be trained on."""
    try:
        reading = read(folder, name, offer.get("data.layout", "auto"), offer.get("data.unlabelled_test", "ignore"))
    except LayoutError:
        return None
    return reading if fits(folder, reading, fewest) else None


def _meaning(folder: Folder, reading: Reading) -> str:
    split = "train" if "train" in reading.folders else None
    places = [f"{split} is {reading.folders[split]}/" for split in SPLITS if split in reading.folders]
    return ", ".join([*places, _classes(reading.labels(folder, split))]) + (
        " by the folders that hold the images" if reading.nested else ""
    )


def _classes(names: Iterable[str]) -> str:
    return f"{counted(len(names := sorted(names)), 'class', 'classes')} {capped(names, _MOST_NAMES)}"


def _labels_in_names(tree: Folder, path: str) -> Iterator[tuple[str, Settings]]:
    """Yield readings of the file names in folders without class folders: in words, and the settings."""
    flat = {place: folder for place, folder in _flat_folders(tree) if not is_about_images(place.partition("/")[0])}
    labelled = {place: pattern for place, folder in flat.items() if (pattern := label_pattern(folder.images))}
    tops = {place: place.partition("/")[0] for place in labelled}
    meant = splits_of({place.partition("/")[0] for place in flat})
    train = [place for place in labelled if meant[tops[place]] == "train"]
    # An image on the way to the others has no label.
    whole = [place for place in labelled if tree.at(tops[place]).total == len(flat[place].images)]
    images = [name for place in whole for name in flat[place].images]
    pattern = label_pattern(images) if len(whole) > 1 and None not in meant.values() else None
    if pattern and set(train) <= set(whole):
        names = "|".join(re.escape(tops[place]) for place in whole)
        anywhere = rf"^(?!({names})/)|^(?P<split>{names})/(?:.*/)?{pattern}"
        yield _in_words(pattern, images), _at(path, "", anywhere)
    else:
        for place in train or labelled:
            yield _in_words(labelled[place], flat[place].images), _at(path, place, labelled[place])


def _at(path: str, place: str, pattern: str) -> Settings:
    return {"data.pattern": pattern, "data.root": "/".join(filter(None, (path, place)))}


def _in_words(pattern: str, names: Iterable[str]) -> str:
    labels = {match["label"] for name in names if (match := re.search(pattern, name))}
    return f"the labels in the file names, {capped(sorted(labels), _MOST_NAMES)}"


def _flat_folders(tree: Folder) -> Iterator[tuple[str, Folder]]:
    """Yield the folder itself or those in it, through single ones, that hold images and no folders with images."""
    for top, outer in ({"": tree} if tree.images else tree.filled).items():
        path, folder = outer.innermost()
        if folder.images and (top + path == "" or not folder.filled):
            yield top + path, folder
