"""Programs that start at once: forks of one process that has imported torch and tlearn, and runs nothing itself."""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path

from tests.conftest import REPOSITORY

# As the programs there have it; the server imports this file, too.
sys.path.append(str(REPOSITORY / "benchmarks"))
from reliability_parts import forks
from reliability_parts.forks import left as left
from reliability_parts.moments import Moment as Moment

for late in ("tlearn.train", "tlearn.predict", "tlearn.evaluate", *forks.LATE):
    importlib.import_module(late)

# Whatever takes longer is stuck.
_SECONDS = 120


def server() -> ForkServerContext:
    """Return what starts processes as forks of one that has done what every run does first."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.preloaded"])
    return found


class Running:
    """A program that runs as if started by a user from another folder, and leads a group of its own."""

    def __init__(
        self, name: str, *arguments: str, cwd: Path, prepare: Callable[[], object] = bool, **environment: str
    ) -> None:
        self.output = cwd.with_name(f"{cwd.name}_output_{time.monotonic_ns()}.txt")
        self._process = server().Process(
            target=_run, args=(f"tlearn.{name}", arguments, self.output, {**os.environ, **environment}, cwd, prepare)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def said(self) -> str:
        """Return what it has printed, to either stream."""
        return self.output.read_text(encoding="utf-8") if self.output.exists() else ""

    def wait_for(self, words: str) -> None:
        """Wait until it has printed something; kill it where it does not."""
        end = time.monotonic() + _SECONDS
        while words not in self.said():
            if time.monotonic() > end or not self._process.is_alive():
                self._kill()
                raise AssertionError(self.said())
            time.sleep(0.05)

    def end(self) -> int:
        """Return the exit status, negative for a signal; kill it with its group where it does not end."""
        self._process.join(_SECONDS)
        if self._process.exitcode is None:
            self._kill()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()


def ranks(count: int) -> list[dict[str, str]]:
    """Return what torchrun would tell each of several processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    told |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
    told |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": "0"}
    return [{**told, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def run_ranks(name: str, *arguments: str, cwd: Path, prepare: Callable[[], object] = bool) -> list[int]:
    """Run a program in two processes, and return their exit statuses."""
    started = [Running(name, *arguments, cwd=cwd, prepare=prepare, **told) for told in ranks(2)]
    statuses = [one.end() for one in started]
    for one in started:
        sys.stdout.write(one.said())
    return statuses


def _run(
    program: str,
    arguments: tuple[str, ...],
    output: Path,
    environment: dict[str, str],
    cwd: Path,
    prepare: Callable[[], object],
) -> None:
    # The server's are those of the test that started it.
    os.environ.clear()
    os.chdir(cwd)
    forks.become(importlib.import_module(program).main, [program, *arguments], output, environment, prepare)
