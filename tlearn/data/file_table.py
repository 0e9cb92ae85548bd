"""The files of a run: the state of each, read once for all that asks for it, and the digest of its content."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np

from tlearn.data.file_state import FileState, file_state

_LOST = -1
# An empty part of a path, or a dot
_OTHER_FORM = re.compile(r"(?:^|/)\.?(?:/|$)")
_COLUMNS = np.dtype([("size", np.int64), ("modified", np.int64), ("digest", np.void, 32)])


class FileTable:
    """Files as they were when the table was made, in columns: objects would take several times as much memory.

    Args:
        root: what paths are relative to.
        paths: of all files.
    """

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self.root, self._root = root, os.path.join(root, "")
        self._row = {path: row for row, path in enumerate(dict.fromkeys(paths))}
        states = (file_state(os.path.join(root, path)) for path in self._row)
        rows = ((_LOST, 0, b"") if state is None else (state.size, state.modified, b"") for state in states)
        self._columns = np.fromiter(rows, _COLUMNS, len(self._row))
        # Files are opened by pathlib's form of their paths, which it makes with a table of all parts of all paths.
        others = [path for path in self._row if os.sep != "/" or _OTHER_FORM.search(path)]
        self._row |= {str(PurePath(path)): self._row[path] for path in others}

    def size_and_time(self, path: str) -> tuple[int, int] | None:
        """Return size in bytes and modification time of a file; None if it was not there."""
        row = self._row.get(path)
        size, modified = (_LOST, 0) if row is None else self._columns[["size", "modified"]][row].tolist()
        return None if size == _LOST else (size, modified)

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes; None if it was not there."""
        found = self.size_and_time(path)
        return found and found[0]

    def digest(self, path: str) -> str | None:
        """Return the digest of a file; None where it is not known."""
        row = self._row.get(path)
        digest = b"" if row is None else self._columns["digest"][row].tobytes()
        return digest.hex() if any(digest) else None

    def keep_digest(self, path: str, digest: str) -> None:
        """Keep the digest of a file."""
        self._columns["digest"][self._row[path]] = bytes.fromhex(digest)

    def copies(self) -> list[list[str]]:
        """List the paths of files with the same content, as far as digests are known, in groups."""
        digests = self._columns["digest"].copy().view("S32")
        order = digests.argsort(kind="stable")
        same = (digests[order][1:] == digests[order][:-1]) & (digests[order][1:] != b"")
        ends = np.flatnonzero(np.diff(same, prepend=False, append=False)).reshape(-1, 2)
        if not len(ends):
            return []
        groups = [order[start : end + 1].tolist() for start, end in ends.tolist()]
        wanted = {row for group in groups for row in group}
        # The first path of a row is as it was given.
        paths = {row: path for path, row in reversed(self._row.items()) if row in wanted}
        return [[paths[row] for row in group] for group in groups]

    def opened_state(self, file: str) -> FileState | None:
        """Return the state of a file by the path with the root; None if it was not there."""
        found = self.size_and_time(self._path(file))
        return found and FileState(os.path.abspath(file), *found)

    def opened_digest(self, file: str) -> str | None:
        """Return the digest of a file by the path with the root; None where it is not known."""
        return self.digest(self._path(file))

    def _path(self, file: str) -> str:
        # An absolute path stays as it is, and may be within the root.
        path = file.removeprefix(self._root)
        return path if path in self._row else file
