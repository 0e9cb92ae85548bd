"""Features of many images: load those in the store; compute and store the others in segments."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import numpy as np
import torch
from torch import Tensor

from tlearn.console import warn
from tlearn.display import progress
from tlearn.errors import NonFiniteError, OutputError
from tlearn.features.extract import Extractor, Item
from tlearn.features.rows import FeatureRows
from tlearn.features.store import Space

# A process that is killed loses no more than this; every segment is a file.
_SEGMENT_SECONDS, _SEGMENT_BYTES = 20.0, 64 * 2**20


def compute(
    space: Space,
    items: Sequence[Item],
    keys: np.ndarray,
    extractor: Callable[[], Extractor],
    stop_on_write_error: bool = False,
) -> FeatureRows:
    """Return the features of images, in their order.

    Args:
        space: where they are kept.
        items: the images.
        keys: the name of each in the store, S16 [n].
        extractor: built only if something is missing.
        stop_on_write_error: raise instead of keeping in memory what cannot be written.

    Raises:
        OutputError: features cannot be written, and `stop_on_write_error`; or no images come from the loader's workers.
        BadImageError: an image cannot be read; the features of those before it are kept.
        NonFiniteError: the body outputs NaN or infinity.
    """
    rows, _ = space.find(keys)
    if rows is not None:
        return rows
    writer = _Writer(space, stop_on_write_error)
    with ExitStack() as held:
        try:
            held.enter_context(space.only_writer())
        except OutputError as error:
            writer.give_up(error)
        # Another process may have done some of it meanwhile.
        rows, missing = space.find(keys)
        while rows is None:
            _compute(items, keys, missing, extractor, writer)
            rows, missing = space.find(keys)
            if rows is None:
                writer.give_up(OutputError(f"{len(missing)} features in {space.folder} were removed by another run"))
    return rows


def _compute(
    items: Sequence[Item],
    keys: np.ndarray,
    missing: np.ndarray,
    extractor: Callable[[], Extractor],
    writer: "_Writer",
) -> None:
    """Compute the features of the images at the missing places."""
    done = 0
    with progress("features", len(missing)) as advance, closing(extractor()(_ItemsAt(items, missing))) as batches:
        try:
            for features in batches:
                places = missing[done : done + len(features)]
                _check_finite(features, _ItemsAt(items, places))
                writer.add(keys[places], features)
                done += len(features)
                advance(len(features))
        finally:
            writer.flush()


class _ItemsAt(Sequence[Item]):
    """The items at some places, each made when it is asked for."""

    def __init__(self, items: Sequence[Item], places: np.ndarray) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        return self._items[int(self._places[index])]


def _check_finite(features: Tensor, items: Sequence[Item]) -> None:
    good = features.flatten(1).isfinite().all(1)
    if not good.all():
        path = items[int(good.logical_not().nonzero()[0])][0]
        raise NonFiniteError(
            f"the body's features of {path} are not finite: its weights, backbone.weights, are damaged"
        )


class _Writer:
    """Collect features and write them as segments; what cannot be written stays in memory."""

    def __init__(self, space: Space, stop: bool) -> None:
        self._space, self._stop = space, stop
        self._keys: list[np.ndarray] = []
        self._features: list[Tensor] = []
        self._bytes, self._since = 0, time.monotonic()
        self._can_write = True

    def give_up(self, error: OutputError) -> None:
        """Write nothing more, or raise the error."""
        if self._stop:
            raise error
        warn(f"{error}: they stay in memory for this run")
        self._can_write = False

    def add(self, keys: np.ndarray, features: Tensor) -> None:
        self._keys.append(keys)
        self._features.append(features)
        self._bytes += features.nbytes
        if self._bytes >= _SEGMENT_BYTES or time.monotonic() - self._since >= _SEGMENT_SECONDS:
            self.flush()

    def flush(self) -> None:
        if not self._keys:
            return
        keys, features = np.concatenate(self._keys), torch.cat(self._features)
        self._keys, self._features, self._bytes, self._since = [], [], 0, time.monotonic()
        if self._can_write:
            try:
                self._space.add(keys, features)
                return
            except OutputError as error:
                self.give_up(error)
        self._space.hold(keys, features)
