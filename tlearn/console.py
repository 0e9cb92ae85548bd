"""The one door to the terminal and to the log file of a run: printed once per run, not once per process.

`say` prints lines for people and `answer` lines for scripts, both to standard output; `warn` prints to standard error
where the run continues, `complain` where it ends. During a `session`, a log file keeps all of them.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from tlearn.launch import launch

_LOG = logging.getLogger("tlearn")
_LOG.setLevel(logging.INFO)
# Otherwise a handler of the root logger would print every line twice.
_LOG.propagate = False
# Without a handler, Python prints warnings by itself.
_LOG.addHandler(logging.NullHandler())
# Loggers of libraries whose messages the log file keeps
_LIBRARIES = ("lightning.pytorch", "lightning.fabric", "torch")
# Records of a log file, and what begins each, with the name of the error that ended a run
_FORMAT = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
_RECORDS = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?:ERROR +ended by (\w+))?", re.MULTILINE)
_quiet = False
# What a terminal obeys instead of showing it, or by which it shows a text in another order; names can hold it.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def is_main_process() -> bool:
    """Return whether this is the main process (rank 0) of a run."""
    started = launch()
    # Lightning tells further processes, which inherit all else.
    ranks = [started.rank] if started else [int(os.environ.get(name, 0)) for name in ("NODE_RANK", "LOCAL_RANK")]
    return not any(ranks)


@contextmanager
def session(log: Path | None = None, *, quiet: bool = False) -> Iterator[None]:
    """Send console output of the block to a log file, too, or silence it.

    Args:
        log: a file that it is appended to, with the time and level of each line, warnings of all libraries and the
            traceback of an error that ends the block; written by the main process alone.
        quiet: print answers, warnings and errors only.
    """
    global _quiet
    before, _quiet = _quiet, quiet
    try:
        if log is None or not is_main_process():
            yield
        else:
            with _recorded(log):
                yield
    finally:
        _quiet = before


@contextmanager
def _recorded(log: Path) -> Iterator[None]:
    """Append console output, warnings and the final error of the block to a log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_FORMAT)
    loggers, show_warning = [_LOG, *map(logging.getLogger, _LIBRARIES)], warnings.showwarning

    def record_warning(message: Any, category: type[Warning], filename: str, lineno: int, *more: Any) -> None:
        _LOG.warning(f"{filename}:{lineno}: {category.__name__}: {message}")
        show_warning(message, category, filename, lineno, *more)

    for logger in loggers:
        logger.addHandler(handler)
    warnings.showwarning = record_warning  # type: ignore[assignment]
    try:
        yield
    except BaseException as error:
        _LOG.error(f"ended by {type(error).__name__}", exc_info=True)
        raise
    finally:
        warnings.showwarning = show_warning
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def ended_by(log: Path) -> str:
    """Return the name of the error that a log ends with; nothing where it ends otherwise, or cannot be read."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "".join(_RECORDS.findall(text)[-1:])


class _LogFile(logging.FileHandler):
    """A log file handler that warns once if it cannot write: a run does not fail because of its log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        self.setLevel(logging.CRITICAL + 1)
        warn(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}")

    def close(self) -> None:
        # An earlier write has failed, and so would this one.
        with suppress(OSError):
            super().close()


def say(*lines: object) -> None:
    """Print lines for people, one per object, unless the session is quiet."""
    if is_main_process():
        _put(logging.INFO, lines, None if _quiet else sys.stdout)


def answer(*lines: object) -> None:
    """Print lines for scripts, also in a quiet session."""
    if is_main_process():
        _put(logging.INFO, lines, sys.stdout)


def warn(*lines: object, trace: bool = False) -> None:
    """Print warnings on standard error; the run continues.

    `trace` adds the traceback of the current error to the log file.
    """
    if is_main_process():
        _put(logging.WARNING, lines, sys.stderr, trace)


def complain(*lines: object) -> None:
    """Print errors that end this process on standard error, whichever process it is."""
    _put(logging.ERROR, lines, sys.stderr)


def _put(level: int, lines: Sequence[object], stream: TextIO | None, trace: bool = False) -> None:
    if not lines:
        return
    # Names of files need not be text, which neither every terminal nor a notebook takes.
    text = "\n".join(map(str, lines)).encode("utf-8", "backslashreplace").decode("utf-8")
    text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    _LOG.log(level, text, exc_info=trace)
    if stream is not None:
        print(text, file=stream, flush=True)


def short(value: float) -> str:
    """Format a number with four digits."""
    return f"{value:.{max(0, 4 - len(str(int(abs(value)))))}f}" if abs(value) < 1e5 else f"{value:.3g}"


def percent(share: float) -> str:
    """Format a fraction as percent."""
    return f"{100 * share:.1f} %" if share < 1 else "100 %"


def measured(name: str, value: float) -> str:
    """Format a metric with its name: `top-1 86.8 %`, `loss 0.412`."""
    return f"top-{name[3:]} {percent(value)}" if re.fullmatch(r"top\d+", name) else f"{name} {short(value)}"


def duration(seconds: float) -> str:
    """Format a duration with a sensible number of digits."""
    return f"{seconds:.{int(seconds < 100)}f} s" if seconds < 1000 else f"{seconds / 60:.0f} min"


@contextmanager
def to_stderr() -> Iterator[None]:
    """Redirect standard output to standard error, also for libraries and child processes."""
    stdout, number = sys.stdout, os.dup(1)
    stdout.flush()
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        stdout.flush()
        os.dup2(number, 1)
        os.close(number)


@contextmanager
def report_only(what: str) -> Iterator[None]:
    """Turn an error in reporting into a warning: a finished run must not fail because of its report."""
    try:
        yield
    except Exception as error:
        warn(f"{what} could not be made: {type(error).__name__}: {error}", trace=True)


def can_redraw() -> bool:
    """Return whether a bar can move: not in a pipe, a file, a notebook, or a terminal that cannot go back."""
    return is_main_process() and not _quiet and is_terminal() and os.environ.get("TERM") not in ("dumb", "unknown")


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()
