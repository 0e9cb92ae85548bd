"""Classify images by a run, or by a pretrained backbone: python -m tlearn.predict run=RUN_FOLDER images=FOLDER."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from omegaconf import DictConfig

from tlearn.config.command import program
from tlearn.console import answer, say, session, to_stderr
from tlearn.data.find import find_images, folder_targets
from tlearn.data.formats import ENDINGS
from tlearn.errors import BadImageError, DataError, OutputError
from tlearn.files import STDOUT, is_stream, opened_number, remove_temporaries, writing_text

if TYPE_CHECKING:
    from tlearn.runs.predictions import Prediction


def predict(config: DictConfig) -> dict[str, float]:
    """Write one row per readable image: path, and the `topk` most probable classes with their probabilities."""
    # Imported here: torch takes seconds to load, and help and configuration errors must not wait.
    from tlearn.config.evaluation import opened_model
    from tlearn.config.tree import settings_of
    from tlearn.report.predictions_page import MOST_SHOWN, predictions_page
    from tlearn.runs.predictions import device_of, predictions_of

    settings = settings_of(config)
    output = STDOUT if settings["output"] == "-" else Path(os.path.expanduser(settings["output"]))
    page = None if settings["page"] is None else Path(os.path.expanduser(settings["page"]))
    images, notes = find_images(settings["images"])
    _check_targets({"output": output, **({} if page is None else {"page": page})}, images)
    # With the table on standard output, everything else goes to standard error.
    telling = to_stderr if opened_number(output) == 1 else nullcontext
    with session(quiet=settings["quiet"]):
        with nullcontext() if page is None else writing_text(page) as page_file:
            with writing_text(output) as table, telling():
                say(*notes)
                model = opened_model(settings)
                targets, note = folder_targets(settings["images"], images, model.classes) if page_file else ({}, [])
                say(*note)
                model.network.to(device_of(settings["device"]))
                options = {key: settings[key] for key in ("topk", "calibrated", "batch_size", "num_workers")}
                predictions = predictions_of(model, images, **options)
                shown, bad, right = _write_rows(table, settings["topk"], predictions, MOST_SHOWN, targets)
            if page_file is not None:
                score = (right, len(images) - len(bad)) if targets else None
                page_file.write(
                    predictions_page(shown, len(images), model.name, targets, score, model.decoder.bit_depth)
                )
        with telling():
            say(f"{len(images) - len(bad):,} of {len(images):,} images classified")
            answer(*(path.absolute() for path in (output, page) if path not in (None, STDOUT)))
    if bad:
        reasons = "\n".join(f"  {error}" for error in bad)
        subject = "1 image cannot be read and has" if len(bad) == 1 else f"{len(bad)} images cannot be read and have"
        raise DataError(f"{subject} no row in {'standard output' if output == STDOUT else output}:\n{reasons}")
    return {"pictures": len(images)}


def _check_targets(targets: Mapping[str, Path], images: Sequence[Path]) -> None:
    """Refuse a folder, an image or one file twice as the target; remove temporary files of killed processes."""
    real = {key: Path(os.path.realpath(path)) for key, path in targets.items() if not is_stream(path)}
    for key, path in real.items():
        if path.is_dir():
            raise OutputError(f"{key}={targets[key]} is a folder: name a file in it")
        over = path.exists() and any(path.samefile(image) for image in images if os.path.exists(image))
        if over or path.suffix.lower() in ENDINGS:
            raise OutputError(f"{key}={targets[key]} is an image, or named like one: it would be written over")
        remove_temporaries(path.parent, path.name)
    if len(set(real.values())) < len(real):
        raise OutputError(f"page={targets['page']} is the output, too: name two files")


def _write_rows(
    table: TextIO,
    topk: int,
    predictions: "Iterable[Prediction | BadImageError]",
    most: int,
    targets: Mapping[str, str],
) -> "tuple[list[Prediction], list[BadImageError], int]":
    """Write the table; return its first rows, the images that have none, and how many predictions are the targets."""
    writer = csv.writer(table)
    columns = [f"{name}_{rank}" for rank in range(2, topk + 1) for name in ("class", "probability")]
    writer.writerow(["path", "class", "probability", *columns])
    first: list[Prediction] = []
    bad: list[BadImageError] = []
    right = 0
    for found in predictions:
        if isinstance(found, BadImageError):
            bad.append(found)
            continue
        writer.writerow([found.image, *(value for name, share in found.best for value in (name, f"{share:.6f}"))])
        right += found.label == targets.get(str(found.image))
        if len(first) < most:
            first.append(found)
    return first, bad, right


main, script = program("predict", predict)

if __name__ == "__main__":
    script()
