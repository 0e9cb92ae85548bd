"""Tables and progress bars on the terminal, drawn by rich."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tlearn.console import can_redraw, is_terminal, say

_SECONDS_BETWEEN_LINES = 10


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: int = 0) -> None:
    """Print a table with column names, numbers right-aligned.

    On a narrow terminal, first some of the last `spare` columns are left out, then texts are truncated, never numbers.
    """

    def cell_text(text: str) -> Text:
        printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
        return Text(printable, no_wrap=True, overflow="ellipsis")

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for name, *cells in zip(columns, *rows, strict=True):
        numbers = bool(rows) and not any(cell.strip("0123456789.,-+%e ") for cell in cells)
        # Rich narrows the widest of the columns that may wrap; their cells are truncated instead.
        table.add_column(cell_text(name), justify="right" if numbers else "left", no_wrap=numbers)
    for row in rows:
        table.add_row(*map(cell_text, row))
    width = shutil.get_terminal_size().columns if is_terminal() else sys.maxsize
    console = Console(width=width, color_system=None, force_terminal=False)
    while spare and console.measure(table, options=console.options.update(width=sys.maxsize)).maximum > width:
        table.columns, spare = table.columns[:-1], spare - 1
    with console.capture() as captured:
        console.print(table)
    say(*(line.rstrip() for line in captured.get().splitlines()))


class Bar:
    """A progress bar on a terminal, nothing elsewhere; it is removed when stopped."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def start(self, label: str, total: float, done: int = 0) -> None:
        """Start, or restart with another description; `total` may be infinite."""
        if not can_redraw():
            return
        self.stop()
        self._progress = _new_progress()
        self._progress.add_task(label, total=total if total < float("inf") else None, completed=done, note=str)
        self._progress.start()

    def advance(self, count: int = 1, note: Callable[[], str] = str) -> None:
        """Count what is done; `note` is called for a text beside the bar when it is drawn, a few times a second."""
        if self._progress is not None:
            [task] = self._progress.task_ids
            self._progress.update(task, advance=count, note=note)

    def stop(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Note(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return the text beside the bar."""
        return Text(task.fields["note"]())


def _new_progress() -> Progress:
    # Output meanwhile passes through rich, which would break long paths at the width of the terminal.
    console = Console(file=sys.stdout, soft_wrap=True)
    label = TextColumn("{task.description}", markup=False)
    columns = (label, BarColumn(20), MofNCompleteColumn(), _Note(), TimeRemainingColumn(compact=True))
    # Standard error is not redirected unless it is a terminal.
    onto = sys.stderr.isatty()
    return Progress(*columns, console=console, transient=True, redirect_stderr=onto, refresh_per_second=5)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of a pass over images: a bar or occasional lines, and a final line with the speed.

    Yields a function to call with the number of images just done.
    """
    bar, done = Bar(), 0
    started = shown = time.monotonic()
    moving = can_redraw()

    def speed() -> float:
        return done / max(time.monotonic() - started, 1e-3)

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        bar.advance(count, lambda: f"{speed():,.0f} images/s")
        if not moving and time.monotonic() - shown >= _SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            left = (total - done) / speed()
            say(f"{label}: {done:,} of {total:,} images, {speed():,.0f} images/s, {left:,.0f} s left")

    bar.start(label, total)
    try:
        yield advance
    finally:
        bar.stop()
    say(f"{label}: {done:,} images in {time.monotonic() - started:.1f} s, {speed():,.0f} images/s")
