"""R10: sweeps of 50 trials of which 10 fail, ended by a signal and by a kill, and continued each time."""

import math
import signal
from collections.abc import Iterator
from pathlib import Path

from reliability_parts import forks, plain
from reliability_parts.moments import Moment
from reliability_parts.row import PLAIN, Options, Outcome, Row
from reliability_parts.runs import Place, draw
from reliability_parts.sweeps import rows

ROW = Row(
    "R10",
    "trials of a sweep without a right row",
    "Two sweeps over learning rates, of which a fifth are none (negative, not a number, too large: three kinds of "
    "error): in one the trials train together, in the other one after another. Each is ended by SIGTERM in a trial, "
    "continued, killed within another, and continued to its end (status 7). A fault: a trial without a row or with a "
    "wrong status in results.csv, a finished one that ran again, a row without its metrics.",
)
# Of fifty trials on a busy machine
LIMIT_SECONDS = 900
# Moments that the first signal, and then the kill, may wait for, in numbers of trials: a trial of its own has about
# fifteen of them, and four of five trials train; one that trains with the others has two.
MOMENTS = {"together": ("batched", 1.0, 0.5), "training": ("basic", 5.0, 5.0)}


def run(options: Options) -> Iterator[Outcome]:
    """Sweep in both ways, then look at the plain program."""
    images = draw(options.folder / "images", options.seed)
    for part in MOMENTS:
        yield from ended_twice(part, options, images)
    yield from plain_sweep(options, images)


def ended_twice(part: str, options: Options, images: Path) -> Iterator[Outcome]:
    """Sweep, end the sweep twice, and look at each trial."""
    launcher, *trials = MOMENTS[part]
    count = options.cases(50, 6)
    # Replays are of the whole sweep.
    place, random = Place(options.folder / part, images), options.random(part)
    failing = set(random.sample(range(count), count // 5))
    rates = [bad_rate(number) if number in failing else f"{0.01 + number / 1000:.3f}" for number in range(count)]
    given = place.arguments("features=auto", f"seed={options.seed}", "trainer.max_epochs=1")[:-1]
    places = (f"hydra/launcher={launcher}", f"hydra.sweep.dir='{place.run}'")
    command = ["-m", *given, f"optimizer.lr={','.join(rates)}", *places]
    moments = [random.randint(1, int(share * count)) for share in trials]
    first = Moment(part, moments[0], lambda: signal.raise_signal(signal.SIGTERM))
    ended = place.start(command, first.install)
    faults = [] if ended.wait(LIMIT_SECONDS) == 143 else [f"status {ended.status} at SIGTERM: {ended.last_line()}"]
    done = finished(place.run)
    killed = place.start(command, Moment(part, moments[1]).install)
    if killed.wait(LIMIT_SECONDS) != -signal.SIGKILL:
        faults.append(f"status {killed.status} at SIGKILL: {killed.last_line()}")
    done |= finished(place.run)
    last = place.start(command)
    faults += [] if last.wait(LIMIT_SECONDS) == 7 else [f"status {last.status} in the end: {last.last_line()}"]
    yield Outcome(f"{launcher}: statuses", "; ".join(faults), f"{launcher}: statuses of three commands")
    table, again = {row["trial"]: row for row in rows(place.run)}, finished(place.run)
    for number in range(count):
        fault = judged(number in failing, table.get(str(number)), done, again, number)
        yield Outcome(f"{launcher}: trial {number}", fault, f"{launcher}: trials")


def bad_rate(number: int) -> str:
    """Return a learning rate that fails, another for each number."""
    return (f"-0.{number + 1}", f"rate{number}", f"1e{number + 38}")[number % 3]


def finished(folder: Path) -> dict[int, int]:
    """Return when each finished trial wrote its metrics, by its number."""
    return {int(path.parent.name): path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}


def judged(
    is_failing: bool, row: dict[str, str] | None, before: dict[int, int], after: dict[int, int], number: int
) -> str:
    """Return what is wrong with a trial."""
    if row is None:
        return "no row"
    if is_failing:
        return "" if row["status"].startswith("failed (") and row["error"] else f"{row['status']}: {row['error']}"
    if row["status"] != "done" or not math.isfinite(float(row["val/loss"] or "nan")):
        return f"{row['status']}, val/loss {row['val/loss']}: {row['error']}"
    return "ran again" if number in before and before[number] != after[number] else ""


def plain_sweep(options: Options, images: Path) -> Iterator[Outcome]:
    """Let Hydra sweep over the plain program, of whose trials a fifth fail, and end it by a signal."""
    count = 5
    place = Place(options.folder / "plain", images)
    given = [f"data='{images}'", "epochs=1", "lr=0.01,0.02,-1,0.03,0.04", f"hydra.sweep.dir='{place.run}'"]
    running: forks.Started = plain.start(
        place, ["-m", *given], lambda: plain.at_step(6, lambda: signal.raise_signal(signal.SIGTERM))
    )
    status = running.wait()
    recorded = [path for path in place.run.rglob("*.csv") if path.parent == place.run]
    for number in range(count):
        yield Outcome(f"plain {number}", "" if recorded else f"no row; status {status}", "plain", PLAIN)
