"""The files beside a page: figures as PNG, and their data as CSV of the same name."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text as Letters
from PIL import Image

from tlearn.analysis.drawing import figure_bytes
from tlearn.files import write_bytes, write_table
from tlearn.report.page import Block, Picture, Table, Text

# Above either, a figure is smaller and shown faster as pixels.
_MOST_TEXTS, _MOST_BYTES = 300, 300_000
_DPI = 120
# Pixels of a page per inch of a figure
_PER_INCH = 96


class Exhibits:
    """Build figures and tables of a page and write their files; one that fails becomes a note on the page.

    Args:
        folder: where the page lies.
        below: the folder in it for the files, or nothing for the same.
    """

    def __init__(self, folder: Path, below: str = "") -> None:
        self._folder, self._below = folder, below
        # file, relative to the page -> what it holds
        self.files: dict[str, str] = {}

    def figure(
        self, stem: str, caption: str, make: Callable[[], Figure], rows: Sequence[Mapping[str, Any]] = ()
    ) -> Block:
        """Draw a figure.

        Args:
            stem: the files' name without its ending.
            caption: what it shows.
            make: gives the figure.
            rows: what it shows, as a table.
        """
        return self.attempt(caption, lambda: self._picture(stem, caption, make(), rows))

    def file(self, path: Path, caption: str) -> Block:
        """Show a PNG file that lies below the page's folder."""

        def make() -> Block:
            name = path.relative_to(self._folder).as_posix()
            self.files[name] = caption
            return _pixels(path.read_bytes(), caption, [name])

        return self.attempt(caption, make)

    def table(
        self,
        stem: str,
        caption: str,
        rows: Sequence[Mapping[str, Any]],
        labels: Mapping[str, str] | None = None,
        shown: Sequence[Mapping[str, Any]] | None = None,
    ) -> Block:
        """Show a table.

        Args:
            stem: the file's name without its ending.
            caption: what it shows.
            rows: all rows, as they are written.
            labels: what stands above a column in place of its name.
            shown: the rows of the page, where it has others.
        """

        def make() -> Block:
            file = self._write(stem, caption, rows)
            return Table(rows if shown is None else shown, caption, labels or {}, file)

        return self.attempt(caption, make)

    def note(self, stem: str, caption: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> Block:
        """Write a table, and only say where it lies; `columns` are its header where it has no rows."""
        return self.attempt(caption, lambda: Text([f"{caption}: {self._write(stem, caption, rows, columns)}"]))

    def attempt(self, what: str, make: Callable[[], Block]) -> Block:
        """Return the block that `make` builds, or a note of why it failed."""
        try:
            return make()
        # A page is made at the end of a run, which must not fail of one figure.
        except Exception as error:
            return Text([f"{what}: could not be made ({type(error).__name__}: {error})"], warning=True)

    def _picture(self, stem: str, caption: str, figure: Figure, rows: Sequence[Mapping[str, Any]]) -> Picture:
        files = [self._name(f"{stem}.png", caption)]
        png = figure_bytes(figure, "png", _DPI)
        write_bytes(self._folder / files[0], png)
        if rows:
            files.append(self._write(stem, caption, rows))
        if len(figure.findobj(Letters)) <= _MOST_TEXTS:
            # Everything has its place by now, and finding it again would take longer than drawing.
            figure.set_layout_engine("none")
            svg = figure_bytes(figure, "svg")
            if len(svg) <= _MOST_BYTES:
                return Picture(svg, "image/svg+xml", round(figure.get_figwidth() * _PER_INCH), caption, files)
        return _pixels(png, caption, files)

    def _write(self, stem: str, caption: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
        name = self._name(f"{stem}.csv", caption)
        write_table(self._folder / name, rows, columns)
        return name

    def _name(self, file: str, caption: str) -> str:
        name = f"{self._below}/{file}" if self._below else file
        self.files[name] = caption
        return name


def _pixels(png: bytes, caption: str, files: Sequence[str]) -> Picture:
    """Show a PNG, or as JPEG where it holds photographs, which makes a large one several times smaller."""
    with Image.open(io.BytesIO(png)) as image:
        width = image.width * _PER_INCH // _DPI
        buffer = io.BytesIO()
        if len(png) > _MOST_BYTES:
            image.convert("RGB").save(buffer, "JPEG", quality=88)
    jpeg = buffer.getvalue()
    if jpeg and len(jpeg) < len(png) / 3:
        return Picture(jpeg, "image/jpeg", width, caption, files)
    return Picture(png, "image/png", width, caption, files)
