"""Signals that end a run: a fit finishes its step and saves its state first, and a second signal ends it at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tlearn.data.workers import leave_signals

# Ctrl-C, the end of a job, and a terminal that was closed; Windows has no SIGHUP.
_STOPPING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
# Asks to save and go on
_SAVING = getattr(signal, "SIGUSR1", None)
# A job of a cluster is killed soon after the signal.
_PATIENCE_SECONDS = 5
# Between two looks of a further process at the one that started it
_LOOK_SECONDS = 1.0
# Names, to a further process of a run, the one that started it
PARENT = "TLEARN_PARENT"


class Stopped(BaseException):
    """A run was ended by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """What has arrived in this process during one program."""

    def __init__(self) -> None:
        self.stopping, self.saving, self.since = 0, False, 0.0
        # Whether a fit looks at them between its steps
        self.is_awaited = False
        # Queues a job of SLURM again; None elsewhere
        self.requeue: Callable[[], None] | None = None

    def stop(self, number: int, frame: Any) -> None:
        """Leave the end to a fit, once; otherwise end what runs."""
        is_first, self.stopping, self.since = not self.stopping, number, time.monotonic()
        if not (is_first and self.is_awaited):
            raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)

    def save(self, number: int, frame: Any) -> None:
        """Leave the saving to a fit; outside of one, everything is on the disk, and a job of SLURM is queued again."""
        if self.is_awaited or self.requeue is None:
            self.saving = True
        else:
            self.requeue()

    def handle(self) -> None:
        """Take the signals, also from a library that has taken them since."""
        for number in _STOPPING:
            # What is ignored stays ignored: by nohup, and by a shell for what runs in the background.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.stop)
        if _SAVING is not None:
            signal.signal(_SAVING, self.save)


_current: _Signals | None = None


@contextmanager
def stoppable() -> Iterator[None]:
    """Let signals end the program of this block in order; handlers belong to the main thread alone."""
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    if _is_further_process():
        leave_signals()
        threading.Thread(target=_end_with, args=(int(os.environ[PARENT]),), daemon=True).start()
        yield
        return
    before = {number: signal.getsignal(number) for number in (*_STOPPING, _SAVING) if number is not None}
    _current = _Signals()
    _current.handle()
    try:
        yield
    finally:
        _current = None
        for number, handler in before.items():
            # None: not installed from Python
            if handler is not None:
                signal.signal(number, handler)


def _is_further_process() -> bool:
    """Return whether another process of the run has started this one, and decides for both; also one that is gone."""
    parent = os.environ.get(PARENT)
    return parent is not None and (int(parent) == os.getppid() or _is_gone(int(parent)))


def _is_gone(process: int) -> bool:
    # On Windows it would be a signal, and processes keep their parent.
    if os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    # Refused for another user's, which is there
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    # One that was killed is there until its own parent asks how it ended.
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2].startswith(b"Z")
    return False


def _end_with(parent: int) -> None:
    """End this process when the one that started it was killed: on NCCL it would wait for it, and hold a GPU."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def stopping_signal() -> int:
    """Return the signal that ends the program, or 0."""
    return _current.stopping if _current else 0


def keep_signals(trainer: Any) -> None:
    """Keep the signals when a Trainer starts: Lightning's handler of SIGTERM waits for other processes, which hang."""
    # At every batch, all processes would wait for their GPUs to hear whether that handler has seen a signal.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    connector = trainer._signal_connector
    register = connector.register_signal_handlers
    # Lightning leaves queueing out where the signal has a handler already.
    if _current is not None and getattr(trainer._accelerator_connector.cluster_environment, "auto_requeue", False):
        _current.requeue = partial(_queue_again, trainer)

    def registered() -> None:
        register()
        if _is_further_process():
            leave_signals()
        elif _current is not None and threading.current_thread() is threading.main_thread():
            _current.handle()

    connector.register_signal_handlers = registered


def _queue_again(trainer: Any) -> None:
    """Let Lightning queue a job of SLURM again; what it would save is on the disk, and its loggers are still needed."""
    loggers, trainer.loggers = trainer.loggers, []
    trainer.save_checkpoint = lambda path: None
    try:
        trainer._signal_connector._slurm_sigusr_handler_fn(_SAVING, None)
    finally:
        trainer.loggers = loggers
        del trainer.save_checkpoint


def await_signals(is_awaited: bool) -> None:
    """Say whether a fit looks at the signals between its steps, by `stopping_signal` and `saving_asked`."""
    if _current is not None:
        _current.is_awaited = is_awaited
        if not is_awaited and _current.saving:
            # It came after the last state of the fit.
            saved()


def saving_asked() -> bool:
    """Return whether a signal has asked to save."""
    return _current is not None and _current.saving


def saved() -> None:
    """Note that what a signal asked for is on the disk; queue a job of SLURM again."""
    if _current is None:
        return
    _current.saving = False
    if _current.requeue is not None:
        _current.requeue()


def stop_late() -> None:
    """End a validation that has not ended within seconds of a signal."""
    if _current is not None and _current.stopping and time.monotonic() - _current.since > _PATIENCE_SECONDS:
        raise Stopped(_current.stopping)
