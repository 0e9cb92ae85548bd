"""Figures and tables of a page are also files, and what fails becomes a note."""

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tests.conftest import draw
from tlearn.analysis.drawing import Drawing, write_figure
from tlearn.files import read_table
from tlearn.report.page import Picture, Table, Text
from tlearn.report.page_files import Exhibits

ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def _figure() -> Figure:
    figure = Drawing(figsize=(5, 2), layout="constrained")
    figure.subplots().plot([0, 1], [0, 1])
    return figure


def test_a_figure_lies_beside_the_page_with_what_it_shows(tmp_path):
    exhibits = Exhibits(tmp_path, "report")
    picture = exhibits.figure("curves", "How it learned", _figure, ROWS)
    assert isinstance(picture, Picture)
    assert picture.files == ["report/curves.png", "report/curves.csv"]
    assert (tmp_path / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert read_table(tmp_path / "report" / "curves.csv") == [{"a": "1", "b": "x"}, {"a": "2", "b": ""}]
    assert list(exhibits.files) == picture.files


def test_a_figure_has_two_pixels_for_each_of_the_page(tmp_path):
    picture = Exhibits(tmp_path).figure("one", "One", _figure)
    assert (picture.media, picture.width, picture.content) == ("image/png", 480, (tmp_path / "one.png").read_bytes())
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (960, 384)


def test_a_large_figure_of_photographs_is_a_jpeg_in_the_page(tmp_path):
    def make() -> Figure:
        figure = Drawing(figsize=(4, 4))
        figure.add_axes((0, 0, 1, 1)).imshow(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
        return figure

    picture = Exhibits(tmp_path).figure("one", "One", make)
    assert (picture.media, picture.width) == ("image/jpeg", 384)
    assert len(picture.content) < (tmp_path / "one.png").stat().st_size / 3


def test_a_drawn_file_is_shown_as_it_is(tmp_path):
    plain = draw(tmp_path / "report" / "batch.png", (1, 2, 3), (600, 100))
    picture = Exhibits(tmp_path, "report").file(plain, "A batch")
    assert (picture.content, picture.files, picture.width) == (plain.read_bytes(), ["report/batch.png"], 600)
    write_figure(tmp_path / "report" / "rates.png", _figure())
    assert Exhibits(tmp_path, "report").file(tmp_path / "report" / "rates.png", "Rates").width == 480


def test_a_table_is_written_whole_and_may_be_shown_in_part(tmp_path):
    table = Exhibits(tmp_path).table("all", "All", ROWS, {"a": "A"}, shown=ROWS[:1])
    assert isinstance(table, Table)
    assert (table.rows, table.columns, table.file) == (ROWS[:1], ["A", "b"], "all.csv")
    assert len(read_table(tmp_path / "all.csv")) == 2


def test_a_table_without_rows_has_its_header(tmp_path):
    note = Exhibits(tmp_path).note("none", "None", [], ("a", "b"))
    assert note == Text(["None: none.csv"])
    assert (tmp_path / "none.csv").read_text(encoding="utf-8").split() == ["a,b"]


def test_what_cannot_be_made_becomes_a_note(tmp_path):
    def fail() -> Figure:
        raise ZeroDivisionError("no pictures")

    exhibits = Exhibits(tmp_path)
    note = exhibits.figure("one", "One", fail)
    assert isinstance(note, Text)
    assert note.warning
    assert note.lines == ["One: could not be made (ZeroDivisionError: no pictures)"]
    assert isinstance(exhibits.file(tmp_path / "missing.png", "A file"), Text)
