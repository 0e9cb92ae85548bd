"""The plain program under the same faults as tlearn, a few times each."""

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from reliability_parts import forks
from reliability_parts.row import PLAIN, Options, Outcome
from reliability_parts.runs import Place, _digest

PROGRAM = "plain_program"
# The augmentation of an epoch is drawn by workers or by the run itself.
WORKERS = (0, 2)
KILLS = 6


def arguments(place: Place, *more: str) -> list[str]:
    """Return a command line of the plain program."""
    return [f"data='{place.images}'", *more, f"hydra.run.dir='{place.run}'"]


def start(place: Place, given: Sequence[str], prepare: Callable[[], object] | None = None) -> forks.Started:
    """Start the plain program as if it were the main one, for which Hydra looks beside it."""
    environment = {**place.environment, "HYDRA_MAIN_MODULE": "__main__"}
    return forks.start(PROGRAM, given, place.folder / "output.txt", environment, prepare)


def plain_kills(options: Options, images: Path) -> Iterator[Outcome]:
    """Kill the plain program at a step, let it go on from its last checkpoint, and compare the weights."""
    for workers in WORKERS:
        more = [f"workers={workers}", f"seed={options.seed}"]
        names = [f"plain-{workers}-{index}" for index in range(1 if options.short else KILLS)]
        if not any(map(options.wants, names)):
            continue
        straight = Place(options.folder / f"plain_{workers}", images)
        start(straight, arguments(straight, *more)).wait()
        for name in filter(options.wants, names):
            place = Place(options.folder / name, images)
            # From the second epoch on, as the first has no checkpoint yet
            at = options.random(name).randint(5, 12)
            start(place, arguments(place, *more), lambda at=at: at_step(at, kill)).wait()
            fault = go_on(place, more)
            if not fault and state(place.run) != state(straight.run):
                fault = "other weights or optimizer"
            yield Outcome(name, fault, f"plain, workers {workers}", PLAIN)
            shutil.rmtree(place.folder)


def go_on(place: Place, more: Sequence[str]) -> str:
    """Let the plain program go on from its last checkpoint, or start again without; return what went wrong."""
    last = place.run / "checkpoints" / "last.ckpt"
    resume = [f"resume='{last}'"] if last.exists() else []
    running = start(place, arguments(place, *more, *resume))
    status = running.wait()
    return "" if status == 0 else f"status {status} when it went on: {running.error()}"


def state(run: Path) -> str:
    """Return the digest of the last weights and optimizer."""
    found = torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)
    return _digest([found["state_dict"], found["optimizer_states"]])


def at_step(at: int, act: Callable[[], object]) -> None:
    """Do something at the k-th training step of this process."""
    import plain_program

    original, left = plain_program.Classifier.training_step, [at]

    def counting(self: plain_program.Classifier, *args: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            act()
        return original(self, *args)

    plain_program.Classifier.training_step = counting


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(at: int) -> None:
    """Kill this process within the k-th write or copy of a checkpoint, when half of it is there."""
    from fsspec.implementations.local import LocalFileOpener

    write, send, left = LocalFileOpener.write, os.sendfile, [at]

    def is_due(path: str) -> bool:
        left[0] -= path.endswith(".ckpt")
        return left[0] == 0

    def half_written(self: LocalFileOpener, data: bytes, *more: object) -> object:
        if is_due(self.path):
            write(self, memoryview(data)[: len(data) // 2])
            self.f.flush()
            kill()
        return write(self, data, *more)

    def half_sent(target: int, source: int, offset: int, count: int) -> int:
        # What moves a file from one file system to another
        if offset == 0 and is_due(os.readlink(f"/proc/self/fd/{target}")):
            send(target, source, 0, os.fstat(source).st_size // 2)
            kill()
        return send(target, source, offset, count)

    LocalFileOpener.write, os.sendfile = half_written, half_sent


def fill_in_save(at: int) -> None:
    """Let the disk be full from the k-th write of a checkpoint on."""
    from fsspec.implementations.local import LocalFileOpener

    write, left = LocalFileOpener.write, [at]

    def filled(self: LocalFileOpener, data: bytes, *more: object) -> object:
        left[0] -= self.path.endswith(".ckpt")
        if at and left[0] <= 0:
            write(self, memoryview(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data, *more)

    LocalFileOpener.write = filled
