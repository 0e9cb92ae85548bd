"""The page of a data set."""

from pathlib import Path

import pytest

from tests.conftest import draw
from tests.report.test_page import HOSTILE, _Elements
from tlearn.data.prepare import ImageSet
from tlearn.data.sources.base import Sample
from tlearn.files import read_table
from tlearn.report import data_report
from tlearn.report.data_report import Survey, write_survey


def _survey(root: Path, names=("ant", "bee"), **more) -> Survey:
    """Give a data set of three pictures of each class, two of them in train."""
    samples = [Sample(f"{label}/{number}.png", label) for label in names for number in range(3)]
    splits = {"train": [sample for sample in samples if not sample.path.endswith("2.png")]}
    splits |= {"val": [sample for sample in samples if sample.path.endswith("2.png")]}
    sizes = {sample.path: (40, 32) for sample in samples}
    images = ImageSet(root, splits, list(names), more.pop("notes", []), more.pop("unreadable", {}))
    return Survey("pictures before training", images, **{"sizes": sizes, "duplicates": [], **more})


def _page(folder: Path, survey: Survey) -> _Elements:
    folder.mkdir()
    write_survey(folder, survey)
    page = _Elements((folder / "report.html").read_bytes().decode("utf-8", errors="strict"))
    assert "could not be made" not in page.text
    return page


@pytest.fixture
def root(tmp_path):
    for name in ("ant", "bee"):
        for number in range(3):
            draw(tmp_path / "pictures" / name / f"{number}.png", (200, 30, 30), seed=number)
    return tmp_path / "pictures"


def test_counts_sizes_and_pictures_of_each_class_are_shown(tmp_path, root):
    page = _page(tmp_path / "out", _survey(root, notes=["odd"]))
    for text in ("train 4, val 2", "40 to 40 pixels", "odd"):
        assert text in page.text
    assert len([source for source in page.values("img", "src") if "image/jpeg" in str(source)]) == 6
    assert read_table(tmp_path / "out" / "sizes.csv")[0] == {"path": "ant/0.png", "width": "40", "height": "32"}
    bees = {"class": "bee", "train": "2", "val": "1", "median_width": "40", "median_height": "32"}
    assert read_table(tmp_path / "out" / "classes.csv")[1] == bees
    for name in ("images_per_class.png", "class_sizes.png", "image_sizes.png", "duplicates.csv"):
        assert (tmp_path / "out" / name).is_file()


def test_what_is_odd_is_shown_and_copies_across_splits_come_first(tmp_path, root):
    within, across = [("train", "ant/0.png"), ("train", "ant/1.png")], [("train", "bee/0.png"), ("val", "bee/2.png")]
    survey = _survey(root, duplicates=[within, across], unreadable={"ant/9.png": "empty file"})
    assert survey.across_splits == [across]
    page = _page(tmp_path / "out", survey)
    for text in ("2 of 2 groups of identical files, 1 of them across splits", "ant/9.png", "empty file"):
        assert text in page.text
    assert page.values("div", "class").count("set several") == 2
    rows = read_table(tmp_path / "out" / "duplicates.csv")
    assert [(row["group"], row["path"]) for row in rows][:2] == [("0", "bee/0.png"), ("0", "bee/2.png")]
    assert read_table(tmp_path / "out" / "unreadable.csv") == [{"path": "ant/9.png", "reason": "empty file"}]


def test_many_classes_share_the_room(tmp_path, root, monkeypatch):
    # 30 pictures are 2 for each of 15 classes, though each has 3.
    monkeypatch.setattr(data_report, "_PICTURES", 30)
    names = [f"class {number}" for number in range(15)]
    page = _page(tmp_path / "out", _survey(root, names))
    assert page.values("div", "class").count("card") == 30
    assert page.text.count("no such file") == 30


def test_no_name_makes_elements(tmp_path, root):
    structures = []
    for number, names in enumerate((HOSTILE, ["n" * len(name) + str(place) for place, name in enumerate(HOSTILE)])):
        names = [name.replace("\ud800", "") + ("" if number else "0") for name in names]
        unreadable = {name: name for name in names}
        copies = [[("train", name), ("val", name)] for name in names]
        survey = _survey(root / names[0], names, duplicates=copies, unreadable=unreadable, notes=names)
        structures.append(_page(tmp_path / f"out{number}", survey).structure)
    assert structures[0] == structures[1]


def test_no_readable_picture_is_no_problem_for_the_page(tmp_path, root):
    page = _page(tmp_path / "out", Survey("title", ImageSet(root, {"train": []}, []), {}, []))
    assert page.text.count("None.") == 2
