"""Features of many pictures: those in the store are read, the others computed and kept, some at a time."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing

import torch
from torch import Tensor

from tlearn.errors import OutputError
from tlearn.features.extract import Extractor, Item
from tlearn.features.progress import progress
from tlearn.features.store import Rows, Space

# A process that is killed loses no more than this; every segment is a file.
_SEGMENT_SECONDS, _SEGMENT_BYTES = 20.0, 64 * 2**20


def compute(
    space: Space,
    items: Sequence[Item],
    keys: Sequence[bytes],
    extractor: Callable[[], Extractor],
    stop_on_write_error: bool = False,
) -> Rows:
    """Give the features of pictures, in their order.

    Args:
        space: where they are kept.
        items: the pictures.
        keys: what each is known by in the store.
        extractor: made only if something is missing.
        stop_on_write_error: raise instead of keeping in memory what cannot be written.

    Raises:
        OutputError: features cannot be written, and `stop_on_write_error`.
        BadImageError: a picture cannot be read; what came before it is kept.
    """
    rows, _ = space.find(keys)
    if rows is not None:
        return rows
    try:
        with space.only_writer():
            return _complete(space, items, keys, extractor, stop_on_write_error)
    except OutputError as error:
        if stop_on_write_error:
            raise
        print(f"{error}: they stay in memory for this run", flush=True)
        return _complete(space, items, keys, extractor, stop_on_write_error)


def _complete(
    space: Space, items: Sequence[Item], keys: Sequence[bytes], extractor: Callable[[], Extractor], stop: bool
) -> Rows:
    # Another process may have done some of it meanwhile.
    rows, missing = space.find(keys)
    if rows is None:
        writer = _Writer(space, stop)
        places = iter(missing)
        with progress(len(missing)) as advance, closing(extractor()([items[place] for place in missing])) as batches:
            try:
                for features in batches:
                    writer.add([keys[next(places)] for _ in features], features)
                    advance(len(features))
            finally:
                writer.flush()
        rows, missing = space.find(keys)
    assert rows is not None, f"{len(missing)} features are missing after all were computed"
    return rows


class _Writer:
    """Collects features and writes them as segments; what cannot be written stays in memory."""

    def __init__(self, space: Space, stop: bool) -> None:
        self._space, self._stop = space, stop
        self._keys: list[bytes] = []
        self._features: list[Tensor] = []
        self._bytes, self._since = 0, time.monotonic()
        self._can_write = True

    def add(self, keys: list[bytes], features: Tensor) -> None:
        self._keys += keys
        self._features.append(features)
        self._bytes += features.nbytes
        if self._bytes >= _SEGMENT_BYTES or time.monotonic() - self._since >= _SEGMENT_SECONDS:
            self.flush()

    def flush(self) -> None:
        if not self._keys:
            return
        keys, features = self._keys, torch.cat(self._features)
        self._keys, self._features, self._bytes, self._since = [], [], 0, time.monotonic()
        if self._can_write:
            try:
                self._space.add(keys, features)
                return
            except OutputError as error:
                if self._stop:
                    raise
                print(f"{error}: they stay in memory for this run", flush=True)
                self._can_write = False
        self._space.hold(keys, features)
