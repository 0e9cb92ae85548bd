"""The files beside a page: figures as PNG, and their data as CSV of the same name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from tlearn.analysis.drawing import compact, png_bytes, rendered
from tlearn.files import write_bytes, write_table
from tlearn.report.page import Block, Picture, Table, Text

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
            with Image.open(path) as image:
                return _shown(image, path.read_bytes(), caption, [name])

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
        image = rendered(figure)
        png = png_bytes(image)
        write_bytes(self._folder / files[0], png)
        if rows:
            files.append(self._write(stem, caption, rows))
        return _shown(image, png, caption, files)

    def _write(self, stem: str, caption: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
        name = self._name(f"{stem}.csv", caption)
        write_table(self._folder / name, rows, columns)
        return name

    def _name(self, file: str, caption: str) -> str:
        name = f"{self._below}/{file}" if self._below else file
        self.files[name] = caption
        return name


def _shown(image: Image.Image, png: bytes, caption: str, files: Sequence[str]) -> Picture:
    dpi, _ = image.info.get("dpi", (_PER_INCH, _PER_INCH))
    return Picture(*compact(image, png), round(image.width * _PER_INCH / dpi), caption, files)
