"""The loader of images: as many workers as shared memory has room for, and no wait for one without an end."""

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from tlearn.console import say
from tlearn.data.workers import KILLED, KILLED_REMEDY, ROOM, is_killed_worker, leave_signals, temporary_folder
from tlearn.errors import ConfigError, OutputError, capped
from tlearn.machine import free_shared_memory

_TIMEOUT = "TLEARN_WORKER_TIMEOUT"
# Batches that each worker prepares ahead: torch's default
_AHEAD = 2


def worker_seconds() -> float:
    """Return how long a batch may take before its worker is given up: TLEARN_WORKER_TIMEOUT, by default 300 seconds.

    Raises:
        ConfigError: it is not a number of seconds.
    """
    given = os.environ.get(_TIMEOUT) or "300"
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{_TIMEOUT}={given}: expected a number of seconds > 0")
    return seconds


def worker_options(workers: int, batch_bytes: int, loaders: int = 1) -> dict[str, Any]:
    """Return the arguments of a loader that concern its workers; say where shared memory has room for fewer.

    Args:
        workers: as many as are wanted.
        batch_bytes: of a batch as a worker hands it over, through shared memory.
        loaders: that share the memory.
    """
    free, each = free_shared_memory(), _AHEAD * batch_bytes * loaders
    if workers and free is not None and workers * each > free:
        fitting = free // each
        say(
            f"shared memory: {workers} loader workers need {workers * each / 2**20:.0f} MiB in /dev/shm and "
            f"{free / 2**20:.0f} MiB are free, so {fitting or 'the main process'} will load: {ROOM}"
        )
        workers = fitting
    if not workers:
        return {"num_workers": 0}
    temporary_folder()
    return {"num_workers": workers, "timeout": worker_seconds(), "worker_init_fn": leave_signals}


class EpochLoader(DataLoader):
    """Draw nothing before the first batch is asked for, and name the files of a batch that does not come.

    Lightning makes the iterator of a fit before it tells the epoch, and workers would draw at once.
    """

    def __iter__(self) -> Any:
        skipped, done = getattr(self.batch_sampler, "skip", 0), 0
        try:
            for batch in super().__iter__():
                yield batch
                done += 1
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            # Of the socket that hands over a batch, where the worker at its other end has just died
            cut_off = self.num_workers and not isinstance(error, RuntimeError) and "Traceback" not in str(error)
            if "DataLoader timed out" in str(error):
                told = f"no batch came from the loader workers for {worker_seconds():g} s ({_TIMEOUT})"
                remedy = "see whether these files can be read, raise the time, or set num_workers=0"
            elif cut_off or is_killed_worker(error):
                told, remedy = KILLED, KILLED_REMEDY
            else:
                raise
            files = capped(self._files(skipped + done), 5)
            raise OutputError(f"{told} at {files}: {remedy}") from error

    def _files(self, number: int) -> Iterator[str]:
        """Yield the files of a batch of the epoch."""
        assert self.batch_sampler is not None
        for item in next(islice(iter(self.batch_sampler), number, None), ()):
            yield self.dataset.file(item[0] if isinstance(item, tuple) else item)  # type: ignore[attr-defined]
