"""Which images an evaluation measures: a split of the run's own, also where it has moved to, or of another data set."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tlearn.analysis.outputs import Outputs
from tlearn.console import say
from tlearn.data.file_state import content_digest
from tlearn.data.file_table import FileTable
from tlearn.data.manifest import Manifest, check_manifest, read_manifest, unchanged_files
from tlearn.data.prepare import ImageSet
from tlearn.data.sources.base import SPLITS, Sample, Source, listing_of
from tlearn.errors import DataError
from tlearn.machine import available_cpus
from tlearn.runs.model import MANIFEST, Model, read_description


def evaluated_samples(
    model: Model, split: str, source: Source | None
) -> tuple[FileTable, list[Sample], Manifest | None]:
    """Return the files and the samples of a split, and the record that has them if they are the run's own.

    Args:
        model: a finished run's.
        split: train, val or test.
        source: where the images come from; None for those that the run was made with.

    Raises:
        DataError: there is no such split, files have changed, or the data set does not suit the model.
    """
    manifest = read_manifest(model.folder / MANIFEST)
    if source is None:
        files = FileTable(Path(model.description["data_root"]), manifest.sizes)
        check_manifest(manifest, files)
        return files, _own(manifest, split), manifest
    listing = listing_of(source)
    root, files = listing.root, FileTable(listing.root, manifest.sizes)
    same = unchanged_files(manifest, files)
    if same == len(manifest.sizes):
        return files, _own(manifest, split), manifest
    given = {sample.split for sample in listing.samples}
    if given == {None} and same:
        raise DataError(
            f"{root} has {same} of the run's {len(manifest.sizes)} images and no splits of its own: metrics would "
            "include images it was trained on; give the whole set, or other images"
        )
    if given != {None} and split not in given:
        raise _no_split(str(root), split, [name for name in SPLITS if name in given])
    samples = [sample for sample in listing.samples if sample.split in (None, split)]
    _check_classes(samples, model.classes, root)
    return FileTable(root, (sample.path for sample in samples)), samples, None


def trained_on_note(model: Model, outputs: Outputs) -> str | None:
    """Return what must be said of metrics of images that the model was trained on; None for other images."""
    if outputs.split not in str(model.description.get("trained_on", "train")).split("+"):
        return None
    manifest = read_manifest(model.folder / MANIFEST)
    if not {sample.path for sample in manifest.splits[outputs.split]}.issuperset(outputs.paths):
        return None
    return f"the model was trained on the {outputs.split} images: their metrics are optimistic"


def recorded_images(run: str | Path) -> ImageSet:
    """Return the images of a finished run or a model folder in their splits.

    Raises:
        CheckpointError: it holds no model.
        DataError: images are missing or changed.
    """
    folder, description = read_description(run)
    manifest, root = read_manifest(folder / MANIFEST), Path(description["data_root"])
    files = FileTable(root, manifest.sizes)
    # Missing files first: the others take a while to read.
    check_manifest(manifest, files)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for path, found in zip(
            manifest.digests, pool.map(content_digest, map(root.joinpath, manifest.digests)), strict=True
        ):
            files.keep_digest(path, found)
    check_manifest(manifest, files)
    return ImageSet(root, manifest.splits, description["classes"], files=files)


def _own(manifest: Manifest, split: str) -> list[Sample]:
    if split not in manifest.splits:
        raise _no_split("the run", split, list(manifest.splits))
    return manifest.splits[split]


def _no_split(where: str, split: str, given: Sequence[str]) -> DataError:
    # Metrics of the images that it was trained on come last.
    first = next((name for name in ("val", "test") if name in given), given[0])
    reason = f"{where} has no {split} split: it has {', '.join(given)}"
    return DataError(f"{reason}; measure one of these, split={first}, or other images, data.root=FOLDER")


def _check_classes(samples: Sequence[Sample], classes: Sequence[str], root: Path) -> None:
    """Refuse classes that the model does not know, and name those without an image."""
    present = {sample.label for sample in samples}
    unknown, absent = sorted(present - set(classes)), sorted(set(classes) - present)
    if unknown:
        raise DataError(
            f"{root} has classes that the model does not know: {', '.join(unknown)}; it knows {', '.join(classes)}"
        )
    say(f"{len(samples)} images of {root}")
    if absent:
        say(f"no image of {', '.join(absent)}")
