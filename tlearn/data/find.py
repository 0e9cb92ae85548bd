"""Find the images to classify: files, all below folders, or what globs match."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tlearn.data.formats import ending, is_hidden, is_image_name
from tlearn.errors import ConfigError, DataError, capped, counted


def find_images(images: str | Sequence[str]) -> tuple[list[Path], list[str]]:
    """List images in stable order, each once, and note which other files folders hold, and images given again.

    Args:
        images: a file, a folder, of which all visible images at any depth count, a glob, or several of these.

    Raises:
        ConfigError: a glob that cannot be one.
        DataError: nothing is there; of several, those are named that lead to nothing.
    """
    several = [images] if isinstance(images, str) else list(images)
    missing, notes, paths = [], [], []
    for one in several:
        found, note = _found(one)
        missing += [] if found else [one]
        paths += found
        notes += note
    if missing or not several:
        named = capped(missing) if missing else "[]"
        raise DataError(f"images={named}: no images there (a folder, a file, or a quoted glob such as 'new/*.jpg')")
    unique = {os.path.abspath(path): path for path in reversed(paths)}
    if again := len(paths) - len(unique):
        notes.append(f"{counted(again, 'image is', 'images are')} given more than once: one row each")
    # Of an image that is given again, the first place counts.
    return [path for path in paths if unique.pop(os.path.abspath(path), None) is not None], notes


def _found(images: str) -> tuple[list[Path], list[str]]:
    # An empty name, such as that of a variable that is not set, would be the working folder.
    if not images:
        return [], []
    # os.path, here and below: the methods of Path raise for a name that is too long or a folder that is closed.
    given = Path(os.path.expanduser(images))
    others: Counter[str] = Counter()
    if os.path.isdir(given):
        paths = sorted(_below(given, others))
    elif os.path.exists(given):
        paths = [given]
    else:
        paths = sorted(_matching(given))
    return paths, [_note(images, others)] if others else []


def folder_targets(
    images: str | Sequence[str], paths: Sequence[Path], classes: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the class of each image by the folder directly in `images`, one folder, that it lies in, and a note.

    Nothing is guessed: unless every image lies in a folder that has the name of a class, none has a target. The note
    tells which folders do not, where some do.
    """
    folder = Path(os.path.expanduser(images if isinstance(images, str) else images[0]))
    if not (isinstance(images, str) or len(images) == 1) or not os.path.isdir(folder):
        return {}, []
    names = {str(path): next(iter(path.relative_to(folder).parts[:-1]), "") for path in paths}
    odd = sorted(set(names.values()) - set(classes))
    if not odd:
        return names, []
    if len(odd) == len(set(names.values())):
        return {}, []
    others = capped(ascii(name) if name else "no folder" for name in odd)
    return {}, [f"no targets: some images of {images!a} lie in {others}, which the model has no class for"]


def _note(images: str, others: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items()))
    return f"{others.total():,} other file{'s' * (others.total() > 1)} in {ascii(images)[1:-1]}: {kinds}"


def _below(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """Yield files with an image's ending and count the others; links are followed, but each folder is entered once."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    entered = set()
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for path in (Path(here, name) for name in files if not is_hidden(name)):
            if is_image_name(path.name):
                yield path
            else:
                others[ending(path.name)] += 1


def _is_wild(path: Path) -> bool:
    """Return whether the last part of a path is a pattern; that of a folder with brackets in its name is none."""
    return bool(re.search(r"[*?[]", path.name)) and not ("[" in path.name and os.path.exists(path))


def _matching(given: Path) -> Iterator[Path]:
    """Yield the files that a glob matches, hidden ones only if it asks for them; `**` follows no links."""
    wild = next((index for index in range(len(given.parts)) if _is_wild(Path(*given.parts[: index + 1]))), None)
    if wild is None:
        return
    folder, pattern = Path(*given.parts[:wild]), Path(*given.parts[wild:])
    asked = any(map(is_hidden, pattern.parts))
    try:
        # Not glob.glob: it follows a link that leads back up forty times, and two of them without end.
        found = set(folder.glob(str(pattern)))
    except ValueError as error:
        raise ConfigError(f"images={given}: {error}") from error
    for path in found:
        hidden = any(map(is_hidden, path.relative_to(folder).parts))
        if os.path.isfile(path) and (asked or not hidden):
            yield path
