"""The contract of an image source: implement `Source` for your own, and name it in data.source._target_."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

from tlearn.errors import ConfigError, DataError, capped

SPLITS = ("train", "val", "test")
# What folders and tables may call the splits
SPLIT_NAMES = {name: name for name in SPLITS} | {"valid": "val", "validation": "val"}


class Sample(NamedTuple):
    """One image file and its class.

    Args:
        path: relative to the root of its `Listing`, with forward slashes, or absolute.
        label: name of the class.
        split: one of `SPLITS`, or None where tlearn is to split; either all samples of a listing have one or none has.
    """

    path: str
    label: str
    split: str | None = None


# Samples by split
Splits = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True)
class Listing:
    """The images of a source.

    Args:
        root: what the paths of the samples are relative to.
        samples: all images, ordered by path.
        empty_classes: names of classes without an image that count as classes all the same.
        notes: a line for the user about each oddity, such as files that were ignored.
    """

    root: Path
    samples: list[Sample]
    empty_classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Source(Protocol):
    """Where images come from. Constructing a source reads and writes nothing."""

    def prepare(self) -> None:
        """Download, extract or draw what is missing, and do nothing if nothing is.

        Called before every `listing()`, in each process of a run. Raises DownloadError, OutputError or ConfigError.
        """

    def listing(self) -> Listing:
        """List all images without opening one; raise DataError, naming file or folder, for what cannot be used."""


def listing_of(source: Source) -> Listing:
    """Prepare a source and list its images, ordered by path.

    Raises:
        ConfigError: what it returns is not as `Listing` says.
        DataError: it lists no images, or one twice.
    """
    source.prepare()
    listing, name = source.listing(), f"listing() of {type(source).__module__}.{type(source).__qualname__}"
    if not isinstance(listing, Listing) or not isinstance(listing.root, Path):
        raise ConfigError(f"data.source: {name} must return tlearn.data.sources.base.Listing, its root a pathlib.Path")
    # It may be an iterator.
    listing = replace(listing, samples=list(listing.samples))
    if not listing.samples:
        raise DataError(f"data.source: {name} listed no images in {listing.root}")
    for sample in listing.samples:
        named = isinstance(sample, Sample) and isinstance(sample.path, str) and isinstance(sample.label, str)
        if not named or sample.split not in (None, *SPLITS):
            known = f"Sample(path, label, split), path and label texts, split one of {', '.join(SPLITS)} or None"
            raise ConfigError(f"data.source: {name} has {sample!r}, and not {known}")
    # The order decides what a seed draws.
    samples = sorted(listing.samples, key=lambda sample: sample.path)
    if twice := [one.path for one, other in pairwise(samples) if one.path == other.path]:
        raise DataError(f"data.source: {name} listed images twice in {listing.root}: {capped(dict.fromkeys(twice))}")
    return replace(listing, samples=samples)
