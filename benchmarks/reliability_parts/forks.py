"""Processes that start at once: forks of this one, which has imported torch and tlearn and runs nothing itself."""

import atexit
import gc
import importlib
import multiprocessing.util
import os
import selectors
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).parents[2]
# Whatever takes longer is stuck: a run here takes seconds.
LIMIT_SECONDS = 120.0
# What a run imports once it has begun
LATE = (
    *("tlearn.config.prepared", "tlearn.features.choose", "tlearn.report.after_training", "tlearn.training.best"),
    *("tlearn.config.tuning", "tlearn.config.evaluation", "tlearn.runs.record", "tlearn.sweeps.callback"),
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass
class Started:
    """A process of a program, which leads a group of its own, and the file of its output."""

    pid: int
    output: Path
    status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self, seconds: float = LIMIT_SECONDS) -> int | None:
        """Return the exit status, or None where it did not end in time and was killed with its group."""
        if self.status is not None:
            return self.status
        ended = os.pidfd_open(self.pid)
        try:
            if readable(ended, seconds):
                return self.poll()
        finally:
            os.close(ended)
        self.signal(signal.SIGKILL, to_group=True)
        os.waitpid(self.pid, 0)
        return None

    def signal(self, number: int, to_group: bool = False) -> None:
        """Send a signal, also to all that it has started and that did not leave its group."""
        with suppress(ProcessLookupError):
            (os.killpg if to_group else os.kill)(self.pid, number)

    def said(self) -> str:
        """Return what it has printed."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def last_line(self) -> str:
        """Return the last line that it has printed."""
        return next(reversed(self.said().strip().splitlines()), "")

    def error(self) -> str:
        """Return the last line that tells what went wrong, which need not be the last."""
        lines = [line for line in self.said().splitlines() if "error" in line.lower()]
        return next((line for line in reversed(lines) if "HYDRA_FULL_ERROR" not in line), self.last_line())


def readable(descriptor: int, seconds: float) -> bool:
    """Wait until a descriptor can be read; return whether it can."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def start(
    program: str,
    arguments: Sequence[str],
    output: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], object] | None = None,
) -> Started:
    """Start a program in a fork of this process, which is as a fresh one to signals and to itself.

    Args:
        program: a module with `main()`, which returns the exit status.
        arguments: its command line.
        output: a file for what it prints.
        environment: variables besides those of this process.
        prepare: called in the new process before the program.
    """
    module = importlib.import_module(program)
    for name in LATE:
        importlib.import_module(name)
    # A lock that a thread holds would stay locked in the fork.
    assert len(os.listdir("/proc/self/task")) == 1
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        become(module.main, [program, *arguments], output, environment, prepare)
    return Started(pid, output)


def become(
    main: Callable[[], int | None],
    command: list[str],
    output: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], object] | None,
) -> NoReturn:
    """Run a program in this process, a fork, as in one of its own, and end; see `start`."""
    status = 99
    try:
        os.setsid()
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for number in (1, 2):
            os.dup2(written, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in _SIGNALS:
            # What this process ignores, because a shell started it in the background, would be ignored there.
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.update(environment)
        tempfile.tempdir = None
        # Those of the process that was forked are not this one's.
        atexit._clear()
        atexit.register(multiprocessing.util._exit_function)
        gc.unfreeze()
        sys.argv, sys.orig_argv = command, [sys.executable, "-m", *command]
        if prepare is not None:
            prepare()
        if command[0].startswith("tlearn."):
            sys.modules[command[0]].script()
        status = main() or 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def start_fresh(arguments: Sequence[str], output: Path, environment: Mapping[str, str]) -> Started:
    """Start `python -m` with arguments in a process that shares nothing with this one."""
    imports = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    with output.open("ab") as file:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", *arguments],
            {**os.environ, "PYTHONPATH": imports, **environment},
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), number) for number in (1, 2)],
            setsid=True,
            setsigdef=_SIGNALS,
        )
    return Started(pid, output)


def left(session: int) -> list[str]:
    """Return the command lines of what still runs in the session that a process has led."""
    found = []
    for path in Path("/proc").iterdir():
        with suppress(OSError):
            if path.name.isdecimal():
                # After the name, which can hold anything: state, parent, group, session
                state, _, _, number = (path / "stat").read_text().rpartition(") ")[2].split()[:4]
                if int(number) == session and state != "Z":
                    found.append((path / "cmdline").read_text().replace("\0", " ").strip())
    return found
