"""Name pictures with a finished run's model, or a backbone's: python -m tlearn.predict run=RUN_FOLDER images=FOLDER."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from tlearn.config.command import program
from tlearn.console import answer, say, session
from tlearn.errors import BadImageError, ConfigError, DataError, OutputError
from tlearn.files import read_table

if TYPE_CHECKING:
    from tlearn.runs.model import Model

# A picture's file, and its most probable classes with their probabilities
Answer = tuple[str, list[tuple[str, float]]]

# Of a page with more, nobody would look at the rest; and each is some kilobytes.
_MOST_SHOWN = 200


def predict(config: DictConfig) -> dict[str, float]:
    """Write one row per readable picture: path, and the `topk` most probable classes with their probabilities."""
    with session(quiet=config.quiet):
        return _predict(config)


def _predict(config: DictConfig) -> dict[str, float]:
    paths = find_pictures(str(config.images))
    model = _model(config)
    if config.topk > len(model.classes):
        raise ConfigError(f"topk={config.topk}: the model knows {len(model.classes)} classes")
    output = _file("output", config.output)
    page = None if config.page is None else _file("page", config.page)
    if page is not None and page.absolute() == output.absolute():
        raise OutputError(f"page={config.page} is the output, too: name two files")
    header = ["path", "class", "probability"]
    header += [f"{name}_{rank}" for rank in range(2, config.topk + 1) for name in ("class", "probability")]
    bad: list[BadImageError] = []
    shown: list[Answer] = []
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for path, best in _answers(config, model, paths, bad):
                named = (value for name, share in best for value in (name, f"{share:.6f}"))
                writer.writerow([path, *named])
                if len(shown) < _MOST_SHOWN:
                    shown.append((path, best))
        temporary.replace(output)
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    say(f"{len(paths) - len(bad):,} of {len(paths):,} images named")
    answer(output.absolute())
    if page is not None:
        _write_page(page, shown, len(paths), model)
    if bad:
        reasons = "\n".join(f"  {error}" for error in bad)
        raise DataError(f"{len(bad)} pictures cannot be read and have no row in {output}:\n{reasons}")
    return {"pictures": len(paths)}


def _file(key: str, value: str) -> Path:
    """Check the name of a file that is to be written."""
    from tlearn.data.sources.folder import ENDINGS

    path = Path(value).expanduser()
    if path.is_dir():
        raise OutputError(f"{key}={value} is a folder: name a file in it")
    if path.suffix.lower() in ENDINGS:
        raise OutputError(f"{key}={value} is named like a picture: it would be written over")
    return path


def read_predictions(path: Path | str) -> list[dict[str, str]]:
    """Read the rows that `predict` has written."""
    return read_table(Path(path))


def find_pictures(images: str) -> list[Path]:
    """List pictures in stable order: one file, all visible ones below a folder, or what a glob matches.

    Raises:
        ConfigError: a glob that cannot be one.
        DataError: nothing is there.
    """
    given = Path(images).expanduser()
    if given.is_dir():
        paths = sorted(_below(given))
    elif given.exists():
        paths = [given]
    else:
        paths = sorted(_matching(given))
    if not paths:
        raise DataError(f"images={images}: no pictures there (a folder, a file, or a quoted glob such as 'new/*.jpg')")
    return paths


def _write_page(page: Path, answers: list[Answer], count: int, model: "Model") -> None:
    """Show pictures beside their most probable classes."""
    from tlearn.report.gallery import Thumbnails
    from tlearn.report.page import Card, Gallery, Section, write_page

    thumbnails = Thumbnails(Path(), _MOST_SHOWN)
    # What all have in common says nothing.
    common = os.path.commonpath([os.path.dirname(path) for path, _ in answers]) if answers else ""
    cards = [
        [Card(thumbnails(path), os.path.relpath(path, common or "."), bars=[(*one, False) for one in best])]
        for path, best in answers
    ]
    title, subtitle = f"{len(answers)} of {count} pictures", f"named by {model.name}"
    subtitle = f"of {common}, {subtitle}" if common else subtitle
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(page, title, [Section("Pictures", [Gallery(cards)])], subtitle)
    except OSError as error:
        raise OutputError(f"cannot write {page}: {error.strerror or error}") from error
    answer(page.absolute())


def _model(config: DictConfig) -> "Model":
    """Load the run's model, or take the backbone as it is."""
    from tlearn.runs.model import load_model
    from tlearn.runs.pretrained import pretrained_model

    if config.get("backbone") is None:
        return load_model(config.run)
    return pretrained_model(instantiate(config.backbone, _convert_="all"), config.classes)


def _below(folder: Path) -> Iterator[Path]:
    """Yield what is called a picture; links to folders are followed, but each folder is entered once."""
    from tlearn.data.sources.folder import ENDINGS

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    entered, others = set(), Counter[str]()
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(here, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in ENDINGS:
                yield path
            else:
                others[path.suffix.lower() or "no ending"] += 1
    if others:
        kinds = ", ".join(f"{ending} {count}" for ending, count in sorted(others.items()))
        say(f"{others.total():,} other files in {ascii(str(folder))[1:-1]}: {kinds}")


def _matching(given: Path) -> Iterator[Path]:
    """Yield the files that a glob matches, hidden ones only if it asks for them; `**` follows no links."""
    wild = next((index for index, part in enumerate(given.parts) if re.search(r"[*?[]", part)), None)
    if wild is None:
        return
    folder, pattern = Path(*given.parts[:wild]), Path(*given.parts[wild:])
    asked = any(part.startswith(".") for part in pattern.parts)
    try:
        # Not glob.glob: it follows a link that leads back up forty times, and two of them without end.
        found = set(folder.glob(str(pattern)))
    except ValueError as error:
        raise ConfigError(f"images={given}: {error}") from error
    for path in found:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and (asked or not hidden):
            yield path


def _answers(config: DictConfig, model: "Model", paths: list[Path], bad: list[BadImageError]) -> Iterator[Answer]:
    """Yield the most probable classes of each readable picture, and collect the others."""
    import torch
    from torch.utils.data import DataLoader

    from tlearn.data.datamodule import default_workers
    from tlearn.data.dataset import PictureDataset
    from tlearn.data.transforms import Transform, stack

    transform = Transform(model.description["preprocessing"])
    dataset = PictureDataset(paths, model.decoder, transform.pixels)
    workers = default_workers() if config.num_workers is None else config.num_workers
    # A single picture is done before a worker has started.
    workers = min(workers, len(paths) // config.batch_size)
    loader = DataLoader(dataset, config.batch_size, num_workers=workers, collate_fn=list)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: there is no GPU that this torch can use; choose auto or cpu")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    network = model.network.to(device)
    temperature = model.temperature if config.calibrated else 1.0
    remaining = iter(paths)
    for batch in loader:
        images = [image for image, _ in batch if image is not None]
        if images:
            with torch.inference_mode():
                pixels = stack(images).to(device)
                top = (network(transform.normalise(pixels)) / temperature).softmax(1).topk(config.topk)
            answers = iter(zip(top.values.tolist(), top.indices.tolist(), strict=True))
        for image, reason in batch:
            path = next(remaining)
            if image is None:
                bad.append(BadImageError(path, reason))
                continue
            probabilities, indices = next(answers)
            yield (
                str(path),
                [(model.classes[index], share) for share, index in zip(probabilities, indices, strict=True)],
            )


main, script = program("predict", predict)

if __name__ == "__main__":
    script()
