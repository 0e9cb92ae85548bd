"""What the tables and figures of a data set say."""

import warnings
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from tests.conftest import draw
from tlearn.analysis.data_profile import (
    class_figure,
    class_size_figure,
    class_table,
    duplicate_table,
    few_of_each,
    image_sizes,
    size_figure,
    size_summary,
    size_table,
)
from tlearn.data.sources.base import Sample

SPLITS = {
    "train": [Sample("a/1.png", "a"), Sample("a/2.png", "a"), Sample("b/1.png", "b")],
    "val": [Sample("b/2.png", "b")],
    "test": [],
}
NAMES = ["$x_1$", "$", r"\alpha", "100 %", "ü漢字", "w" * 120, "a\nb", "\udcff", "_hidden"]


def _table(names: list[str]) -> list[dict[str, object]]:
    return [{"class": name, "train": 3 * number + 1, "val": number} for number, name in enumerate(names)]


def _draw(figure) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.draw_without_rendering()


def test_pictures_are_counted_by_class_and_split():
    assert class_table(SPLITS, ["a", "b", "none"]) == [
        {"class": "a", "train": 2, "val": 0, "test": 0},
        {"class": "b", "train": 1, "val": 1, "test": 0},
        {"class": "none", "train": 0, "val": 0, "test": 0},
    ]


def test_each_class_has_the_median_size_of_its_readable_pictures():
    sizes = {"a/1.png": (50, 20), "b/1.png": (7, 30), "b/2.png": (9, 10)}
    table = class_table(SPLITS, ["a", "b", "none"], sizes)
    assert [(row["median_width"], row["median_height"]) for row in table] == [(50, 20), (9, 30), (None, None)]
    assert [row["train"] for row in table] == [2, 1, 0]
    figure = class_size_figure(table)
    [axes] = figure.axes
    # The class with the smallest area is above, and a class without pictures has no line.
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[9, 50], [30, 20]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["width", "height"]


@pytest.mark.parametrize("count", [0, 1, 4000])
def test_sizes_of_any_number_of_classes_can_be_drawn(count):
    rows = [{"class": NAMES[at % 9], "median_width": 30 + at, "median_height": 20} for at in range(count)]
    figure = class_size_figure(rows)
    _draw(figure)
    assert figure.bbox.height * 120 / figure.dpi < 2**15


def test_sizes_are_width_and_height_and_leave_out_what_cannot_be_read(tmp_path):
    draw(tmp_path / "a" / "1.png", (1, 2, 3), (50, 20))
    draw(tmp_path / "b" / "1.png", (1, 2, 3), (7, 30))
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    assert image_sizes(tmp_path, SPLITS) == {"a/1.png": (50, 20), "b/1.png": (7, 30)}


def test_a_summary_has_smallest_median_and_largest_and_counts_the_tiny():
    summary = size_summary({"a": (50, 20), "b": (7, 30), "c": (60, 9), "d": (10, 10), "e": (90, 95)})
    assert summary == {
        **{"width/min": 7, "width/median": 50, "width/max": 90},
        **{"height/min": 9, "height/median": 20, "height/max": 95},
        "tiny": 2,
    }


def test_no_pictures_have_no_summary():
    assert size_summary({}) == {}


def test_sizes_and_groups_of_copies_become_rows():
    assert size_table({"a.png": (50, 20)}) == [{"path": "a.png", "width": 50, "height": 20}]
    assert duplicate_table([[("train", "a"), ("val", "b")], [("val", "c"), ("val", "d")]]) == [
        {"group": 0, "split": "train", "path": "a"},
        {"group": 0, "split": "val", "path": "b"},
        {"group": 1, "split": "val", "path": "c"},
        {"group": 1, "split": "val", "path": "d"},
    ]


def test_a_few_of_each_class_are_chosen_evenly():
    samples = [Sample(f"{label}{number}", label) for label, count in (("b", 9), ("a", 2)) for number in range(count)]
    assert few_of_each(samples, 3) == {"a": ["a0", "a1"], "b": ["b0", "b3", "b6"]}


def test_each_split_has_its_colour_and_bars_stack_to_the_counts():
    table = _table(["few", "some", "many"])
    figure = class_figure(table, ["train", "val"])
    [axes] = figure.axes
    train, val = axes.containers
    assert [bar.get_width() for bar in train] == [7, 4, 1]
    assert [(bar.get_x(), bar.get_width()) for bar in val] == [(7, 2), (4, 1), (1, 0)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["many", "some", "few"]
    assert to_rgba(train[0].get_facecolor()) != to_rgba(val[0].get_facecolor())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["train", "val"]


@pytest.mark.parametrize("count", [2, 102])
def test_neither_legend_nor_names_lie_over_bars_or_each_other(count):
    figure = class_figure(_table([f"class {number}" for number in range(count)]), ["train", "val"])
    _draw(figure)
    [axes] = figure.axes
    legend = axes.get_legend()
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    assert all(box.x0 >= 0 and box.x1 <= axes.get_window_extent().x0 for box in boxes)


def test_odd_names_are_drawn_and_leave_room_for_the_bars():
    figure = class_figure(_table(NAMES), ["train", "val"])
    _draw(figure)
    [axes] = figure.axes
    shown = {label.get_text() for label in axes.get_yticklabels()}
    assert {"$x_1$", "$", r"\alpha", "100 %", "ü漢字", "_hidden"} <= shown
    assert max(map(len, shown)) <= 40
    assert axes.get_window_extent().width > figure.bbox.width / 2


def test_thousands_of_classes_can_be_saved(tmp_path: Path):
    figure = class_figure(_table([f"class {number}" for number in range(4000)]), ["train", "val"])
    figure.savefig(tmp_path / "figure.png", dpi=120)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.height < 2**15


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"a": (1, 1)},
        {str(number): (224, 224) for number in range(50)},
        {"a": (40, 30), "panorama": (20_000, 500)},
    ],
    ids=["none", "one", "equal", "panorama"],
)
def test_any_sizes_are_drawn_without_a_warning(sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = size_figure(sizes)
        figure.draw_without_rendering()
    left, right = figure.axes
    assert sum(bar.get_height() for bar in left.patches) == len(sizes)
    assert len(right.collections[0].get_offsets()) == len(sizes)


def test_equal_sizes_are_one_bar_in_sight():
    left = size_figure({str(number): (224, 200) for number in range(50)}).axes[0]
    [bar] = [bar for bar in left.patches if bar.get_height()]
    low, high = left.get_xlim()
    assert low <= bar.get_x() <= 200 <= bar.get_x() + bar.get_width() <= high
