"""Read the layout of a scanned tree: which folder is a split, which a class. Understood or refused, never guessed."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

from tlearn.data.sources import base
from tlearn.data.sources.names import (
    are_numbers,
    is_container,
    is_filler,
    label_pattern,
    labels_of,
    looks_like_split,
    split_class_pattern,
    split_of,
    splits_of,
)
from tlearn.data.sources.reading import CLASSES, NAMES, NESTED, SPLITS, LayoutError, Reading, Settings, join, last
from tlearn.data.sources.tree import Folder
from tlearn.errors import capped, counted


def read(tree: Folder, name: str = "", layout: str = "auto", unlabelled_test: str = "ignore") -> Reading:
    """Return what the folders of a tree are; raise LayoutError.

    Args:
        tree: a scanned folder.
        name: its own name, by which a doubled folder (`pets/pets`) is known.
        layout: "classes", "splits" or "nested", as the user says; "auto" accepts what has one reading only.
        unlabelled_test: "ignore" leaves a test folder without classes alone, "error" refuses it.
    """
    if layout == "classes":
        return Reading({None: ""})
    top = _inside_doubled(tree, "", name)
    splits, beside = _split_folders(tree, top, any_beside=layout == "splits")
    if splits:
        folders = {split: _inside_doubled(tree, join(top, folder), folder) for split, folder in splits.items()}
        reading = Reading(folders, layout == "nested", None, beside)
        return _checked_splits(tree, reading, layout == "auto", unlabelled_test)
    if layout == "splits":
        raise LayoutError("no folder for train", [NESTED, CLASSES])
    if layout == "auto":
        _check_classes(tree, top)
    reading = Reading({None: top}, layout == "nested")
    if 2 * reading.strays(tree) > tree.total:
        raise LayoutError("most images lie in no class folder", [CLASSES])
    return reading


def _split_folders(tree: Folder, top: str, any_beside: bool = False) -> tuple[dict[str | None, str], tuple[str, ...]]:
    """Return the names of the folders of the splits and of those beside them; none where the names make no splits.

    The exact names make splits beside any other folder, other spellings only where every folder is one of them, or with
    `any_beside`.
    """
    names = tree.at(top).folders
    exact = _by_split({name: base.SPLIT_NAMES.get(name.lower()) for name in names}, top)
    if "train" in exact and len(exact) > 1:
        return exact, tuple(name for name in names if name not in exact.values())
    meant = splits_of(names)
    if any_beside or None not in meant.values():
        spelled = _by_split(meant, top)
        if "train" in spelled and (any_beside or len(spelled) > 1):
            return spelled, tuple(name for name in names if name not in spelled.values())
    return {}, ()


def _by_split(meant: Mapping[str, str | None], top: str) -> dict[str | None, str]:
    folders: dict[str | None, str] = {}
    for name, split in meant.items():
        if split in folders:
            train = [other for other, meaning in meant.items() if meaning == "train"]
            alone = [{"data.root": join(top, other)} for other in train]
            raise LayoutError(f"{folders[split]}/ and {name}/ are the same split", [*alone, CLASSES])
        if split:
            folders[split] = name
    return folders


def _inside_doubled(tree: Folder, path: str, name: str) -> str:
    """Return the path within doubled folders such as train/train or training_set/train."""
    folder = tree.at(path)
    while len(folder.filled) == 1:
        [(inner, content)] = folder.filled.items()
        same = inner.casefold() == name.casefold() or (split_of(name) and split_of(name) == split_of(inner))
        # A single class that is called like the data set is a class.
        if not same or len(folder.images) >= content.total or (path == "" and not content.filled):
            break
        path, folder = join(path, inner), content
    return path


def _checked_splits(tree: Folder, reading: Reading, strict: bool, unlabelled_test: str) -> Reading:
    """Refuse splits without class folders, with other classes than train, or of more than one reading."""
    alone: Settings = {"data.root": reading.folders["train"]}
    train = tree.at(alone["data.root"])
    for split in (name for name in base.SPLITS if name in reading.folders):
        path = reading.folders[split]
        folder = tree.at(path)
        flat = not folder.folders or bool(folder.images and not folder.filled)
        if split == "test" and folder.total and (flat or _is_unlabelled(folder, train)):
            if unlabelled_test == "error":
                reason = f"{path}/ holds {counted(folder.total, 'image')} and no classes"
                raise LayoutError(reason, [{"data.unlabelled_test": "ignore"}])
            rest = {name: place for name, place in reading.folders.items() if name != "test"}
            reading = replace(reading, folders=rest, unlabelled=path)
        elif flat:
            names = " and ".join(f"{place.partition('/')[0]}/" for place in reading.folders.values())
            reason = f"{names} look like splits, but {_flat(f'{path}/', folder)}"
            raise LayoutError(reason, [NAMES, CLASSES] if split == "train" else [alone, CLASSES])
        elif strict and (several := _more_than_one_reading(folder, path)):
            raise LayoutError(several, [SPLITS, NESTED])
    known = {last(path) for path in reading.classes(tree, "train")}
    for other in reading.folders:
        if strict and (unknown := sorted(reading.labels(tree, other) - known)):
            reason = f"{other} has classes that train does not have: {capped(unknown)}"
            raise LayoutError(reason, [alone, CLASSES])
    return reading


def _is_unlabelled(test: Folder, train: Folder) -> bool:
    """Return whether a test folder holds a single folder that is no class: other frameworks ask for test/unknown."""
    names = list(test.filled)
    return len(names) == 1 and (is_container(names[0]) or looks_like_split(names[0])) and names[0] not in train.folders


def _check_classes(tree: Folder, top: str) -> None:
    """Refuse a folder whose folders need not be classes."""
    here, where = tree.at(top), f"{top}/" if top else "data.root"
    if not here.folders or (here.images and not here.filled):
        raise LayoutError(_flat(where, here), [NAMES])
    _check_depth(tree, top)
    if len(here.images) > sum(folder.total for folder in here.filled.values()) and label_pattern(here.images):
        reason = f"{counted(len(here.images), 'image')} directly in {where}, with labels in their names"
        raise LayoutError(reason, [NAMES, CLASSES])
    _check_names(here, top)
    if several := _more_than_one_reading(here, top):
        first = next(iter(here.filled))
        one = [{"data.root": join(top, first)}] if _shared(here) else []
        # labeled/ beside unlabeled/
        whole = [name for name in here.filled if not looks_like_split(name)]
        only = [{"data.root": join(top, whole[0])}] if len(whole) == 1 else []
        raise LayoutError(several, [*only, NESTED, *one, CLASSES])


def _check_depth(tree: Folder, top: str) -> None:
    """Refuse a folder whose classes lie in one of its folders."""
    here = tree.at(top)
    meant = splits_of(here.folders)
    for name, folder in here.folders.items():
        alone = name.lower() == "train" or len(here.filled) == 1
        if meant[name] == "train" and alone and len(folder.folders) > 1 and not folder.images:
            raise _one_deeper(tree, join(top, name), f"{name}/ without val/ or test/")
    if all(meant.values()) and "train" not in meant.values():
        raise LayoutError(f"no train/ beside {capped(f'{name}/' for name in meant)}", [NESTED, CLASSES])
    for name in here.folders:
        if _has_splits(tree, join(top, name)):
            _refuse_splits_in_classes(here, top)
            raise _one_deeper(tree, join(top, name), f"{name}/ holds splits of its own")
    if len(here.filled) == 1:
        _refuse_extra_folder(tree, join(top, next(iter(here.filled))))


def _check_names(here: Folder, top: str) -> None:
    """Refuse folders whose names are those of splits, of folds or of parts of a data set."""
    names, meant = list(here.filled), splits_of(here.folders)
    images = {name: folder.innermost()[1].images for name, folder in here.filled.items()}
    for name in names:
        others = [other for other in names if other != name]
        unlike = [f"{other}/" for other in others if not meant[other]]
        odd = any(looks_like_split(other) or is_container(other) for other in others)
        # The exact name may be a class beside others: train, bus, car.
        if meant[name] == "train" and (name.lower() != "train" or odd or labels_of(images[name])):
            raise LayoutError(f"{name}/ looks like a split, and {capped(unlike)} beside it not")
        if meant[name] == "test" and len(others) > 1 and not all(map(looks_like_split, others)):
            without = {**NAMES, "data.pattern": f"^{re.escape(name)}/|^(?P<label>[^/]+)/", "data.root": top}
            raise LayoutError(f"{name}/ may be a class, or hold images without one", [without, CLASSES])
        if is_container(name) and others:
            raise LayoutError(f"{name}/ is hardly a class", [NAMES, {"data.root": join(top, name)}, CLASSES])
    labels = [labels_of(files) for files in images.values()]
    several = any(len(one) > 1 for one in labels) and any(map(are_numbers, images.values()))
    if several or any(len(one & other) > 1 for one, other in combinations(labels, 2)):
        listed = capped((f"{name}/" for name in names), 5)
        raise LayoutError(f"{listed} hold images with labels in their file names", [NAMES, CLASSES])
    if len(names) > 1 and all(map(looks_like_split, names)):
        reason = f"{capped(f'{name}/' for name in names)} look like splits or folds and not like classes"
        if (pattern := split_class_pattern(names)) and not here.images:
            raise LayoutError(reason, [{**NAMES, "data.pattern": pattern, "data.root": top}, CLASSES])
        raise LayoutError(reason)


def _more_than_one_reading(here: Folder, path: str) -> str | None:
    """Say why the folders in a folder need not be the classes: what lies deeper might be."""
    ends = {name: _end(name, folder) for name, folder in here.filled.items()}
    deep = [name for name, end in ends.items() if end is None]
    inner = [name for name, end in ends.items() if end not in (None, name)]
    if deep := deep or (inner if len(inner) > 1 else []):
        listed = capped((f"{join(path, name)}/" for name in deep), 5)
        return f"the classes may be the folders in {path or 'data.root'} or deeper ones: folders of images in {listed}"
    if len(common := _shared(here)) > 1:
        return f"{capped((f'{name}/' for name in here.filled), 5)} share the folders {capped(common, 5)}"
    return None


def _shared(here: Folder) -> list[str]:
    """Return the names of folders that several of the folders hold."""
    counts = Counter(inner for folder in here.filled.values() for inner in folder.branches)
    return [name for name, count in counts.items() if count > 1]


def _end(name: str, folder: Folder) -> str | None:
    """Return which folder names a class folder's images, itself or a single one in it; None where several might."""
    while len(folder.branches) == 1:
        [(inner, content)] = folder.branches.items()
        if len(folder.images) >= content.total:
            return name
        name, folder = (name if is_filler(inner) else inner), content
    few = len(folder.images) <= folder.total - len(folder.images)
    return None if len(folder.branches) > 1 and few else name


