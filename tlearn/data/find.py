"""Find the images to classify: files, all below folders, or what globs match."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tlearn.data.formats import ending, is_hidden, is_image_name
from tlearn.data.image_paths import ImagePaths
from tlearn.errors import ConfigError, DataError, capped, counted


def find_images(images: str | Sequence[str]) -> tuple[ImagePaths, list[str]]:
    """List images in stable order, each once, and note which other files folders hold, and images given again.

    Args:
        images: a file, a folder, of which all visible images at any depth count, a glob, or several of these.

    Raises:
        ConfigError: a glob that cannot be one.
        DataError: nothing is there; of several, those are named that lead to nothing.
    """
    several = [images] if isinstance(images, str) else list(images)
    empty: list[str] = []
    notes: list[str] = []
    paths = ImagePaths(path for one in several for path in _found(one, empty, notes))
    if empty or not several:
        named = capped(empty) if empty else "[]"
        raise DataError(f"images={named}: no images there (a folder, a file, or a quoted glob such as 'new/*.jpg')")
    unique = paths.each_once()
    if again := len(paths) - len(unique):
        notes.append(f"{counted(again, 'image is', 'images are')} given more than once: one row each")
    return unique, notes


def _found(images: str, empty: list[str], notes: list[str]) -> Iterator[str]:
    """Yield the images of a place, and add it to those that have none, or a note about its other files."""
    others: Counter[str] = Counter()
    is_empty = True
    # An empty name, such as that of a variable that is not set, would be the working folder.
    for path in _in_order(os.path.expanduser(images), others) if images else ():
        is_empty = False
        yield path
    empty += [images] if is_empty else []
    notes += [_note(images, others)] if others else []


def _in_order(given: str, others: Counter[str]) -> Iterator[str]:
    # os.path, here and below: the methods of Path raise for a name that is too long or a folder that is closed.
    if os.path.isdir(given):
        return _below(given, others)
    return iter([given]) if os.path.exists(given) else _matching(Path(given))


def folder_targets(
    images: str | Sequence[str], paths: Sequence[Path], classes: Sequence[str]
) -> tuple[Callable[[str], str] | None, list[str]]:
    """Return what tells the class of an image by the folder directly in `images`, one folder, that it lies in; a note.

    Nothing is guessed: unless every image lies in a folder that has the name of a class, it is None. The note tells
    which folders do not, where some do.
    """
    folder = Path(os.path.expanduser(images if isinstance(images, str) else images[0]))
    if not (isinstance(images, str) or len(images) == 1) or not os.path.isdir(folder):
        return None, []

    def target(path: str) -> str:
        return next(iter(Path(path).relative_to(folder).parts[:-1]), "")

    names = {target(str(path)) for path in paths}
    odd = sorted(names - set(classes))
    if not odd:
        return target, []
    if len(odd) == len(names):
        return None, []
    others = capped(ascii(name) if name else "no folder" for name in odd)
    return None, [f"no targets: some images of {images!a} lie in {others}, which the model has no class for"]


def _note(images: str, others: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items()))
    return f"{others.total():,} other file{'s' * (others.total() > 1)} in {ascii(images)[1:-1]}: {kinds}"


def _below(folder: str, others: Counter[str]) -> Iterator[str]:
    """Yield files with an image's ending and count the others; links are followed, but each folder is entered once."""
    entered = set()

    def inside(here: str) -> Iterator[tuple[str, bool]]:
        """Yield the paths of images and folders in their order, and whether each is a folder."""
        names, folders = [], set()
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in entered:
                return
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    # is_dir raises for a link that leads to itself.
                    if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
                        folders.add(entry.name)
                    elif not is_image_name(entry.name):
                        others[ending(entry.name)] += 1
                        continue
                    names.append(entry.name)
        except OSError as error:
            raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
        names.sort()
        yield from ((os.path.join(here, name), name in folders) for name in names)

    # Not by recursion: folders can be deeper than Python's stack.
    opened = [inside(folder)]
    while opened:
        path, is_folder = next(opened[-1], ("", False))
        if not path:
            opened.pop()
        elif is_folder:
            opened.append(inside(path))
        else:
            yield path


def _is_wild(path: Path) -> bool:
    """Return whether the last part of a path is a pattern; that of a folder with brackets in its name is none."""
    return bool(re.search(r"[*?[]", path.name)) and not ("[" in path.name and os.path.exists(path))


def _matching(given: Path) -> Iterator[str]:
    """Yield the files that a glob matches, hidden ones only if it asks for them; `**` follows no links."""
    wild = next((index for index in range(len(given.parts)) if _is_wild(Path(*given.parts[: index + 1]))), None)
    if wild is None:
        return
    folder, pattern = Path(*given.parts[:wild]), Path(*given.parts[wild:])
    asked = any(map(is_hidden, pattern.parts))
    try:
        # Not glob.glob: it follows a link that leads back up forty times, and two of them without end.
        # As text, which takes less memory, and in the order of the parts of paths
        found = sorted({str(path).replace(os.sep, "\0") for path in folder.glob(str(pattern))})
    except ValueError as error:
        raise ConfigError(f"images={given}: {error}") from error
    for path in (one.replace("\0", os.sep) for one in found):
        hidden = any(map(is_hidden, Path(path).relative_to(folder).parts))
        if os.path.isfile(path) and (asked or not hidden):
            yield path
