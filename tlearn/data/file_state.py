"""What tells one content of a file from another without reading it."""

import os
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """Absolute path, size in bytes and modification time in ns: what is kept of a file is right while these stay."""

    path: str
    size: int
    modified: int


def file_state(path: str | Path) -> FileState | None:
    """Look a file up; return None if there is none."""
    try:
        status = os.stat(path)
    # ValueError: a NUL in the name
    except (OSError, ValueError):
        return None
    return FileState(os.path.abspath(path), status.st_size, status.st_mtime_ns)
