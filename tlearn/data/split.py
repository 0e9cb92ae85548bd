"""The split: seeded and stratified by class; and the class list."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from tlearn.data.sources.base import SPLITS, Sample, Splits
from tlearn.errors import ConfigError, DataError, capped
from tlearn.ranges import require

NO_TEST = "no test split: no test metrics are reported"
TEST_AS_VAL = "the test images are val, as data.split.test_as_val says: no test metrics, and val chose the best epoch"

# How many classes a note lists
_MOST_CLASSES = 10


def make_splits(
    samples: Sequence[Sample],
    fractions: Sequence[float],
    val_fraction: float,
    seed: int,
    test_as_val: bool = False,
) -> tuple[dict[str, list[Sample]], list[str]]:
    """Split samples into train, val and test, with notes on anything unusual.

    Samples without a split are divided by `fractions`, [train, val, test]. Where the source gives train but no val,
    `val_fraction` of train becomes val, or with `test_as_val` all of test does. Other splits of the source stay as they
    are.

    The split of an image depends only on its path, the other paths of its class and the seed: one more image in a class
    moves at most one other between train and val, and one between val and test.

    Raises:
        ConfigError: `test_as_val` for other splits than train and test.
        DataError: no image for train or for val.
    """
    notes: list[str] = []
    divided = _placed(samples, fractions, val_fraction, seed, test_as_val, notes)
    splits = {name: sorted(sample for sample in divided if sample.split == name) for name in SPLITS}
    if not splits["val"]:
        divides = "fractions[1]" if all(sample.split is None for sample in samples) else "val_fraction"
        count, classes = len(splits["train"]), len({sample.label for sample in splits["train"]})
        why = f"the {count} in train are too few for its part; raise data.split.{divides}, or add images"
        if 0 < count == classes:
            why = "no class has two, and the first is for train; add images"
        raise DataError(f"no image is left for val: {why}")
    if not splits["test"] and not test_as_val:
        notes.append(NO_TEST)
    return {name: chosen for name, chosen in splits.items() if chosen}, notes


def _placed(
    samples: Sequence[Sample],
    fractions: Sequence[float],
    val_fraction: float,
    seed: int,
    test_as_val: bool,
    notes: list[str],
) -> list[Sample]:
    """Assign a split to each sample without one, and keep the source's own splits."""
    given = {sample.split for sample in samples}
    if test_as_val:
        return _with_test_as_val(samples, given, notes)
    if given <= {None}:
        require("data.split.fractions", fractions)
        return _divide(samples, fractions, seed)
    if "train" not in given or not given <= set(SPLITS):
        found = capped(sorted(map(str, given)))
        raise DataError(f"images are in the splits {found}: each must be in {', '.join(SPLITS)}, and some in train")
    if "val" in given:
        return list(samples)
    require("data.split.val_fraction", val_fraction)
    train = [sample for sample in samples if sample.split == "train"]
    divided = _divide(train, (1 - val_fraction, val_fraction, 0.0), seed)
    return divided + [sample for sample in samples if sample.split == "test"]


def class_list(splits: Splits, empty_classes: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """List the classes in the order of their indices: those of train and the allowed empty ones, sorted.

    Returns them and notes on those with too few images to learn them or to measure them by.

    Raises DataError for a class of val or test that train does not have, and for a single class.
    """
    train = Counter(sample.label for sample in splits["train"])
    classes, few = sorted({*train, *empty_classes}), []
    if single := sorted(label for label, count in train.items() if count == 1):
        few.append(f"one in train for {_classes(single)}")
    for name in SPLITS[1:]:
        labels = {sample.label for sample in splits.get(name, ())}
        if unknown := sorted(labels.difference(classes)):
            raise DataError(
                f"{name} has classes that train does not have: {capped(unknown)}\n"
                f"classes of train: {capped(classes)}\nclasses of {name}: {capped(sorted(labels))}"
            )
        absent = sorted(train.keys() - labels)
        if absent and name in splits:
            few.append(f"none in {name}, hence no metrics there, for {_classes(absent)}")
    if len(train) == 1:
        raise DataError(
            f"only one class found, {min(train)}, and a classifier needs two: add images of another class, or check "
            "where classes are read from"
        )
    if empty := sorted(set(classes) - train.keys()):
        few.append(f"none in train for {_classes(empty)}")
    return classes, [f"warning: few images: {'; '.join(few)}"] if few else []


def _with_test_as_val(samples: Sequence[Sample], given: set[str | None], notes: list[str]) -> list[Sample]:
    """Move the test images to val."""
    if given != {"train", "test"}:
        found = capped(sorted(name or "no split" for name in given))
        raise ConfigError(
            f"data.split.test_as_val=true needs images in train and test and none in val, and they are in {found}: "
            "set it to false"
        )
    notes.append(TEST_AS_VAL)
    return [sample._replace(split="val") if sample.split == "test" else sample for sample in samples]


def _divide(samples: Sequence[Sample], fractions: Sequence[float], seed: int) -> list[Sample]:
    """Assign each sample its split, class by class."""
    by_label: dict[str, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.label, []).append(sample)
    divided: list[Sample] = []
    for members in by_label.values():
        members.sort(key=lambda sample: _order(seed, sample.path))
        train, val, test = _counts(len(members), fractions)
        names = ["train"] * train + ["val"] * val + ["test"] * test
        divided += [sample._replace(split=name) for sample, name in zip(members, names, strict=True)]
    return divided


def _order(seed: int, path: str) -> tuple[str, str]:
    return hashlib.sha256(f"{seed}/{path}".encode(errors="surrogateescape")).hexdigest(), path


def _counts(number: int, fractions: Sequence[float]) -> list[int]:
    """Divide a number of images into three counts, each within one image of its fraction, with at least one for train.

    Uses the Webster/Sainte-Laguë method, image by image. Largest remainders are as exact, but with one more image a
    split can lose one, and two images would move.
    """
    counts = [1, 0, 0]
    for _ in range(number - 1):
        counts[max(range(3), key=lambda part: fractions[part] / (counts[part] + 0.5))] += 1
    return counts


def _classes(labels: Sequence[str]) -> str:
    return f"{'class' if len(labels) == 1 else f'{len(labels)} classes'} {capped(labels, _MOST_CLASSES)}"
