"""Which classes are taken for which, as tables and as a figure."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.drawn_figures import drawn
from tlearn.analysis.confusion import confused_pairs, confusion_figure, confusion_matrix, matrix_table
from tlearn.analysis.drawing import rendered
from tlearn.analysis.outputs import Outputs
from tlearn.files import read_table, write_table

NAMES = ["$x_1$", "$", r"\alpha", "100 %", "ü漢字", "w" * 200, "a\nb", "\udcff", "_hidden", "class"]


def made(count: int, pictures: int = 20) -> tuple[Tensor, list[str]]:
    """Give a matrix in which each class is taken for the one half way round, and some for others."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.zeros(count, count, dtype=torch.long)
    for row in range(count):
        wrong = int(torch.randint(0, 6, (), generator=generator))
        matrix[row, row] = pictures - wrong
        matrix[row, (row + count // 2) % count] += wrong // 2
        matrix[row, int(torch.randint(count, (), generator=generator))] += wrong - wrong // 2
    return matrix, [NAMES[row] if count == 10 else f"class {row}" for row in range(count)]


def names(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_rows_are_classes_and_columns_predictions():
    targets, predictions = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 1, 1, 1, 0])
    logits = torch.eye(4)[predictions]
    matrix = confusion_matrix(Outputs("val", [*"abcd"], Path(), [""] * 5, targets, logits))
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_pairs_are_listed_with_their_part_of_the_class_most_pictures_first():
    matrix = torch.tensor([[5, 1, 0], [3, 0, 1], [0, 1, 1]])
    assert confused_pairs(matrix, [*"abc"]) == [
        {"class": "b", "taken_for": "a", "count": 3, "of": 4, "fraction": 0.75},
        {"class": "c", "taken_for": "b", "count": 1, "of": 2, "fraction": 0.5},
        {"class": "b", "taken_for": "c", "count": 1, "of": 4, "fraction": 0.25},
        {"class": "a", "taken_for": "b", "count": 1, "of": 6, "fraction": 1 / 6},
    ]
    assert confused_pairs(torch.eye(3, dtype=torch.long), [*"abc"]) == []


def test_the_table_has_each_class_once_whatever_its_name(tmp_path: Path):
    matrix, classes = made(10)
    table = matrix_table(matrix, classes)
    write_table(tmp_path / "matrix.csv", table)
    read = read_table(tmp_path / "matrix.csv")
    assert [row["class"] for row in read] == classes
    assert [[int(row[f"predicted {name}"]) for name in classes] for row in read] == matrix.tolist()


@pytest.mark.parametrize("count", [2, 10, 20, 21, 102, 120])
def test_every_name_can_be_read(count):
    matrix, classes = made(count)
    figure = drawn(confusion_figure(matrix, classes))
    axes = figure.axes[0]
    rows, columns = axes.yaxis.get_ticklabels(), axes.xaxis.get_ticklabels()
    assert len(rows) == len(columns) == count
    assert names(axes.xaxis) == names(axes.yaxis)
    for label in (*rows, *columns):
        assert label.get_fontsize() >= 6
        box = label.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
    heights = sorted((label.get_window_extent() for label in rows), key=lambda box: box.y0)
    assert all(one.y1 <= other.y0 + 1 for one, other in pairwise(heights))
    widths = sorted((label.get_window_extent() for label in columns), key=lambda box: box.x0)
    assert all(one.x1 <= other.x0 + 1 for one, other in pairwise(widths))
    assert axes.yaxis.label.get_window_extent().x0 >= 0
    # Numbers in the cells of few classes
    numbers = [text.get_text() for text in axes.texts]
    assert sorted(numbers) == (sorted(map(str, matrix[matrix > 0].tolist())) if count <= 20 else [])


def test_few_classes_keep_their_order():
    matrix, classes = made(20)
    assert names(confusion_figure(matrix, classes).axes[0].yaxis) == classes


def test_many_classes_stand_beside_those_they_are_confused_with():
    count = 102
    matrix = 20 * torch.eye(count, dtype=torch.long)
    for row in range(0, count // 2):
        matrix[row, row + count // 2] = 5
    order = names(confusion_figure(matrix, [f"{row}" for row in range(count)]).axes[0].yaxis)
    assert sorted(order, key=int) == [str(row) for row in range(count)]
    for row in range(0, count // 2):
        assert abs(order.index(str(row)) - order.index(str(row + count // 2))) == 1


def test_groups_of_confused_classes_stay_together():
    groups = [[30, 0, 60], [1, 31, 61, 62], [2, 32]]
    matrix = 20 * torch.eye(63, dtype=torch.long)
    for group in groups:
        for one, other in pairwise(group):
            matrix[one, other] = matrix[other, one] = 3
    order = names(confusion_figure(matrix, [f"{row}" for row in range(63)]).axes[0].yaxis)
    for group in groups:
        places = [order.index(str(row)) for row in group]
        assert max(places) - min(places) == len(group) - 1
        assert places in (sorted(places), sorted(places, reverse=True))


def test_of_very_many_classes_those_that_are_confused_most_are_drawn():
    matrix = 50 * torch.eye(1000, dtype=torch.long)
    worst = [*range(7, 500, 17), *range(507, 1000, 17)]
    for row in worst[: len(worst) // 2]:
        matrix[row, row + 500] += 9
    # Spread over classes that are hardly ever confused with each other
    matrix[4, 600:650] += 1
    figure = confusion_figure(matrix, [f"class {row}" for row in range(1000)])
    shown = names(figure.axes[0].yaxis)
    assert len(shown) == 60
    assert {f"class {row}" for row in worst} <= set(shown)
    assert "60 of 1,000 classes" in figure.get_suptitle()


def test_one_mistake_of_many_is_seen_in_another_hue_than_what_is_right():
    matrix = 60 * torch.eye(102, dtype=torch.long)
    matrix[3, 3], matrix[3, 80] = 59, 1
    matrix[50, 50], matrix[50, 60] = 10, 50
    figure = confusion_figure(matrix, [f"class {row}" for row in range(102)])
    pixels = np.asarray(rendered(figure)).astype(int)
    axes = figure.axes[0]
    order = names(axes.yaxis)

    def colour(row: int, column: int) -> np.ndarray:
        place = order.index(f"class {column}"), order.index(f"class {row}")
        x, y = axes.transData.transform(place)
        return pixels[pixels.shape[0] - 1 - round(y), round(x)]

    red, _green, blue = colour(3, 80)
    assert red > 200
    assert red - blue > 50
    assert (colour(50, 60) < colour(3, 80) - 20).any()
    assert (colour(0, 1) > 230).all()
    red, _green, blue = colour(0, 0)
    assert blue > red + 50


def test_a_class_without_pictures_is_grey_and_no_warning():
    matrix = torch.tensor([[3, 1], [0, 0]])
    figure = drawn(confusion_figure(matrix, ["a", "b"]))
    right, wrong = figure.axes[0].images
    assert np.isnan(right.get_array().filled(np.nan)[1]).all()
    assert np.isnan(wrong.get_array().filled(np.nan)[1]).all()
    assert wrong.get_array()[0, 1] == pytest.approx(0.25)
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1"]
