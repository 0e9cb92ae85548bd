"""R9: a disk that fails, or ends the run, at the k-th step for every k; and settings that leave no checkpoint."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from reliability_parts import plain
from reliability_parts.disk import STEPS, Fault, steps, temporaries
from reliability_parts.row import PLAIN, Options, Outcome, Row
from reliability_parts.runs import KINDS, Place, difference, draw, result
from tlearn.errors import TlearnError
from tlearn.training.checkpoints import CheckpointIO

ROW = Row(
    "R9",
    "checkpoints lost, or a good end without one",
    "The file layer fails (no space) or ends the process at every k-th write, fsync and replacement of a training on "
    "kept features; then `resume`, or the same command. A fault: a last checkpoint that does not open, a wrong status, "
    "a temporary file left, a run that cannot go on, another result than without the fault. And settings under which a "
    "careless program ends well with no checkpoint, or with one that nothing validated.",
)
EPOCHS = "trainer.max_epochs=2"
ENDS = ("full", "exit")
# Statuses of a run that cannot write, or whose kept features alone could not be written; 77 is of the ended process
STATUSES = {"full": (4, 0), "exit": (77,)}
SETTINGS = {
    "no-batches": ["trainer.limit_train_batches=0"],
    "no-steps": ["+trainer.max_steps=0"],
    "no-epochs": ["trainer.max_epochs=0"],
    "no-time": ["+trainer.max_time=00:00:00:00"],
    "no-validation": ["+trainer.limit_val_batches=0"],
    "late-validation": ["trainer.check_val_every_n_epoch=5"],
    "late-checkpoint": ["+callbacks.checkpoint.every_n_epochs=5"],
    "no-checkpoint": ["~callbacks.checkpoint"],
    "none-kept": ["callbacks.checkpoint.save_top_k=0"],
    "never-saved": ["+callbacks.checkpoint.every_n_train_steps=1000"],
    "no-checkpointing": ["+trainer.enable_checkpointing=false"],
    "cleared": ["callbacks=null"],
}


def run(options: Options) -> Iterator[Outcome]:
    """Fail at every step, and try every setting."""
    images = draw(options.folder / "images", options.seed)
    yield from with_settings(options, images)
    yield from plain_settings(options, images)
    straight = Place(options.folder / "straight", images)
    noted = straight.folder / "steps.txt"
    more = [*KINDS["cached"], EPOCHS, f"seed={options.seed}"]
    straight.start(straight.arguments(*more), Fault(noted=noted).install).wait()
    expected, taken = result(straight.run), [step for step, _ in steps(noted)]
    names = [(step, at, error) for step in STEPS for at in range(1, taken.count(step) + 1) for error in ENDS]
    # So that a part of them is of all kinds
    options.random("steps").shuffle(names)
    for step, at, error in names[: options.cases(len(names), 6)]:
        name = f"{step}-{at}-{error}"
        if options.wants(name):
            place = Place(options.folder / name, images)
            fault = failed(place, more, Fault(step, at, error)) or difference(place.run, expected)
            yield Outcome(name, fault, f"{step}, {'no space' if error == 'full' else 'ended'}")
            shutil.rmtree(place.folder)


def failed(place: Place, more: list[str], fault: Fault) -> str:
    """Let a run meet a fault, and go on; return what is wrong."""
    arguments = place.arguments(*more)
    running = place.start(arguments, fault.install)
    status = running.wait()
    if status not in STATUSES[fault.error] or "Traceback" in running.said():
        return f"status {status} at {fault.step} {fault.at}: {running.last_line()}"
    last = place.run / "checkpoints" / "last.ckpt"
    try:
        if last.exists():
            CheckpointIO(place.run).load_checkpoint(last)
    except TlearnError as error:
        return f"checkpoint lost: {error}"
    return ("" if status == 0 else place.go_on(arguments)) or left(place)


def left(place: Place) -> str:
    """Name temporary files that are left, or nothing."""
    found = [*temporaries(place.run), *temporaries(place.cache), *(path.name for path in place.temporary.iterdir())]
    return f"left: {', '.join(found)}" if found else ""


def with_settings(options: Options, images: Path) -> Iterator[Outcome]:
    """Train with settings that leave no checkpoint, or none that was validated."""
    for name, setting in list(SETTINGS.items())[: 3 if options.short else None]:
        if options.wants(name):
            place = Place(options.folder / name, images)
            running = place.start(place.arguments(*KINDS["on the fly"], *setting))
            yield Outcome(name, judged(place, running.wait(), running.said()), "settings")
            shutil.rmtree(place.folder)


def judged(place: Place, status: int | None, said: str) -> str:
    """Return what is wrong with the end of a run: a good one needs a model whose epoch was validated."""
    if status is None or "Traceback" in said:
        return f"status {status}: {said.strip().splitlines()[-1]}"
    if status != 0:
        return ""
    metrics = place.run / "metrics.json"
    validated = metrics.exists() and "val/loss" in json.loads(metrics.read_text())
    chosen = list((place.run / "checkpoints").glob("epoch*.ckpt"))
    return "" if validated and chosen and (place.run / "model").is_dir() else "status 0 without a validated checkpoint"


def plain_settings(options: Options, images: Path) -> Iterator[Outcome]:
    """Let the plain program meet a full disk while it saves, and train for no epochs."""
    for name, more, at in (("plain-full", [], 3), ("plain-no-epochs", ["epochs=0"], 0)):
        if options.wants(name):
            place = Place(options.folder / name, images)
            running = plain.start(place, plain.arguments(place, *more), lambda at=at: plain.fill_in_save(at))
            status = running.wait()
            has = (place.run / "checkpoints" / "last.ckpt").exists()
            fault = "status 0 without a checkpoint" if status == 0 and not has else ""
            if not fault and status != 0 and "plain-full" in name:
                fault = plain.go_on(place, ()) if has else "no checkpoint left"
            yield Outcome(name, fault, "plain", PLAIN)
            shutil.rmtree(place.folder)
