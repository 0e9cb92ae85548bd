"""R3: signals at any time, to a process or all of its group: status, time, what is left, and going on."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reliability_parts import forks, plain
from reliability_parts.forks import readable
from reliability_parts.moments import Moment
from reliability_parts.row import PLAIN, Options, Outcome, Row
from reliability_parts.runs import KINDS, Place, difference, draw, result
from reliability_parts.sweeps import table

ROW = Row(
    "R3",
    "signals with a wrong end",
    "SIGINT, SIGTERM or SIGHUP, to the process or its group, when a run tells that a drawn moment of extraction, "
    "training (two loader workers), evaluation, training under DDP (two processes) or a sweep has come. A fault: a "
    "status other than 130, 143 or 129 within 10 s, a trace, a process that still runs then, a run or sweep that "
    "cannot go on, or another result in the end than without the signal.",
)
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORKERS = "data.num_workers=2"
# Part of a run, its moments from which one is drawn, and settings; how many of 100 cases
PARTS: dict[str, tuple[str, int, Sequence[str], int]] = {
    "extraction": ("extraction", 6, (*KINDS["cached"], WORKERS), 24),
    "training": ("training", 40, (*KINDS["on the fly"], WORKERS), 30),
    "evaluation": ("evaluation", 4, (*KINDS["on the fly"], WORKERS), 20),
    "ddp": ("training", 20, (*KINDS["on the fly"], "trainer=ddp_cpu"), 12),
    "sweep": ("training", 40, KINDS["on the fly"], 14),
}
LIMIT_SECONDS = 10


def run(options: Options) -> Iterator[Outcome]:
    """Send signals to runs."""
    images = draw(options.folder / "images", options.seed)
    total = sum(count for *_, count in PARTS.values())
    for name, (part, most, more, count) in PARTS.items():
        share = options.cases(total, len(PARTS)) * count / total
        cases = [f"{name}-{index}" for index in range(max(1, round(share)))]
        if not any(map(options.wants, cases)):
            continue
        straight = Straight(options, images, name, more)
        for case in filter(options.wants, cases):
            place = Place(options.folder / case, images)
            random = options.random(case)
            moment = Moment(part, random.randint(1, most))
            number, to_group = random.choice(NUMBERS), random.random() < 0.5
            while (fault := straight.signalled(place, moment, number, to_group)) is None:
                # The run had ended before this moment.
                shutil.rmtree(place.folder, ignore_errors=True)
                moment = Moment(part, moment.at // 2)
            yield Outcome(case, fault and f"{number.name} at {part} {moment.at}: {fault}", name)
            shutil.rmtree(place.folder, ignore_errors=True)
    yield from plain_signals(options, images)


class Straight:
    """A run or a sweep without a signal, which others end as.

    Args:
        name: one of PARTS.
        more: its settings.
    """

    def __init__(self, options: Options, images: Path, name: str, more: Sequence[str]) -> None:
        self.is_sweep, self.more = name == "sweep", [*more, f"seed={options.seed}"]
        place = Place(options.folder / f"straight_{name}", images)
        running = place.start(self.arguments(place))
        if running.wait() != 0:
            raise RuntimeError(f"the run without a signal failed: {running.said()}")
        self.expected = self.found(place)

    def arguments(self, place: Place) -> list[str]:
        """Return the command line at a place."""
        given = place.arguments(*self.more)
        if not self.is_sweep:
            return given
        return ["-m", *given[:-1], "optimizer.lr=0.01,0.02", f"hydra.sweep.dir='{place.run}'"]

    def found(self, place: Place) -> dict[str, str]:
        """Return what a run, or a sweep, has come to."""
        return table(place.run) if self.is_sweep else result(place.run)

    def signalled(self, place: Place, moment: Moment, number: int, to_group: bool) -> str | None:
        """Send a signal at a moment, and let the run go on; return what is wrong, or None where that never comes."""
        arguments = self.arguments(place)
        running, told = start_telling(place, arguments, moment)
        has_come = readable(told, forks.LIMIT_SECONDS) and os.read(told, 1) != b""
        if has_come:
            running.signal(number, to_group)
        os.close(told)
        started = time.monotonic()
        status = running.wait(LIMIT_SECONDS)
        if status == 0 and not has_come:
            return None
        fault = self.judged(running, status, number)
        while forks.left(running.pid) and time.monotonic() - started < LIMIT_SECONDS:
            time.sleep(0.1)
        if remaining := forks.left(running.pid):
            running.signal(signal.SIGKILL, to_group=True)
            return fault or f"left running: {remaining[0][:60]}"
        if fault:
            return fault
        if self.is_sweep:
            again = place.start(arguments)
            fault = "" if again.wait() == 0 else f"status {again.status} when it went on: {again.error()}"
            return fault or ("" if self.found(place) == self.expected else "another table")
        return place.go_on(arguments) or difference(place.run, self.expected)

    def judged(self, running: forks.Started, status: int | None, number: int) -> str:
        """Return what is wrong with the end of a run."""
        if status is None:
            return f"did not end within {LIMIT_SECONDS} s"
        if "Traceback" in running.said():
            return f"a trace: {running.last_line()}"
        return "" if status == 128 + number else f"status {status}: {running.last_line()}"


def start_telling(place: Place, arguments: Sequence[str], moment: Moment) -> tuple[forks.Started, int]:
    """Start a run, and return a descriptor that can be read when its moment has come, or it has ended."""
    told, tells = os.pipe()
    act = lambda: os.write(tells, b"1")  # noqa: E731
    running = place.start(arguments, Moment(moment.part, moment.at, act).install)
    os.close(tells)
    return running, told


def plain_signals(options: Options, images: Path) -> Iterator[Outcome]:
    """Send signals to the plain program at a step of its second epoch, and let it go on."""
    for index in range(1 if options.short else 6):
        name = f"plain-{index}"
        if not options.wants(name):
            continue
        place, number = Place(options.folder / name, images), NUMBERS[index % 3]
        told, tells = os.pipe()
        act: Callable[[], object] = lambda tells=tells: os.write(tells, b"1")  # noqa: E731
        given = plain.arguments(place, "workers=2", f"seed={options.seed}")
        running = plain.start(place, given, lambda act=act: plain.at_step(6, act))
        os.close(tells)
        readable(told, forks.LIMIT_SECONDS)
        os.close(told)
        running.signal(number, to_group=True)
        status = running.wait(LIMIT_SECONDS)
        fault = "" if status == 128 + number else f"status {status} at {number.name}"
        yield Outcome(name, fault, "plain", PLAIN)
        running.signal(signal.SIGKILL, to_group=True)
        shutil.rmtree(place.folder, ignore_errors=True)
