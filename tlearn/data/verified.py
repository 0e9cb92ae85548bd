"""What a check of images has found, kept in a file of lines: each block of a check adds one, so a kill loses little."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tlearn.errors import OutputError
from tlearn.files import append_text, remove_temporaries, write_text

# A process that is killed loses no more than this; reading takes memory for one block.
_BLOCK, _BLOCK_SECONDS = 10_000, 20.0


class Entry(NamedTuple):
    """Size and modification time of a file, and the result for its content: as `Outcome` has them."""

    size: int
    modified: int
    reason: str
    bits: int
    digest: str


class Verified:
    """The entries of a file, {"key": ..., "pictures": {path: entry}} in each line.

    A file that cannot be read or written is done without. Of parallel runs, one may lose what another adds.

    Args:
        file: the file; None for none.
        key: what entries depend on beside the images.
    """

    def __init__(self, file: Path | None, key: str) -> None:
        self._file, self._key = file, key
        self._new: dict[str, Entry] = {}
        self._since = time.monotonic()
        # Lines that cannot be read or entries that no longer count, and all others
        self._stale, self._entries = 0, 0

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """Yield the paths and entries of this key; a path may come again, with its newest entry last."""
        if self._file is None:
            return
        self._stale = self._entries = 0
        # OSError: it is not there
        with suppress(OSError), self._file.open("rb") as lines:
            for line in filter(bytes.strip, lines):
                try:
                    content = json.loads(line)
                    pictures = {path: _entry(*values) for path, values in content["pictures"].items()}
                    of_key = content["key"] == self._key
                # Invalid JSON, JSON of another structure, or nested beyond Python's recursion limit
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    self._stale += 1
                    continue
                self._entries += len(pictures)
                if of_key:
                    yield from pictures.items()
                else:
                    self._stale += len(pictures)

    def discard(self) -> None:
        """Take note of an entry that no longer counts."""
        self._stale += 1

    def add(self, path: str, entry: Entry) -> None:
        """Add an entry, which is written with others."""
        self._new[path] = entry
        if len(self._new) >= _BLOCK or time.monotonic() - self._since >= _BLOCK_SECONDS:
            self.close()

    def close(self) -> None:
        """Write what was added."""
        entries, self._new, self._since = self._new, {}, time.monotonic()
        if self._file is None or not entries:
            return
        # On a full or read-only disk the next run checks again, which is not a reason to stop this one.
        with suppress(OutputError):
            remove_temporaries(self._file.parent, self._file.name)
            if not self._file.exists() or 2 * self._stale > self._entries:
                write_text(self._file, self._line(dict(self) | entries))
                self._stale = 0
            else:
                append_text(self._file, "\n" + self._line(entries))

    def _line(self, entries: dict[str, Entry]) -> str:
        return json.dumps({"key": self._key, "pictures": entries}, separators=(",", ":"))


def _entry(size: Any, modified: Any, reason: Any, bits: Any, digest: Any) -> Entry:
    return Entry(size, modified, str(reason), int(bits), bytes.fromhex(digest).hex())
