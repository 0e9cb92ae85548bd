"""R11: processes that run on and temporary files that stay, however a program ends."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reliability_parts import forks, plain
from reliability_parts.disk import temporaries
from reliability_parts.moments import Moment
from reliability_parts.row import PLAIN, Options, Outcome, Row
from reliability_parts.runs import KINDS, Place, draw

ROW = Row(
    "R11",
    "ends that leave something",
    "Trainings with loader workers, on kept features, under DDP (two processes), in a sweep, and ones with a report "
    "and TensorBoard end well, by SIGTERM to the process, by SIGKILL of the main process, and by an error. A fault: a "
    "process of the program 10 s later; a temporary file in the run folder, the cache or TMPDIR, or a shared-memory "
    "file, after that end, or, where the process was killed, after the next run.",
)
WORKERS = "data.num_workers=2"
SETTINGS: dict[str, Sequence[str]] = {
    "workers": (*KINDS["on the fly"], WORKERS),
    "features": (*KINDS["cached"], WORKERS),
    "pixels": (*KINDS["on the fly"], WORKERS, "data.cache=disk"),
    "report": (*KINDS["on the fly"], WORKERS, "report=default", "logger=default"),
    "sweep": (*KINDS["on the fly"], WORKERS),
    "ddp": (*KINDS["on the fly"], "trainer=ddp_cpu"),
}


def fail() -> None:
    """Fail as a program does that has a bug."""
    raise RuntimeError("a bug")


ENDS: dict[str, Callable[[], object] | None] = {
    "well": None,
    "terminated": lambda: signal.raise_signal(signal.SIGTERM),
    "killed": lambda: signal.raise_signal(signal.SIGKILL),
    "error": fail,
}
LIMIT_SECONDS = 10
SHARED = Path("/dev/shm")


def run(options: Options) -> Iterator[Outcome]:
    """Let programs end in each way."""
    images = draw(options.folder / "images", options.seed)
    settings = ["workers", "features"] if options.short else list(SETTINGS)
    for setting in settings:
        for end, act in ENDS.items():
            name = f"{setting}-{end}"
            if options.wants(name):
                place = Place(options.folder / name, images)
                yield Outcome(name, left_by(options, place, setting, act), setting)
    yield from plain_ends(options, images)


def left_by(options: Options, place: Place, setting: str, act: Callable[[], object] | None) -> str:
    """Start a program that ends in a way, and return what it leaves."""
    given = place.arguments(*SETTINGS[setting], f"seed={options.seed}")
    if "report=default" in given:
        given.remove("report=off")
        given.remove("logger=csv")
    if setting == "sweep":
        given = ["-m", *given[:-1], "optimizer.lr=0.01,0.02", f"hydra.sweep.dir='{place.run}'"]
    shared = set(SHARED.iterdir())
    running = place.start(given, Moment("training", 20, act).install if act else None)
    running.wait()
    if fault := still_running(running):
        return fault
    if running.status == -signal.SIGKILL:
        again = place.start(given if setting == "sweep" else place.going_on(given))
        again.wait()
        if fault := still_running(again):
            return f"after the next run, {fault}"
    found = [*temporaries(place.run), *temporaries(place.cache), *(path.name for path in place.temporary.rglob("*"))]
    found += [path.name for path in set(SHARED.iterdir()) - shared if is_abandoned(path)]
    return f"left: {', '.join(found)}" if found else ""


def is_abandoned(path: Path) -> bool:
    """Return whether a file is of torch's shared memory, and the process in its name is gone."""
    words = path.name.split("_")
    return words[0] == "torch" and len(words) > 1 and not Path(f"/proc/{words[1]}").exists()


def still_running(running: forks.Started) -> str:
    """Wait for all processes of a session to end, kill those that do not, and name one."""
    started = time.monotonic()
    while (remaining := forks.left(running.pid)) and time.monotonic() - started < LIMIT_SECONDS:
        time.sleep(0.1)
    if not remaining:
        return ""
    running.signal(signal.SIGKILL, to_group=True)
    return f"{len(remaining)} still running: {remaining[0][:60]}"


def plain_ends(options: Options, images: Path) -> Iterator[Outcome]:
    """Let the plain program end by a kill within its save, of which it starts again, and well."""
    for name, prepare in (("plain-well", None), ("plain-killed", lambda: plain.kill_in_save(2))):
        if not options.wants(name):
            continue
        place = Place(options.folder / name, images)
        running = plain.start(place, plain.arguments(place, "workers=2"), prepare)
        running.wait()
        fault = still_running(running)
        if running.status == -signal.SIGKILL:
            plain.go_on(place, ())
        found = [path.name for path in place.temporary.rglob("*")]
        yield Outcome(name, fault or (f"left: {len(found)} files in TMPDIR" if found else ""), "plain", PLAIN)
