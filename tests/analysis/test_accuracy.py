"""Accuracies of classes and how sure they are."""

import math
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch

from tests.drawn_figures import drawn
from tlearn.analysis.accuracy import accuracy_figure, counts_figure, per_class, wilson
from tlearn.analysis.outputs import Outputs

NAMES = ["$x_1$", "$", r"\alpha", "100 %", "ü漢字", "w" * 200, "a\nb", "\udcff", "_hidden", "<script>"]


def outputs(classes: list[str], targets: list[int], predictions: list[int]) -> Outputs:
    """Make outputs whose second choice is the next class, and so on round."""
    count = len(classes)
    ranks = (torch.arange(count) - torch.tensor(predictions)[:, None]) % count
    paths = [str(number) for number in range(len(targets))]
    return Outputs("val", classes, Path(), paths, torch.tensor(targets), -ranks.float())


def table(count: int, pictures: int = 20) -> list[dict]:
    names = [*NAMES, *(f"class {number}" for number in range(count))][-count:] if count > 10 else NAMES[:count]
    rows = []
    for number, name in enumerate(names):
        right = (number * 7) % (pictures + 1)
        low, high = wilson(right, pictures)
        shares = {"top1": right / pictures, "top1_low": low, "top1_high": high}
        rows.append({"class": name, "train_pictures": 5 + (number * 13) % 61, "pictures": pictures, **shares})
    return rows


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Newcombe 1998, Two-sided confidence intervals for the single proportion, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_wilsons(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(count - right, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_intervals_hold_the_share_and_shrink_with_pictures_and_level():
    for count in (1, 2, 3, 7, 50, 10_000):
        for right in {0, 1, count // 2, count}:
            low, high = wilson(right, count)
            assert 0 <= low <= right / count <= high <= 1
            assert low < high
    assert wilson(0, 0) == (0, 1)
    width = [high - low for low, high in (wilson(5, 10), wilson(50, 100), wilson(50, 100, level=0.5))]
    assert width[0] > width[1] > width[2]


def test_each_class_has_its_accuracy_and_what_it_was_taken_for():
    made = outputs(["a", "b", "c"], [0, 0, 0, 0, 1, 1], [0, 1, 1, 2, 1, 1])
    first, second, third = per_class(made, {"a": 10, "b": 3})
    assert list(first) == [
        *("class", "train_pictures", "pictures", "top1", "top1_low", "top1_high", "precision", "recall", "f1"),
        *("most_taken_for", "taken_for_count"),
    ]
    assert (first["precision"], first["recall"], first["f1"]) == (1, 0.25, 0.4)
    assert (second["precision"], second["recall"], second["f1"]) == (0.5, 1, pytest.approx(2 / 3))
    # No image, and one that is taken for it
    assert (third["precision"], third["recall"], third["f1"]) == (0, None, 0)
    assert (first["top1"], first["top1_low"], first["top1_high"]) == (0.25, *wilson(1, 4))
    assert (first["most_taken_for"], first["taken_for_count"]) == ("b", 2)
    assert (second["class"], second["top1"], second["train_pictures"]) == ("b", 1, 3)
    assert (second["most_taken_for"], second["taken_for_count"]) == (None, 0)
    assert third["pictures"] == 0
    assert third["train_pictures"] == 0
    assert third["top1"] is third["top1_low"] is third["top1_high"] is None
    assert per_class(made)[0]["train_pictures"] is None
    alone = per_class(outputs(["a", "b"], [0], [0]))[1]
    assert alone["precision"] is alone["recall"] is alone["f1"] is None


def test_beyond_five_classes_there_is_top5():
    made = outputs([*"abcdef"], [0, 0, 1], [1, 2, 1])
    first = per_class(made)[0]
    # The fifth choice after b is f; a is the fifth after c.
    assert (first["top1"], first["top5"]) == (0, 0.5)
    assert (first["top5_low"], first["top5_high"]) == wilson(1, 2)
    assert "top5" not in per_class(outputs([*"abcde"], [0], [1]))[0]


def test_the_worst_class_is_drawn_first_with_its_interval():
    rows = per_class(outputs(["good", "bad", "none"], [0, 0, 1, 1], [0, 0, 0, 1]))
    [axes] = drawn(accuracy_figure(rows)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bad (2)", "good (2)"]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 1]
    [[first, _]] = [line.get_segments() for line in axes.collections]
    assert tuple(first[:, 0]) == pytest.approx(wilson(1, 2))
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("count", [1, 2, 10, 60, 102, 1000])
def test_any_number_of_classes_can_be_read(count):
    figure = drawn(accuracy_figure(table(count)))
    [axes] = figure.axes
    shown = axes.get_yticklabels()
    assert len(shown) == (count if count <= 60 else 40)
    assert (f"the worst 40 of {count:,}" in figure.get_suptitle()) == (count > 60)
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.y0)
    assert all(one.y1 <= other.y0 for one, other in pairwise(boxes))
    assert all(box.x0 >= 0 for box in boxes)
    assert axes.get_window_extent().width > figure.bbox.width / 3


@pytest.mark.parametrize("count", [1, 2, 10, 102, 1000])
def test_accuracy_is_drawn_against_training_pictures_with_names_that_do_not_overlap(count):
    rows = table(count)
    figure = drawn(counts_figure(rows))
    [axes] = figure.axes
    points = axes.collections[0].get_offsets()
    assert points.tolist() == [[row["train_pictures"], row["top1"]] for row in rows]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert boxes
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    frame = axes.get_window_extent().padded(2)
    assert all(frame.containsx(box.x0) and frame.containsx(box.x1) and frame.containsy(box.y0) for box in boxes)
    pixels = axes.transData.transform(points)
    assert not any(box.count_contains(pixels) for box in boxes)


def test_the_title_has_the_rank_correlation_if_there_is_one():
    def title(counts: list[int], shares: list[float]) -> str:
        rows = [
            {"class": str(number), "pictures": 4, "train_pictures": count, "top1": share}
            for number, (count, share) in enumerate(zip(counts, shares, strict=True))
        ]
        return counts_figure(rows).get_suptitle()

    assert "1.00" in title([1, 10, 20, 30, 1000], [0.1, 0.2, 0.3, 0.4, 0.9])
    assert "-1.00" in title([1, 10, 20, 30, 1000], [0.9, 0.4, 0.3, 0.2, 0.1])
    # Equal ranks are shared: 1, 2.5, 2.5, 4, 5 and 1, 2, 3, 4, 5
    assert f"{9.5 / math.sqrt(9.5 * 10):.2f}" in title([1, 5, 5, 9, 12], [0.1, 0.2, 0.3, 0.4, 0.5])
    assert "correlation" not in title([3] * 5, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert "correlation" not in title([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])
    assert "correlation" not in title([3], [0.1])


def test_classes_without_pictures_or_counts_are_left_out():
    rows = [{"class": "a", "pictures": 0, "train_pictures": 3, "top1": None}]
    rows += [{"class": "b", "pictures": 3, "train_pictures": None, "top1": 0.5}]
    assert len(drawn(counts_figure(rows)).axes[0].collections[0].get_offsets()) == 0
