"""R1: runs that are killed anywhere and go on, beside the run that was not."""

import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reliability_parts import forks
from reliability_parts.moments import Moment, counts
from reliability_parts.plain import plain_kills
from reliability_parts.row import Options, Outcome, Row
from reliability_parts.runs import KINDS, PROGRAM, Place, difference, draw, result

ROW = Row(
    "R1",
    "killed runs that go on to another result",
    "SIGKILL of a training at a moment of extraction, training or evaluation that is drawn (a third of them after a "
    "drawn time, one of each kind in an interpreter of its own; a quarter is killed a second time), then `resume`, or "
    "the same command where there is no state yet. Compared with the run without interruption: SHA-256 of weights, "
    "optimizer, best weights, metrics.csv and metrics.json without times, splits.csv, and the names of checkpoints.",
)
CELLS = [(kind, workers) for kind in KINDS for workers in ((0,) if kind == "full batch" else (0, 2))]
# With workers, the harder half
SHORT = ("on the fly", "cached", "moved folder", "mid-epoch")
PER_CELL = 12
# Of torch, Lightning and tlearn, about
IMPORT_SECONDS = 3.0


@dataclass(frozen=True)
class Straight:
    """A run without interruption: its command line but for places, result, moments and seconds."""

    more: Sequence[str]
    result: dict[str, str]
    moments: dict[str, int]
    seconds: float


def run(options: Options) -> Iterator[Outcome]:
    """Kill runs of each cell."""
    images = draw(options.folder / "images", options.seed)
    tried = [cell for cell in CELLS if not options.short or (cell[0] in SHORT and cell[1])]
    per_cell, further = divmod(options.cases(PER_CELL * len(tried), len(tried)), len(tried))
    for number, (kind, workers) in enumerate(tried):
        cell = f"{kind}, workers {workers}"
        names = [f"{kind.replace(' ', '-')}-{workers}-{index}" for index in range(per_cell + (number < further))]
        if not any(map(options.wants, names)):
            continue
        straight = without_interruption(options, images, KINDS[kind], workers)
        for index, name in enumerate(names):
            if options.wants(name):
                place = Place(options.folder / name, images)
                yield Outcome(name, killed(options, name, index, place, straight), cell)
                shutil.rmtree(place.folder, ignore_errors=True)
    yield from plain_kills(options, images)


def without_interruption(options: Options, images: Path, kind: Sequence[str], workers: int) -> Straight:
    """Train without an interruption."""
    more = [*kind, f"data.num_workers={workers}", f"seed={options.seed}"]
    place = Place(options.folder / f"straight_{workers}", images)
    noted, started = place.folder / "moments.txt", time.monotonic()
    running = place.start(place.arguments(*more), Moment(counted=noted).install)
    if running.wait() != 0:
        raise RuntimeError(f"the run without interruption failed: {running.said()}")
    found = Straight(more, result(place.run), counts(noted), time.monotonic() - started)
    shutil.rmtree(place.folder)
    return found


def killed(options: Options, name: str, index: int, place: Place, straight: Straight) -> str:
    """Kill a run once or twice and let it go on; return what is wrong in the end."""
    random = options.random(name)
    arguments = place.arguments(*straight.more)
    for _ in range(1 if random.random() < 0.75 else 2):
        part = random.choices(list(straight.moments), list(straight.moments.values()))[0]
        if "cached" in name:
            part = random.choice(list(straight.moments))
        moment = Moment(part, random.randint(1, straight.moments[part]))
        given, share = place.going_on(arguments), random.uniform(0.2, 1.0)
        if index == 0 and not options.short:
            running = forks.start_fresh([PROGRAM, *given], place.folder / "output.txt", place.environment)
            kill_after(running, share * straight.seconds + IMPORT_SECONDS)
        elif index % 3 == 2:
            running = place.start(given, Moment().install)
            kill_after(running, share * straight.seconds)
        else:
            running = place.start(given, moment.install)
        if running.wait() not in (-signal.SIGKILL, 0):
            return f"status {running.status} before it was killed: {running.last_line()}"
        if "moved" in name:
            moved = place.run.with_name(f"{place.run.name}_moved")
            if place.run.exists():
                place.run.rename(moved)
            place.run = moved
            arguments = place.arguments(*straight.more)
    return place.go_on(arguments) or difference(place.run, straight.result)


def kill_after(running: forks.Started, seconds: float) -> None:
    """Kill a process if it still runs after a time, as the system does that lacks memory."""
    time.sleep(seconds)
    if running.poll() is None:
        running.signal(signal.SIGKILL)
