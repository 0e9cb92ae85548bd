"""Figures and tables of a page are also files, and what fails becomes a note."""

import pytest
from matplotlib.figure import Figure

from tests.conftest import draw
from tlearn.files import read_table
from tlearn.report.page import Picture, Table, Text
from tlearn.report.page_files import Exhibits

ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def _figure(texts: int = 1) -> Figure:
    figure = Figure(figsize=(5, 2), layout="constrained")
    axes = figure.subplots()
    for number in range(texts):
        axes.text(number / texts, 0.5, str(number))
    return figure


def test_a_figure_lies_beside_the_page_with_what_it_shows(tmp_path):
    exhibits = Exhibits(tmp_path, "report")
    picture = exhibits.figure("curves", "How it learned", _figure, ROWS)
    assert isinstance(picture, Picture)
    assert picture.files == ["report/curves.png", "report/curves.csv"]
    assert (tmp_path / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert read_table(tmp_path / "report" / "curves.csv") == [{"a": "1", "b": "x"}, {"a": "2", "b": ""}]
    assert list(exhibits.files) == picture.files


@pytest.mark.parametrize(("texts", "media"), [(1, "image/svg+xml"), (2000, "image/png")])
def test_a_light_figure_is_lines_in_the_page_and_a_crowded_one_pixels(tmp_path, texts, media):
    picture = Exhibits(tmp_path).figure("one", "One", lambda: _figure(texts))
    assert (picture.media, picture.width) == (media, 480)


def test_a_drawn_file_is_shown_as_it_is(tmp_path):
    path = draw(tmp_path / "report" / "batch.png", (1, 2, 3), (600, 100))
    picture = Exhibits(tmp_path, "report").file(path, "A batch")
    assert (picture.content, picture.files, picture.width) == (path.read_bytes(), ["report/batch.png"], 480)


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
