"""Doubtful labels are found by classifiers that did not see the images."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.analysis.test_linear_probe import clusters
from tlearn.analysis.label_errors import suspects
from tlearn.analysis.outputs import Outputs


def outputs(features: Tensor | None, targets: Tensor, classes: list[str], split: str = "train") -> Outputs:
    paths = [f"{split}/{number}" for number in range(len(targets))]
    return Outputs(split, classes, Path(), paths, targets, torch.zeros(len(targets), len(classes)), features)


@pytest.mark.parametrize(
    ("targets", "classes"),
    [([0], 2), ([0, 1], 2), ([0, 0, 0], 2), ([0, 0, 1, 1, 2], 3), ([0, 1, 2, 3, 4, 5, 6], 8)],
)
def test_few_pictures_and_classes_without_any_are_no_error(targets, classes):
    features = torch.randn(len(targets), 6, generator=torch.Generator().manual_seed(0))
    names = [str(number) for number in range(classes)]
    assert len(suspects([outputs(features, torch.tensor(targets), names)])) == len(targets)


def test_wrong_labels_come_first_with_the_right_class_as_a_suggestion():
    features, targets = clusters([60, 60, 20])
    wrong = [3, 50, 70, 100, 130]
    given = targets.clone()
    given[wrong] = (given[wrong] + 1) % 3
    train, val = slice(0, 140, 2), slice(1, 140, 2)
    parts = [outputs(features[part], given[part], [*"abc"], name) for name, part in (("train", train), ("val", val))]
    rows = suspects(parts)
    assert [row["rank"] for row in rows] == list(range(1, 141))
    assert sorted((row["split"], row["path"]) for row in rows) == sorted(
        (part.split, path) for part in parts for path in part.paths
    )
    assert {row["path"] for row in rows[:5]} == {f"{'val' if at % 2 else 'train'}/{at // 2}" for at in wrong}
    for row in rows[:5]:
        split, place = row["path"].split("/")
        index = 2 * int(place) + (split == "val")
        assert row["class"] == "abc"[given[index]]
        assert row["suggested"] == "abc"[targets[index]]
        assert row["probability_of_suggested"] > row["probability_of_class"]
    assert list(rows[0]) == [
        *("rank", "split", "path", "class", "suggested", "probability_of_class", "probability_of_suggested")
    ]
    assert rows[-1]["probability_of_class"] > 0.9


def test_pictures_of_a_small_class_that_are_labelled_as_a_large_one_are_found():
    features, targets = clusters([300, 30], apart=0.8)
    given = targets.clone()
    given[300:308] = 0
    first = [row["path"] for row in suspects([outputs(features, given, [*"ab"])])][:16]
    # By the probabilities of the classes alone it is four: rare classes have low ones everywhere.
    assert sum(f"train/{index}" in first for index in range(300, 308)) >= 6


def test_the_only_picture_of_its_class_comes_last_without_a_verdict():
    features, targets = clusters([20, 20, 1])
    rows = suspects([outputs(features, targets, [*"abc"])])
    assert (rows[-1]["class"], rows[-1]["path"]) == ("c", "train/40")
    assert rows[-1]["suggested"] is rows[-1]["probability_of_class"] is rows[-1]["probability_of_suggested"] is None
    assert all(row["probability_of_class"] is not None for row in rows[:-1])


def test_without_features_or_a_second_class_there_is_a_reason():
    with pytest.raises(ValueError, match="features"):
        suspects([outputs(None, torch.tensor([0, 1]), ["a", "b"])])
    with pytest.raises(ValueError, match="two classes"):
        suspects([outputs(torch.ones(2, 3), torch.tensor([0, 0]), ["a"])])


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(("data", "other", "step", "count"), [("cat_dog", "test", 4, 5), ("hymenoptera", "val", 2, 4)])
def test_flipped_labels_of_real_photos_are_among_the_most_doubtful(data, other, step, count, shared, real_features):
    root = shared / "data" / data
    parts = []
    for split in ("train", other):
        files = sorted((root / split).glob("*/*"))[::step]
        classes = sorted({file.parent.name for file in files})
        targets = torch.tensor([classes.index(file.parent.name) for file in files])
        parts.append(outputs(real_features(files), targets, classes, split))
    train, rest = parts
    for seed in range(2):
        flipped = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:count]
        given = train.targets.clone()
        given[flipped] = 1 - given[flipped]
        rows = suspects([outputs(train.features, given, list(train.classes)), rest])
        first = [row["path"] for row in rows if row["split"] == "train"][: len(train) // 20]
        assert sum(f"train/{index}" in first for index in flipped.tolist()) >= 0.7 * count
