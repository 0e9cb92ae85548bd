"""A segment: an immutable safetensors file with the features and keys of some images.

It has digests of blocks of features, each checked before it is used, and of all else.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from zlib import crc32

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tlearn.files import written_by_library

_KEYS, _FEATURES, _DIGESTS, _DIGEST = "keys", "features", "digests", "digest"
# Bytes that have a digest of their own, unless one image has more
_BLOCK = 2**20
KEY_BYTES = 16
# numpy sorts and compares such keys, which all have this length; only what it hands out lacks zeros at the end.
KEY = np.dtype(f"S{KEY_BYTES}")


@dataclass
class Segment:
    """Mapped features [n, ...], their keys, and what they are checked by if they come from a file.

    Args:
        keys: S16 [n], in memory.
        features: not read yet.
        path: the file; None for those in memory.
        file: the same, open, as long as it is mapped.
        digests: CRC-32 of each block.
        checked: the blocks that have been.
    """

    keys: np.ndarray
    features: Tensor
    path: Path | None = None
    file: IO[bytes] | None = None
    digests: Sequence[int] = ()
    checked: set[int] = field(default_factory=set)

    def check(self, rows: np.ndarray) -> None:
        """Check the blocks of rows [m] that have not been checked; ValueError for one that is damaged.

        The file is read, as pages of a mapped one would stay in memory.
        """
        size = _rows_of_block(self.features)
        blocks = sorted({*np.unique(rows // size).tolist()} - self.checked)
        if self.path is None or not blocks:
            return
        with self.path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            start = 8 + header + json.loads(file.read(header))[_FEATURES]["data_offsets"][0]
            for block in blocks:
                part = self.features[block * size : (block + 1) * size]
                file.seek(start + block * size * self.features[:1].nbytes)
                if crc32(file.read(part.nbytes)) != self.digests[block]:
                    raise ValueError("its content is not what was written")
        self.checked.update(blocks)


def write_segment(path: Path, keys: np.ndarray, features: Tensor) -> None:
    """Write one segment with keys S16 [n] and features [n, ...], whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    stored = torch.from_numpy(keys.view(np.uint8).reshape(len(keys), KEY_BYTES))
    # Durable: after a loss of power, a damaged file could look like valid features.
    with written_by_library(path, SafetensorError, durable=True) as file:
        content = {_KEYS: stored, _FEATURES: features.contiguous(), _DIGESTS: _digests(features.contiguous())}
        save_file(content, file, metadata={_DIGEST: _digest(content)})


def map_segment(path: Path) -> Segment:
    """Map one segment: its keys as an array of bytes, its features without reading them."""
    opened = path.open("rb")
    with safe_open(path, framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata() or {}
        if names != {_KEYS, _FEATURES, _DIGESTS}:
            raise ValueError("it carries no digests, as an earlier version wrote it")
        content = {name: file.get_tensor(name) for name in names}
    if metadata.get(_DIGEST) != _digest(content):
        raise ValueError("its content is not what was written")
    keys, features = content[_KEYS], content[_FEATURES]
    return Segment(keys.numpy().view(KEY).reshape(-1).copy(), features, path, opened, content[_DIGESTS].tolist())


def _rows_of_block(features: Tensor) -> int:
    return max(1, _BLOCK // max(1, features[:1].nbytes))


def _digests(features: Tensor) -> Tensor:
    """Compute CRC-32 of each block of rows."""
    return torch.tensor([crc32(_bytes(part)) for part in features.split(_rows_of_block(features))], dtype=torch.int64)


def _digest(content: Mapping[str, Tensor]) -> str:
    """Hash all of a segment, which for features is how they are stored, and their digests."""
    digest = hashlib.sha256(f"{content[_FEATURES].dtype} {list(content[_FEATURES].shape)}".encode())
    for name in (_KEYS, _DIGESTS):
        digest.update(_bytes(content[name]))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
