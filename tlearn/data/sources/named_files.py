"""Find the files that a table names: with or without ending, with backslashes, with blanks around them."""

import os
from contextlib import suppress
from pathlib import Path

from tlearn.data.formats import is_image_name


class NamedFiles:
    """Resolve names relative to a folder; each folder is listed once at most."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> list[str]:
        """Return what the files are called that a name may mean: one, several with other endings, or none."""
        tidy = name.strip().replace("\\", "/")
        for written in (name, name.strip(), tidy):
            if written and os.path.isfile(self.root / written):
                return [written]
        folder, slash, stem = tidy.rpartition("/")
        if folder + slash not in self._stems:
            self._stems[folder + slash] = _images_by_stem(self.root / (folder + slash))
        return [folder + slash + file for file in self._stems[folder + slash].get(stem, [])]

    def is_file(self, name: str) -> bool:
        """Return whether a name means one file."""
        return len(self.find(name)) == 1


def _images_by_stem(folder: Path) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    with suppress(OSError, ValueError):
        for name in filter(is_image_name, sorted(os.listdir(folder))):
            stems.setdefault(os.path.splitext(name)[0], []).append(name)
    return stems
