"""The state of a file, which changes with its content, without reading it; and the digest of its content."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """Absolute path, size in bytes and modification time in ns: cached results of a file are valid while these stay."""

    path: str
    size: int
    modified: int


def file_state(path: str | Path) -> FileState | None:
    """Return the state of a file; None if it does not exist."""
    try:
        status = os.stat(path)
    # ValueError: a NUL in the name
    except (OSError, ValueError):
        return None
    return FileState(os.path.abspath(path), status.st_size, status.st_mtime_ns)


def content_digest(path: str | Path) -> str:
    """Hash the content of a file, as sha256sum does; OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
