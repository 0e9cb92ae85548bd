"""R2: kills in the middle of saving a checkpoint, on the system's file system and another."""

import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from reliability_parts import plain
from reliability_parts.disk import Fault, steps
from reliability_parts.row import PLAIN, Options, Outcome, Row
from reliability_parts.runs import KINDS, Place, difference, draw, result

ROW = Row(
    "R2",
    "runs lost or stuck after a kill while they saved",
    "SIGKILL at a drawn write (of which half is on the disk), fsync or replacement of a checkpoint, of all that a run "
    "takes which saves before each batch; half of the run folders are on another file system than the temporary files. "
    "Then `resume`, or the same command where there is no state yet; compared as in R1.",
)
ELSEWHERE = Path("/dev/shm")
PER_PLACE = 100


def run(options: Options) -> Iterator[Outcome]:
    """Kill runs while they save."""
    images = draw(options.folder / "images", options.seed)
    more = [*KINDS["mid-epoch"], f"seed={options.seed}"]
    straight = Place(options.folder / "straight", images)
    noted = straight.folder / "steps.txt"
    straight.start(straight.arguments(*more), Fault(noted=noted).install).wait()
    expected = result(straight.run)
    saving = Counter(step for step, target in steps(noted) if target.endswith(SAVED))
    count = options.cases(2 * PER_PLACE, 4)
    for index in range(count):
        cell = ("the same file system", "another file system")[index % 2]
        name = f"{'elsewhere' if index % 2 else 'here'}-{index // 2}"
        if not options.wants(name):
            continue
        other = Path(tempfile.mkdtemp(dir=ELSEWHERE)) if index % 2 else None
        place = Place(options.folder / name, images, other / "run" if other else None)
        try:
            yield Outcome(name, killed(options, name, place, more, saving) or difference(place.run, expected), cell)
        finally:
            shutil.rmtree(place.folder)
            if other:
                shutil.rmtree(other)
    yield from plain_kills(options, images)


# Steps of the checkpoints and of their folder
SAVED = (".ckpt", "/checkpoints")


def killed(options: Options, name: str, place: Place, more: Sequence[str], saving: Counter[str]) -> str:
    """Kill a run while it saves, and let it go on."""
    random = options.random(name)
    step = random.choice(list(saving))
    fault, arguments = Fault(step, random.randint(1, saving[step]), "kill", SAVED), place.arguments(*more)
    running = place.start(arguments, fault.install)
    # How many writes a checkpoint takes can differ by one.
    if running.wait() not in (-signal.SIGKILL, 0):
        return f"status {running.status} before it was killed: {running.last_line()}"
    return place.go_on(arguments)


def plain_kills(options: Options, images: Path) -> Iterator[Outcome]:
    """Kill the plain program within torch.save, which writes in parts of its own."""
    for index in range(1 if options.short else 12):
        cell, name = ("the same file system", "another file system")[index % 2], f"plain-{index}"
        if not options.wants(name):
            continue
        other = Path(tempfile.mkdtemp(dir=ELSEWHERE)) if index % 2 else None
        place = Place(options.folder / name, images, other / "run" if other else None)
        at = options.random(name).randint(1, 6)
        plain.start(place, plain.arguments(place), lambda at=at: plain.kill_in_save(at)).wait()
        yield Outcome(name, plain.go_on(place, ()), cell, PLAIN)
        shutil.rmtree(place.folder)
        if other:
            shutil.rmtree(other)
