"""From a source of images to checked splits: list the images, check that each decodes, split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlearn.data.bit_depth import depth_note
from tlearn.data.class_names import doubtful_names
from tlearn.data.decode import Decoder
from tlearn.data.file_table import FileTable
from tlearn.data.sources.base import Sample, Source, listing_of
from tlearn.data.split import class_list, make_splits
from tlearn.data.verify import check_images
from tlearn.errors import DataError, capped, counted
from tlearn.machine import available_cpus

# How many classes the first lines of a run list
_MOST_CLASSES = 12
# How many images in several splits they name, and files of each
_MOST_LEAKS = 3


@dataclass(frozen=True)
class ImageSet:
    """The images of a run, split and checked."""

    root: Path
    splits: dict[str, list[Sample]]
    classes: list[str]
    notes: list[str] = field(default_factory=list)
    # path -> reason, of the images that were left out
    skipped: dict[str, str] = field(default_factory=dict)
    # of the images, and perhaps of others
    files: FileTable = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.files is None:
            paths = (sample.path for samples in self.splits.values() for sample in samples)
            object.__setattr__(self, "files", FileTable(self.root, paths))


def prepare(
    source: Source,
    decoder: Decoder,
    fractions: Sequence[float],
    val_fraction: float,
    seed: int,
    on_bad_image: str = "error",
    cache: Path | None = None,
    test_as_val: bool = False,
) -> ImageSet:
    """List, check and split the images of a source.

    Args:
        source: source of the images.
        decoder: decodes each image for the check.
        fractions: train, val and test, for images without a split.
        val_fraction: the part of train that becomes val where there is a test split and none for val.
        seed: seed of the split.
        on_bad_image: "error" raises; "skip" leaves unreadable images out before splitting.
        cache: folder that stores which files decode, or None.
        test_as_val: use the test split as val, without a test split.

    Raises:
        BadImagesError: unreadable images; with "skip", only if a class has no others.
        DataError: a split or a class list that cannot be used.
        ConfigError: options of the split that do not suit the images.
    """
    listing = listing_of(source)
    files = FileTable(listing.root, (sample.path for sample in listing.samples))
    bad, samples, depth = readable(files, listing.samples, decoder, on_bad_image, cache)
    if lost := {sample.label for sample in listing.samples} - {sample.label for sample in samples}:
        raise BadImagesError(listing.root, bad, sorted(lost))
    splits, notes = make_splits(samples, fractions, val_fraction, seed, test_as_val)
    classes, more = class_list(splits, listing.empty_classes)
    skipped = [f"left out {counted(len(bad), 'unreadable image')}{_per_class(listing.samples, bad)}"] if bad else []
    notes = [*listing.notes, *skipped, *depth, *doubtful_names(classes), *notes, *more, *_leaks(copies(files, splits))]
    return ImageSet(listing.root, splits, classes, notes, bad, files)


def readable(
    files: FileTable, samples: Sequence[Sample], decoder: Decoder, on_bad_image: str, cache: Path | None
) -> tuple[dict[str, str], list[Sample], list[str]]:
    """Return the unreadable images, path -> reason, the other samples, and notes; put the others' digests into `files`.

    Raises:
        BadImagesError: some are unreadable and `on_bad_image` is "error".
    """
    bad, bits = check_images(files, [sample.path for sample in samples], decoder, cache, available_cpus())
    if bad and on_bad_image == "error":
        raise BadImagesError(files.root, bad)
    note = depth_note(bits)
    return bad, [sample for sample in samples if sample.path not in bad], [note] if note else []


def count_lines(splits: Mapping[str, Sequence[Sample]], classes: Sequence[str]) -> list[str]:
    """Return a line for each split with the number of images of its first classes."""
    lines = []
    for split, samples in splits.items():
        counts = Counter(sample.label for sample in samples)
        shown = [repr(label) if "\n" in label else label for label in classes]
        listed = capped(
            (f"{name} {counts[label]:,}" for name, label in zip(shown, classes, strict=True)), _MOST_CLASSES
        )
        rest = [counts[label] for label in classes[_MOST_CLASSES:]]
        lines.append(f"{split}: {listed}" + (f" with {min(rest):,} to {max(rest):,} images" if rest else ""))
    return lines


def copies(files: FileTable, splits: Mapping[str, Sequence[Sample]]) -> list[list[tuple[str, Sample]]]:
    """Group images with the same content, each with its split, as far as the table knows their digests."""
    number = {path: place for place, group in enumerate(files.copies()) for path in group}
    groups: dict[int, list[tuple[str, Sample]]] = {}
    for name, samples in splits.items():
        for one in samples:
            if one.path in number:
                groups.setdefault(number[one.path], []).append((name, one))
    return [group for group in groups.values() if len(group) > 1]


def _leaks(groups: Sequence[Sequence[tuple[str, Sample]]]) -> list[str]:
    """Return a note on images that several splits have, byte for byte."""
    leaks = [group for group in groups if len({name for name, _ in group}) > 1]
    if not leaks:
        return []
    apart = sum(len({one.label for _, one in group}) > 1 for group in leaks)
    classes = f", {apart} of them in several classes" if apart else ""
    count = f"{counted(len(leaks), 'image')} ({sum(map(len, leaks)):,} files)"
    shown = ((one.path if one.path.isprintable() else repr(one.path) for _, one in group) for group in leaks)
    listed = capped((capped(group, _MOST_LEAKS, " = ") for group in shown), _MOST_LEAKS, "; ")
    return [f"warning: {count} in several splits{classes}, so metrics are optimistic: {listed}"]


def _per_class(samples: Sequence[Sample], bad: dict[str, str]) -> str:
    labels = [sample.label for sample in samples if sample.path in bad]
    return ": " + ", ".join(f"{label} {labels.count(label)}" for label in sorted(set(labels)))


class BadImagesError(DataError):
    """Unreadable images: `files` maps each path to its reason; classes in `lost` have no other images."""

    def __init__(self, root: Path, files: dict[str, str], lost: Sequence[str] = ()) -> None:
        among = f", among them all of {capped(lost)}" if lost else ""
        shown = capped((f"  {root / path}: {reason}" for path, reason in files.items()), separator="\n")
        advice = "or remove the classes" if lost else "or leave them out with data.on_bad_image=skip"
        super().__init__(
            f"{counted(len(files), 'image')} cannot be read{among}:\n{shown}\nrepair or remove them, {advice}"
        )
        self.files = files
