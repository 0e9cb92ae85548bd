"""What a network gives for a split, as figures and tables see it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tlearn.analysis.outputs import Outputs, compute_metrics, joined

CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]


def outputs(count: int = 40, classes: int = 7, split: str = "val", seed: int = 0, features: bool = True) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    return Outputs(
        split,
        CLASSES[:classes],
        Path("/pictures"),
        [f"{split}/{number}.jpg" for number in range(count)],
        torch.randint(classes, (count,), generator=generator),
        3 * torch.randn(count, classes, generator=generator),
        torch.randn(count, 5, generator=generator) if features else None,
    )


def test_probabilities_are_those_of_the_logits_divided_by_the_temperature():
    plain = outputs()
    assert len(plain) == 40
    torch.testing.assert_close(plain.probabilities, plain.logits.softmax(1))
    scaled = plain.scaled(2.0)
    torch.testing.assert_close(scaled.probabilities, (plain.logits / 2).softmax(1))
    torch.testing.assert_close(scaled.losses, F.cross_entropy(plain.logits / 2, plain.targets, reduction="none"))
    assert torch.equal(scaled.predictions, plain.predictions)
    assert (scaled.confidences < plain.confidences).all()
    # and what was computed before stays of the temperature it was computed for
    torch.testing.assert_close(plain.confidences, plain.logits.softmax(1).max(1).values)


def test_a_class_among_the_most_probable_ones_is_right():
    made = outputs()
    ranks = (made.logits > made.logits.gather(1, made.targets[:, None])).sum(1)
    for top in (1, 3, 5):
        assert torch.equal(made.correct(top), ranks < top)
    assert made.correct(100).all()
    assert torch.equal(made.correct(), made.predictions == made.targets)


def test_the_best_classes_come_with_their_probabilities():
    made = outputs()
    best = made.best(3, 100)
    assert [name for name, _ in best] == [CLASSES[index] for index in made.logits[3].argsort(descending=True)]
    assert sum(value for _, value in best) == pytest.approx(1)
    assert made.best(3, 2) == best[:2]


def test_rows_say_what_each_picture_was_taken_for():
    made = outputs()
    rows = made.rows(3)
    assert [row["path"] for row in rows] == list(made.paths)
    row, index = rows[5], 5
    assert row["class"] == CLASSES[made.targets[index]]
    assert row["prediction"] == CLASSES[made.predictions[index]]
    assert row["probability"] == pytest.approx(float(made.confidences[index]))
    assert row["loss"] == pytest.approx(-math.log(row["probability_of_class"]), rel=1e-4)
    assert row["probability"] >= row["probability_2"] >= row["probability_3"]
    assert "prediction_4" not in row
    assert len({row["prediction"], row["prediction_2"], row["prediction_3"]}) == 3


def test_five_classes_have_no_top5():
    assert set(compute_metrics(outputs(classes=5))) == {"loss", "top1"}
    found = compute_metrics(made := outputs(classes=6))
    assert found["top1"] == pytest.approx(float((made.predictions == made.targets).double().mean()))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(made.logits, made.targets)), rel=1e-6)
    assert found["top1"] < found["top5"] < 1


def test_splits_are_joined_in_their_order_with_features_where_all_have_them():
    one, other = outputs(3, split="train"), outputs(2, split="val", seed=1)
    both = joined([one, other])
    assert both.split == "train+val"
    assert list(both.paths) == [*one.paths, *other.paths]
    assert torch.equal(both.targets, torch.cat([one.targets, other.targets]))
    assert torch.equal(both.logits[3:], other.logits)
    assert both.features is not None
    assert torch.equal(both.features[3:], other.features)
    assert joined([one, outputs(2, features=False)]).features is None


def test_of_equal_logits_the_prediction_decides_what_is_right():
    made = outputs(classes=10)
    equal = replace(made, logits=torch.zeros_like(made.logits))
    assert torch.equal(equal.correct(), equal.predictions == equal.targets)
