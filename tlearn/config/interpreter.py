"""Interpreter settings during a program, restored afterwards, and the exit of a process of its own."""

import atexit
import gc
import os
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import NoReturn

# Modules that only a notebook, a debugger or a profiler loads
_OBSERVERS = ("IPython", "bdb", "pydevd", "debugpy", "coverage")
_VARIABLES = ("HYDRA_FULL_ERROR", "OMP_WAIT_POLICY", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
# Arguments, folder, random numbers and the like are the whole process': programs of several threads take turns.
_TURN = threading.RLock()


@contextmanager
def borrowed_interpreter(arguments: Sequence[str] | None) -> Iterator[None]:
    """Set up the interpreter for a program and restore it afterwards, as a notebook continues in it.

    Args:
        arguments: replace those of the command line while the program runs; None keeps them.
    """
    with _TURN, _random_numbers(), _surroundings(arguments):
        yield


@contextmanager
def _random_numbers() -> Iterator[None]:
    """Put back the random numbers that a run seeds: the caller's own search would draw the same ones after each run."""
    # What is not loaded has drawn nothing for the caller.
    numpy, torch, before = sys.modules.get("numpy"), sys.modules.get("torch"), random.getstate()
    of_numpy = numpy and numpy.random.get_state()
    of_torch = torch and torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(before)
        if numpy:
            numpy.random.set_state(of_numpy)
        if torch:
            torch.set_rng_state(of_torch)
        for index, state in enumerate(of_gpus):
            torch.cuda.set_rng_state(state, index)  # type: ignore[union-attr]


@contextmanager
def _surroundings(arguments: Sequence[str] | None) -> Iterator[None]:
    argv, threshold, asked = sys.argv, gc.get_threshold(), {name: os.environ.get(name) for name in _VARIABLES}
    tell = threading.excepthook

    def tell_once(failed: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread keeps its error, which ends the run where that next writes.
        if getattr(failed.thread, "exception", None) is not failed.exc_value:
            tell(failed)

    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    encodings = [stream.errors for stream in streams]
    try:
        cwd = os.getcwd()
    except OSError:
        # It was removed.
        cwd = None
    try:
        sys.argv = [*argv[:1], *(argv[1:] if arguments is None else arguments)]
        # Importing torch creates a million objects and no garbage, yet the collector would run hundreds of times.
        gc.set_threshold(100_000, 20, 20)
        threading.excepthook = tell_once
        for stream in streams:
            # File names need not be text in the terminal's encoding.
            stream.reconfigure(errors="backslashreplace")
        # Set before torch is loaded: math threads that wait in a busy loop take CPUs from loader workers and others.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with _importable(cwd):
            yield
    finally:
        sys.argv = argv
        gc.set_threshold(*threshold)
        threading.excepthook = tell
        for stream, errors in zip(streams, encodings, strict=True):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors=errors)
        for name, value in asked.items():
            _set_variable(name, value)
        if cwd is not None:
            with suppress(OSError):
                os.chdir(cwd)


@contextmanager
def _importable(folder: str | None) -> Iterator[None]:
    """Let code be imported from the working folder, as `python -m` does and a console program does not.

    It comes last, so that no file in it takes the place of a library. A notebook's empty entry, which stands for it, is
    made definite: a resumed run takes the process to another folder, which may be somebody else's.
    """
    path = list(sys.path)
    if folder is not None:
        sys.path[:] = [entry or folder for entry in path]
        if folder not in sys.path and not sys.flags.safe_path:
            sys.path.append(folder)
    try:
        yield
    finally:
        sys.path[:] = [*path, *(entry for entry in sys.path if entry not in (*path, folder))]


@contextmanager
def variable(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable during the block; None unsets it."""
    before = os.environ.get(name)
    try:
        _set_variable(name, value)
        yield
    finally:
        _set_variable(name, before)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def end_process(status: int) -> NoReturn:
    """End a program's own process without deleting objects one by one: 0.08 s after help, a second with torch."""
    if is_observed():
        sys.exit(status)
    # As at interpreter shutdown: wait for threads, then run the registered exit functions.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # Closed, or none at all
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def is_observed() -> bool:
    """Return whether a notebook, a debugger or a profiler may still have work to do when a program has ended."""
    # Python 3.12 and later have another interface for them.
    monitoring = getattr(sys, "monitoring", None)
    watched = monitoring is not None and any(monitoring.get_tool(number) for number in range(6))
    hooked = bool(watched or sys.getprofile() or sys.gettrace() or any(name in sys.modules for name in _OBSERVERS))
    return hooked or not _started_alone()


def _started_alone() -> bool:
    """Return whether a program of tlearn is what was started, and not what runs it (`python -m cProfile -m ...`)."""
    for argument, following in pairwise([*sys.orig_argv[1:], ""]):
        if argument == "-m":
            return following.startswith("tlearn.")
        if not argument.startswith("-"):
            return os.path.basename(argument).startswith("tlearn-")
    return False
