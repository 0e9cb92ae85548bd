"""Trees of folders as people have them: the intended classes, or a refusal whose lines work. Never other classes."""

import re
import shlex
import tempfile
from pathlib import Path
from typing import NamedTuple

from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import fill
from tlearn.config.compose import compose
from tlearn.data.sources.base import Listing
from tlearn.data.sources.folder import FolderSource
from tlearn.data.split import class_list, make_splits
from tlearn.errors import DataError

SPELLINGS = {
    "train": (
        *("train", "Train", "TRAIN", "training", "Training", "train_set", "training_set", "train-images", "trainset"),
        *("train2017", "train_data", "TrainImages", "01_train", "my_train", "seg_train", "entrainement"),
    ),
    "val": (
        *("val", "valid", "validation", "Valid", "VALIDATION", "val_set", "valid-images", "valset", "val2017", "dev"),
        *("eval", "dev_set", "02_val", "my_val", "seg_val", "valid_1", "prueba"),
    ),
    "test": (
        *("test", "Test", "testing", "holdout", "hold-out", "hold_out_set", "test1", "test_set", "testset", "Testing"),
        *("test-images", "TestData", "test2017", "03_test", "my_test", "seg_test", "final"),
    ),
}
CLASSES = ("cat", "dog", "Größe", "train_station", "0", "valley", "n01443537", "a b", "eel, pike")
GROUPS = ("fold1", "fold_2", "fold10", "color", "segmented", "2019", "site A", "extra", "part1", "holdings", "batch-2")


class Tree(NamedTuple):
    """Files below a folder, the label that each image is meant to have (None: none), and links as (from, to).

    `classes` are those of train, if there are splits.
    """

    labels: dict[str, str | None]
    classes: frozenset[str | None]
    others: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


def class_folders(draw: st.DrawFn, top: str, classes: list[str]) -> dict[str, str | None]:
    """Draw class folders below `top`, each of one depth or another."""
    inner = draw(st.sampled_from(["", "", "", "images/"]))
    count = draw(st.integers(4, 5))
    return {f"{top}{name}/{inner}{number}.jpg": name for name in classes for number in range(count)}


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    classes = draw(st.lists(st.sampled_from(CLASSES), min_size=2, max_size=4, unique=True))
    kind = draw(st.sampled_from(["classes", "splits", "splits", "groups", "names", "names in splits"]))
    labels: dict[str, str | None] = {}
    if kind == "classes":
        labels = class_folders(draw, "", classes)
    elif kind == "names":
        labels = {f"{name}.{number}.jpg": name for name in ("cat", "dog") for number in range(4)}
    elif kind == "groups":
        for group in draw(st.lists(st.sampled_from(GROUPS), min_size=2, max_size=3, unique=True)):
            some = draw(st.lists(st.sampled_from(classes), min_size=1, unique=True))
            labels |= class_folders(draw, f"{group}/", some)
        if len(set(labels.values())) == 1:
            labels |= class_folders(draw, "holdings/", classes)
    else:
        splits = draw(st.sampled_from([["train", "val"], ["train", "test"], ["train", "val", "test"]]))
        for split in splits:
            name = draw(st.sampled_from(SPELLINGS[split]))
            top = f"{name}/" + (f"{name}/" if draw(st.booleans()) else "")
            if split == "test" and draw(st.booleans()):
                labels |= dict.fromkeys(f"{top}{number}.jpg" for number in range(3))
            elif kind == "splits":
                some = classes if split == "train" else draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3))
                labels |= class_folders(draw, top, sorted(set(some) if draw(st.booleans()) else set(classes)))
            else:
                labels |= {f"{top}{name}.{number}.jpg": name for name in ("cat", "dog") for number in range(4)}
    train = {path for path in labels if "split" not in kind or path.partition("/")[0] in SPELLINGS["train"]}
    meant = frozenset(labels[path] for path in train)
    folders = sorted(
        {place for path in labels for place in (path.rpartition("/")[0], path.partition("/")[0])} - {"", *labels}
    )
    others, links = [], []
    if draw(st.booleans()):
        others += [".DS_Store", "README.txt", "__MACOSX/cat/._1.jpg", "Thumbs.db", ".ipynb_checkpoints/1.jpg"]
    if folders and draw(st.booleans()):
        top = draw(st.sampled_from(folders))
        if not any(path.rpartition("/")[0] == top for path in labels):
            name = top.rpartition("/")[2]
            labels[f"{top}/stray.jpg"] = name if name in classes and kind == "classes" else None
    if folders and draw(st.booleans()):
        links.append((f"{draw(st.sampled_from(folders))}/up", ".."))
    if (wrapped := draw(st.sampled_from(["", "", "archive/", "x (1)/data, v2/"]))) and kind != "names":
        labels = {wrapped + path: label for path, label in labels.items()}
        links = [(wrapped + path, target) for path, target in links]
    return Tree(labels, meant, tuple(others), tuple(links))


def made(root: Path, tree: Tree) -> Path:
    fill(root, *tree.labels, *tree.others)
    for path, target in tree.links:
        (root / path).symlink_to(target)
    return root


def typed(line: str, root: Path) -> Listing:
    """List the images of data=folder data.root=ROOT with further arguments as a shell passes them on."""
    arguments = shlex.split(line)
    first = [] if any(argument.startswith("data=") for argument in arguments) else ["data=folder"]
    given_root = [] if any(argument.startswith("data.root=") for argument in arguments) else [f"data.root='{root}'"]
    source = instantiate(compose([*first, *given_root, *arguments]).data.source, _convert_="all")
    return source.listing()


def usable(listing: Listing) -> None:
    """Raise DataError where a listing has no splits or no list of classes."""
    splits, _ = make_splits(listing.samples, (0.5, 0.25, 0.25), 0.2, 0)
    if len({sample.label for sample in splits["train"]}) < 2:
        raise DataError("a single class")
    class_list(splits)


def labelled(root: Path, listing: Listing) -> dict[str, str | None]:
    return {str((listing.root / sample.path).relative_to(root)): sample.label for sample in listing.samples}


def is_meant(root: Path, listing: Listing, tree: Tree) -> bool:
    """Return whether the labels are those intended, each image's; images may be left out, a class may not."""
    found = labelled(root, listing)
    return set(found.values()) == tree.classes and all(tree.labels[path] == label for path, label in found.items())


def lines(message: str) -> list[str]:
    """Return what a refusal says to type."""
    return re.findall(r"^  .*?: (\S*data[.=].*)$", message.partition("Possible readings")[2], re.MULTILINE)


def check(root: Path, tree: Tree) -> str:
    try:
        listing = FolderSource(root).listing()
        usable(listing)
    except DataError as error:
        told = lines(str(error))
    else:
        assert is_meant(root, listing, tree)
        return "read"
    assert told
    for line in told:
        usable(typed(line, root))
    return "refused"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees())
def test_a_tree_is_read_as_intended_or_refused_with_lines_that_work(tree):
    with tempfile.TemporaryDirectory() as folder:
        check(made(Path(folder) / "set", tree), tree)
