"""The one door to the terminal: what is said, once per run and not once per process, and how far a long pass is."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SECONDS_BETWEEN_LINES = 10


def is_main_process() -> bool:
    """Return whether this is the first of the processes of a run."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0) == 0


def say(*lines: object) -> None:
    """Print lines, each object on its own, from the main process only."""
    if is_main_process():
        print(*lines, sep="\n", flush=True)


def show_metrics(metrics: Mapping[str, float], folder: Path) -> None:
    """Print metrics, and in the last line where everything lies."""
    for name, value in sorted(metrics.items()):
        say(f"{name:<20} {value:.4f}" if isinstance(value, float) else f"{name:<20} {value:,}")
    say(folder)


@contextmanager
def report_only(what: str) -> Iterator[None]:
    """Keep a finished run finished whatever becomes of what is only shown of it, and say what went wrong."""
    try:
        yield
    except Exception as error:
        say(f"{what} could not be made: {type(error).__name__}: {error}")


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with each number of pictures done; shows pictures per second and the remaining time."""
    show = _bar if sys.stdout.isatty() else _lines
    with show(total) as advance:
        yield advance


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[speed]:,.0f} pictures/s")
    started = time.monotonic()
    with Progress(TextColumn("features"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn()) as shown:
        task = shown.add_task("", total=total, speed=0.0)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            shown.update(task, advance=count, speed=done / max(time.monotonic() - started, 1e-3))

        yield advance


@contextmanager
def _lines(total: int) -> Iterator[Callable[[int], None]]:
    started = shown = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        if time.monotonic() - shown >= _SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            speed = done / (shown - started)
            left = (total - done) / speed
            print(f"features: {done:,} of {total:,}, {speed:,.0f} pictures/s, {left:,.0f} s left", flush=True)

    yield advance
    seconds = max(time.monotonic() - started, 1e-3)
    print(f"features: {done:,} pictures in {seconds:.1f} s, {done / seconds:,.0f} pictures/s", flush=True)
