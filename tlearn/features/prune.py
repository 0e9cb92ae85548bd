"""Remove the least recently used features."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlearn.locks import lock

# Files of a space: the feature key, touched at each use, and what writers and readers lock
RECIPE, LOCK, READERS = "recipe.json", ".lock", ".readers"


@dataclass(frozen=True)
class Kept:
    """A space: its folder, feature key, size in bytes and last use in seconds since the epoch."""

    folder: Path
    recipe: dict[str, Any]
    size: int
    used: float


def kept(root: Path) -> list[Kept]:
    """List all spaces, the least recently used first."""
    found = []
    for recipe in root.glob(f"*/{RECIPE}"):
        with suppress(OSError):
            used, content = recipe.stat().st_mtime, {}
            # A damaged one tells nothing, and its space takes room all the same.
            with suppress(ValueError, RecursionError):
                content = json.loads(recipe.read_text("utf-8"))
            known = content if isinstance(content, dict) else {}
            found.append(Kept(recipe.parent, known, folder_size(recipe.parent), used))
    return sorted(found, key=lambda one: one.used)


def folder_size(folder: Path) -> int:
    """Add up the bytes of all files below a folder, as far as they stay there."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total


def prune(root: Path, limit: float, unused_since: float | None = None, spared: Path | None = None) -> list[Kept]:
    """Remove the least recently used spaces until all together have at most `limit` bytes; return those removed.

    Spaces that a process writes or reads stay.

    Args:
        root: the folder of all spaces.
        limit: bytes.
        unused_since: remove also everything last used before this time (seconds since the epoch).
        spared: the folder of a space that stays, whenever it was used.
    """
    spaces, removed = kept(root), []
    total = sum(space.size for space in spaces)
    for space in spaces:
        old = unused_since is not None and space.used < unused_since
        if (total > limit or old) and space.folder != spared and _remove(space.folder):
            total -= space.size
            removed.append(space)
    return removed


def _remove(folder: Path) -> bool:
    """Remove a space that no process writes or reads; one that cannot be removed, such as another user's, stays."""
    try:
        with (folder / LOCK).open("a") as writers, (folder / READERS).open("a") as readers:
            for file in (writers, readers):
                lock(file)
            # Another process may have removed it, and a third one made it again.
            if os.fstat(writers.fileno()).st_nlink:
                shutil.rmtree(folder)
    except OSError:
        return False
    return not folder.exists()
