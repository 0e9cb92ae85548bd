"""Classify images by a run, or by a pretrained backbone: python -m tlearn.predict run=RUN_FOLDER images=FOLDER."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlearn.config.command import program
from tlearn.console import answer, say, session, to_stderr, warn
from tlearn.data.formats import ENDINGS
from tlearn.errors import BadImageError, DataError, OutputError
from tlearn.files import STDOUT, is_stream, opened_number, remove_temporaries, writing_text

if TYPE_CHECKING:
    from tlearn.runs.predictions import Prediction

# Unreadable images that the error names; further ones have a warning each.
_MOST_NAMED = 20


def predict(config: DictConfig) -> dict[str, float]:
    """Write one row per readable image: path, and the `topk` most probable classes with their probabilities."""
    # Imported here: torch takes seconds to load, and help and configuration errors must not wait.
    from tlearn.config.evaluation import opened_model, prediction_key
    from tlearn.config.tree import settings_of
    from tlearn.data.find import find_images, folder_targets
    from tlearn.report.predictions_page import MOST_SHOWN, predictions_page
    from tlearn.runs.prediction_table import check_names, check_table, prediction_table
    from tlearn.runs.predictions import device_of, predictions_of
    from tlearn.runs.unfinished import unfinished

    settings = settings_of(config)
    output = STDOUT if settings["output"] == "-" else Path(os.path.expanduser(settings["output"]))
    page = None if settings["page"] is None else Path(os.path.expanduser(settings["page"]))
    check_table(output)
    device = device_of(settings["device"])
    images, notes = find_images(settings["images"])
    _check_targets({"output": output, **({} if page is None else {"page": page})}, images)
    # With the table on standard output, everything else goes to standard error.
    telling = to_stderr if opened_number(output) == 1 else nullcontext
    with session(quiet=settings["quiet"]):
        # Answers are kept until both table and page are there.
        with unfinished(output) as answers, nullcontext() if page is None else writing_text(page) as page_file:
            with prediction_table(output, settings["topk"]) as write, telling():
                say(*notes)
                model = opened_model(settings)
                check_names(output, chain(model.classes, images))
                target, note = folder_targets(settings["images"], images, model.classes) if page_file else (None, [])
                say(*note)
                model.network.to(device)
                options = {key: settings[key] for key in ("topk", "calibrated", "batch_size", "num_workers")}
                key, predictions = partial(prediction_key, settings, model), partial(predictions_of, model, **options)
                found = answers(images, key, settings["batch_size"], predictions)
                written = _write_rows(write, found, MOST_SHOWN, target)
                error = written.error("standard output" if output == STDOUT else str(output))
            if page_file is not None:
                score = (written.right, len(images) - written.bad) if target else None
                targets = {str(one.image): target(str(one.image)) for one in written.first} if target else {}
                content = (written.first, len(images), model.name, targets, score, model.decoder.bit_depth)
                page_file.write(predictions_page(*content, unreadable=str(error or "").splitlines()))
        with telling():
            say(f"{len(images) - written.bad:,} of {len(images):,} images classified")
            answer(*(path.absolute() for path in (output, page) if path not in (None, STDOUT)))
    if error is not None:
        raise error
    return {"pictures": len(images)}


def _check_targets(targets: Mapping[str, Path], images: Iterable[Path]) -> None:
    """Refuse a folder, an image or one file twice as the target; remove temporary files of killed processes."""
    real = {key: Path(os.path.realpath(path)) for key, path in targets.items() if not is_stream(path)}
    for key, path in real.items():
        if path.is_dir():
            raise OutputError(f"{key}={targets[key]} is a folder: name a file in it")
        if path.suffix.lower() in ENDINGS or (path.exists() and _is_among(path, images)):
            raise OutputError(f"{key}={targets[key]} is an image, or named like one: it would be written over")
        remove_temporaries(path.parent, path.name)
    if len(set(real.values())) < len(real):
        raise OutputError(f"page={targets['page']} is the output, too: name two files")


def _is_among(path: Path, images: Iterable[Path]) -> bool:
    """Return whether a file is one of the images, under whatever name."""
    file = path.stat()
    for image in images:
        # Those that are not there are named when they are read.
        with suppress(OSError):
            if os.path.samestat(file, os.stat(image)):
                return True
    return False


@dataclass
class _TableSummary:
    """What is in a table: its first rows, how many images have none, the first of these, and right predictions."""

    first: "list[Prediction]" = field(default_factory=list)
    bad: int = 0
    named: list[str] = field(default_factory=list)
    right: int = 0

    def error(self, table: str) -> DataError | None:
        """Return the error that names images without a row, if there are any."""
        if not self.bad:
            return None
        subject = "1 image cannot be read and has" if self.bad == 1 else f"{self.bad:,} images cannot be read and have"
        more = [f"... and {self.bad - _MOST_NAMED:,} more, named by warnings"] if self.bad > _MOST_NAMED else []
        reasons = "\n".join(f"  {line}" for line in [*self.named, *more])
        return DataError(f"{subject} no row in {table}:\n{reasons}")


def _write_rows(
    write: Callable[[Sequence[str]], Any],
    answers: "Iterable[Prediction | BadImageError]",
    most: int,
    target: Callable[[str], str] | None,
) -> _TableSummary:
    """Write a row for each prediction, and return the first `most` of them, and what is to be told."""
    written = _TableSummary()
    for found in answers:
        if isinstance(found, BadImageError):
            written.bad += 1
            if written.bad > _MOST_NAMED:
                warn(f"no row: {found}")
            else:
                written.named.append(str(found))
            continue
        write([str(found.image), *(text for name, share in found.best for text in (name, f"{share:.6f}"))])
        written.right += target is not None and found.label == target(str(found.image))
        if len(written.first) < most:
            written.first.append(found)
    return written


main, script = program("predict", predict)

if __name__ == "__main__":
    script()
