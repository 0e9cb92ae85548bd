"""Labels in file names, or in the names of folders at any depth."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tlearn.data.sources.base import SPLITS, Listing, Sample
from tlearn.data.sources.collect import Found, image_paths
from tlearn.data.sources.names import splits_of
from tlearn.data.sources.tree import around, check_root
from tlearn.errors import ConfigError, DataError, capped, counted
from tlearn.ranges import require


class FilenamesSource:
    """All images below a folder, with the label that a regular expression finds in each name.

    Args:
        root: the folder.
        pattern: a regular expression with a group `label`, searched in the file name, or in the path below `root` if it
            has a slash. A group `split` is the name of a split in any usual spelling, words that all have aside. An
            image in which it matches without a label is left out: `test/|(?P<label>[^/]+)/`.
    """

    def __init__(self, root: str | Path | None, pattern: str) -> None:
        require("data.pattern", pattern)
        if root is None:
            raise ConfigError("data.root must be given: data.root=FOLDER")
        self.root, self.pattern = Path(os.path.expanduser(root)), re.compile(pattern)

    def prepare(self) -> None:
        """Do nothing: the images are there already."""

    def listing(self) -> Listing:
        """List the images; raise DataError, naming the files, where the pattern finds no label."""
        check_root(self.root)
        found = Found()
        paths, others = image_paths(self.root, self.root, found, around(self.root))
        if not paths:
            raise DataError(f"{self.root}: no images found")
        if others:
            found.notes.append(f"{counted(others.total(), 'file')} ignored: {capped(sorted(others))}")
        problems, left_out = list(self._read(paths, found)), len(paths) - len(found.samples)
        if problems:
            shown = capped(problems, separator="\n")
            raise DataError(
                f"data.pattern={self.pattern.pattern}: no label in {len(problems)} of {counted(len(paths), 'image')}"
                f" in {self.root}\n{shown}\n(?P<label>...) must be found in each file name, or in each path where the "
                "pattern has a slash; paths that match without it are left out: 'FOLDER/|PATTERN'"
            )
        if left_out:
            found.notes.append(f"{counted(left_out, 'image')} left out, where data.pattern matches without a label")
        return Listing(self.root, sorted(found.samples), notes=found.all_notes())

    def _read(self, paths: list[str], found: Found) -> Iterator[str]:
        """Fill `found` with samples and yield what is wrong with each image that cannot be one."""
        splits = "split" in self.pattern.groupindex
        texts = {path: path if "/" in self.pattern.pattern else path.rpartition("/")[2] for path in paths}
        matches = {path: self.pattern.search(text) for path, text in texts.items()}
        meant = splits_of({match["split"] for match in matches.values() if match and splits and match["split"]})
        for path, match in matches.items():
            label = match and match["label"]
            split = meant.get(match["split"]) if match and splits else None
            if match is None or label == "":
                yield f"{path}: no label"
            elif label is None:
                continue
            elif match.start() == match.start("label") and re.search(r"[\w-]\Z", match.string[: match.start()]):
                yield f"{path}: {label!r} would be a part of a longer name"
            elif splits and split is None:
                yield f"{path}: {match['split']!r} is none of {', '.join(SPLITS)}"
            else:
                found.samples.append(Sample(path, label, split))
