"""Digests against damage: each in the file that it is of, so that a copy keeps it.

They tell damage and not who made a file: whoever can write one can write its digest. SHA-256, for which processors
have instructions, is faster than hashlib's others; what is read again all the time has CRC-32, which finds every
flipped bit.
"""

import hashlib
import json
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from tlearn.errors import CheckpointError

# The first format of model folders, and of their weights, that carries digests
FIRST_FORMAT = 2
PLACEHOLDER = "0" * 64
_CHUNK = 2**20
# The comment of a zip archive, at its end
_COMMENT = b"tlearn sha256 "
_TAIL = struct.Struct(f"<H{len(_COMMENT)}s64s")
_IN_HEADER = re.compile(rb'"digest":"([0-9a-f]{64})"')
_REMEDY = "its content is not what was written; restore a copy of it, or make it anew"


class _Hashed:
    """What torch.save writes to: it needs no more of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def sealing_zip(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield what a zip archive without a comment is written to, whose comment will be its digest."""
    hashed = _Hashed(file)
    yield cast(BinaryIO, hashed)
    # The archive ends with the length of its comment.
    file.seek(-2, 2)
    file.write(_tail(hashed.digest.hexdigest()))


def check_zip(file: BinaryIO, path: Path) -> None:
    """Check the digest of an open zip archive, and go back to its start.

    Raises:
        CheckpointError: the archive `path` has another, or none.
    """
    size = file.seek(0, 2) - _TAIL.size
    file.seek(max(0, size))
    tail = file.read()
    if size < 0 or _COMMENT not in tail:
        raise CheckpointError(f"{path} carries no digest: it is cut, or not a checkpoint of this version of tlearn")
    file.seek(0)
    digest = hashlib.sha256()
    _update(digest, file, size)
    digest.update(b"\0\0")
    if tail != _tail(digest.hexdigest()):
        raise CheckpointError(f"{path} is damaged: {_REMEDY}")
    check_claims(file, path)


def check_claims(file: BinaryIO, path: Path) -> None:
    """Check that an open zip archive of tensors holds what it claims, and go back to its start; others pass.

    Raises:
        CheckpointError: the archive `path` would become larger than it is.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(4) == b"PK\3\4":
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > size:
            raise CheckpointError(f"{path} claims more than its {size:,} bytes hold: it is damaged or hostile")
    file.seek(0)


def seal_safetensors(path: Path) -> None:
    """Put the digest of a safetensors file in place of the `PLACEHOLDER` that its metadata have as digest."""
    with path.open("r+b") as file:
        header = _header(file)
        found = _IN_HEADER.search(header)
        assert found is not None
        digest = _of_safetensors(file, header)
        file.seek(8 + found.start(1))
        file.write(digest.encode())


def check_safetensors(path: Path, required: bool = False) -> None:
    """Check the digest of a safetensors file, if it carries one.

    Args:
        path: the file, of tlearn or any other program.
        required: it must carry one, as it also must if its format says so.

    Raises:
        CheckpointError: it has another, or none.
    """
    with path.open("rb") as file:
        header = _header(file)
        found = _IN_HEADER.search(header)
        if found is None:
            if required or _format(header) >= FIRST_FORMAT:
                raise CheckpointError(f"{path} carries no digest, as its format does: {_REMEDY}")
        elif found[1].decode() != _of_safetensors(file, header):
            raise CheckpointError(f"{path} is damaged: {_REMEDY}")


def with_digest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON is written from, with its digest."""
    return {**content, "digest": _of_json(content)}


def check_json(content: Mapping[str, Any], path: Path) -> None:
    """Check the digest of what was read from JSON, if it carries one or its format must.

    Raises:
        CheckpointError: it has another, or none.
    """
    carried = content.get("digest")
    if carried is None and content.get("format", 1) < FIRST_FORMAT:
        return
    if carried != _of_json({key: value for key, value in content.items() if key != "digest"}):
        raise CheckpointError(f"{path} is damaged or was edited by hand: {_REMEDY}")


def _tail(digest: str) -> bytes:
    return _TAIL.pack(len(_COMMENT) + 64, _COMMENT, digest.encode())


def _header(file: BinaryIO) -> bytes:
    """Read the header of a safetensors file; a length beyond the file is left to the library to refuse."""
    return file.read(int.from_bytes(file.read(8), "little") % 2**27)


def _format(header: bytes) -> int:
    try:
        return int(json.loads(header)["__metadata__"]["tlearn"])
    # Another program's, or damaged, which the library finds
    except (ValueError, LookupError, TypeError, RecursionError):
        return 0


def _of_safetensors(file: BinaryIO, header: bytes) -> str:
    digest = hashlib.sha256(_IN_HEADER.sub(b'"digest":"%s"' % PLACEHOLDER.encode(), header))
    file.seek(8 + len(header))
    _update(digest, file)
    return digest.hexdigest()


def _of_json(content: Any) -> str:
    # Read again, as numbers and names of keys are then as in the file.
    same = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def _update(digest: Any, file: BinaryIO, size: int = -1) -> None:
    while chunk := file.read(_CHUNK if size < 0 else min(_CHUNK, size)):
        digest.update(chunk)
        size -= len(chunk) if size >= 0 else 0
        if size == 0:
            return