def _has_splits(tree: Folder, path: str) -> bool:
    try:
        return bool(_split_folders(tree, path)[0])
    except LayoutError:
        return False


def _refuse_splits_in_classes(here: Folder, top: str) -> None:
    """Refuse folders that hold splits of images each, and so are the classes: cat/train, cat/test, dog/train."""
    inner = {name: folder.filled for name, folder in here.filled.items()}
    splits = splits_of({name for folders in inner.values() for name in folders})
    trained = [any(splits[name] == "train" for name in folders) for folders in inner.values()]
    flat = all(len(folder.branches) < 2 for folders in inner.values() for folder in folders.values())
    if len(inner) < 2 or not any(trained) or not flat or all(map(looks_like_split, inner)):
        return
    offers: list[Settings] = [{**CLASSES, **({"data.root": top} if top else {})}]
    if all(trained) and None not in splits.values() and not any(folder.images for folder in here.filled.values()):
        names = "|".join(map(re.escape, sorted(splits)))
        pattern = f"^(?P<label>[^/]+)/(?P<split>{names})/"
        offers.insert(0, {**NAMES, "data.pattern": pattern, "data.root": top})
    listed = capped((f"{name}/" for name, has in zip(inner, trained, strict=True) if has), 5)
    raise LayoutError(f"{listed} hold splits, and look like classes", offers)


def _refuse_extra_folder(tree: Folder, path: str) -> None:
    """Refuse a single folder around a data set, as in an archive with an extra one on top."""
    first, folder = last(path), tree.at(path)
    while not folder.images and len(folder.filled) == 1:
        [(name, folder)] = folder.filled.items()
        path = join(path, name)
    if folder.images:
        odd = is_container(first) or looks_like_split(first)
        if not folder.filled and (odd or label_pattern(folder.images)):
            raise LayoutError(_flat(f"{path}/", folder), [NAMES])
        return
    raise _one_deeper(tree, path, f"{first}/ is an extra folder on top")


def _one_deeper(tree: Folder, path: str, reason: str) -> LayoutError:
    """Return an error that offers a folder of the tree in place of all of it, or what that folder may mean."""
    try:
        read(tree.at(path))
    except LayoutError as inner:
        offers = [{**offer, "data.root": f"{path}/{offer.get('data.root', '')}".rstrip("/")} for offer in inner.offers]
        return LayoutError(f"{reason}; {path}/: {inner.reason}", offers)
    return LayoutError(reason, [{"data.root": path}])


def _flat(where: str, folder: Folder) -> str:
    return f"{where} has no class folders, and {counted(len(folder.images), 'image')} directly in it"
