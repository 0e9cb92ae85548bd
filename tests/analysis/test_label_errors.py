"""Doubtful labels are found by classifiers that did not see the pictures."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tlearn.analysis.label_errors import held_out, suspects
from tlearn.analysis.outputs import Outputs
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.features.extract import Extractor, Reader
from tlearn.models.backbones.torchvision import TorchvisionBackbone


def clusters(counts: list[int], width: int = 30, apart: float = 2.0) -> tuple[Tensor, Tensor]:
    """Draw features of which those of a class lie round a place of its own."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = apart * torch.randn(len(counts), width, generator=generator)
    return (centres[targets] + torch.randn(len(targets), width, generator=generator)).relu(), targets


def outputs(features: Tensor | None, targets: Tensor, classes: list[str], split: str = "train") -> Outputs:
    paths = [f"{split}/{number}" for number in range(len(targets))]
    return Outputs(split, classes, Path(), paths, targets, torch.zeros(len(targets), len(classes)), features)


def test_probabilities_are_of_classifiers_that_did_not_see_the_picture():
    # Features that say nothing but who a picture is: whoever has seen it knows its class.
    features, targets = torch.eye(60), torch.arange(60) % 2
    probabilities = held_out(features, targets, 2)
    assert probabilities.sum(1).tolist() == pytest.approx([1] * 60, abs=1e-5)
    assert probabilities.gather(1, targets[:, None]).mean() <= 0.5 + 1e-4
    features, targets = clusters([40, 40, 40])
    assert (held_out(features, targets, 3).argmax(1) == targets).float().mean() > 0.95


def test_every_fold_has_its_part_of_each_class():
    # With both pictures of a class in one fold, the other would know nothing of it.
    features, targets = clusters([2] * 8, apart=6)
    for seed in range(5):
        assert (held_out(features, targets, 8, folds=2, seed=seed).argmax(1) == targets).all()


def test_the_same_seed_gives_the_same_and_no_other_generator_is_touched():
    features, targets = clusters([20, 30], apart=0.3)
    before = torch.get_rng_state()
    first = held_out(features, targets, 2)
    torch.manual_seed(5)
    assert torch.equal(held_out(features, targets, 2), first)
    assert not torch.equal(held_out(features, targets, 2, seed=1), first)
    torch.set_rng_state(before)
    held_out(features, targets, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_neither_scale_nor_place_of_features_matters():
    features, targets = clusters([30, 30, 5])
    expected = held_out(features, targets, 3)
    scales = torch.logspace(-4, 4, features.shape[1])
    torch.testing.assert_close(held_out(features * scales + scales, targets, 3), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("targets", "classes"),
    [([0], 2), ([0, 1], 2), ([0, 0, 0], 2), ([0, 0, 1, 1, 2], 3), ([0, 1, 2, 3, 4, 5, 6], 8)],
)
def test_few_pictures_and_classes_without_any_are_no_error(targets, classes):
    features = torch.randn(len(targets), 6, generator=torch.Generator().manual_seed(0))
    probabilities = held_out(features, torch.tensor(targets), classes)
    assert probabilities.shape == (len(targets), classes)
    assert probabilities.sum(1).tolist() == pytest.approx([1] * len(targets), abs=1e-5)
    names = [str(number) for number in range(classes)]
    assert len(suspects([outputs(features, torch.tensor(targets), names)])) == len(targets)


def test_features_without_differences_are_no_error():
    assert held_out(torch.ones(10, 4), torch.arange(10) % 2, 2).sub(0.5).abs().max() < 0.2


@torch.inference_mode()
def test_it_can_be_called_in_inference_mode():
    features, targets = clusters([10, 10])
    assert (held_out(features, targets, 2).argmax(1) == targets).all()


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
@pytest.mark.parametrize(("data", "other"), [("cat_dog", "test"), ("hymenoptera", "val")])
def test_flipped_labels_of_real_photos_are_among_the_most_doubtful(data, other, shared):
    root = shared / "data" / data
    backbone = TorchvisionBackbone("mobilenet_v2", str(shared / "weights" / "mobilenet_v2.pth"))
    transform = Transform(backbone.preprocessing())
    extractor = Extractor(backbone.build().module, Reader(Decoder(), transform, transform))
    parts = []
    for split in ("train", other):
        files = sorted((root / split).glob("*/*"))
        classes = sorted({file.parent.name for file in files})
        features = torch.cat([part.clone() for part in extractor([(file, None) for file in files])])
        targets = torch.tensor([classes.index(file.parent.name) for file in files])
        parts.append(outputs(features, targets, classes, split))
    train, rest = parts
    count = 10 if data == "cat_dog" else 5
    for seed in range(4):
        flipped = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:count]
        given = train.targets.clone()
        given[flipped] = 1 - given[flipped]
        rows = suspects([outputs(train.features, given, list(train.classes)), rest])
        first = [row["path"] for row in rows if row["split"] == "train"][: len(train) // 20]
        assert sum(f"train/{index}" in first for index in flipped.tolist()) >= 0.7 * count
