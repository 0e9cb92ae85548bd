"""A self-contained HTML page of sections: the only place that renders HTML.

The template escapes all text, and unprintable characters are marked. The page loads nothing: images, style and script
are embedded, and its content-security policy forbids everything else.
"""

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from tlearn.analysis.drawing import shown
from tlearn.files import write_text

# Longer than any path can be
_LONGEST = 5000
# Characters of a cell that stay on one line
_WIDEST = 40


@dataclass(frozen=True)
class KeyMetrics:
    """The few numbers that matter most: name, value and a note to each."""

    items: Sequence[tuple[str, str, str]]
    kind = "key_metrics"


@dataclass(frozen=True)
class Text:
    """Paragraphs; a `warning` stands out."""

    lines: Sequence[str]
    warning: bool = False
    kind = "text"


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to a file, given relative to the page."""

    text: str
    path: str

    @property
    def address(self) -> str:
        """The path as an address, which can have no other scheme: a colon in it is encoded, too."""
        try:
            return quote(os.fsencode(self.path))
        # No file can be called so.
        except UnicodeEncodeError:
            return ""


@dataclass(frozen=True)
class Table:
    """Rows that a reader can sort by each column.

    Args:
        rows: one mapping of columns to text, numbers, `Link`s or None each; the first one names the columns.
        caption: what it shows.
        labels: what stands above a column in place of its name.
        file: where the same rows lie.
    """

    rows: Sequence[Mapping[str, Any]]
    caption: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    kind = "table"

    @property
    def columns(self) -> list[str]:
        """The heads of the columns."""
        return [self.labels.get(name, name) for name in self.rows[0]] if self.rows else []


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Args:
        content: the bytes of a file.
        media: its media type.
        width: as it should be on the page, in pixels.
        caption: what it shows.
        files: where it, and what it shows, lie.
    """

    content: bytes
    media: str
    width: int
    caption: str
    files: Sequence[str] = ()
    kind = "picture"

    @property
    def size(self) -> str:
        """How far it may shrink on a narrow page before its text becomes too small."""
        return "wide" if self.width > 1200 else "readable" if self.width > 620 else "small"


@dataclass(frozen=True)
class Card:
    """An image of a gallery.

    Args:
        thumbnail: the bytes of a JPEG, or why there is none.
        name: its file.
        facts: what is said of it, as pairs of name and value.
        bars: classes, their probabilities and whether they are the right ones.
    """

    thumbnail: bytes | str
    name: str
    facts: Sequence[tuple[str, str]] = ()
    bars: Sequence[tuple[str, float, bool]] = ()


@dataclass(frozen=True)
class Gallery:
    """Images side by side; `groups` of several belong together."""

    groups: Sequence[Sequence[Card]]
    caption: str = ""
    kind = "gallery"


@dataclass(frozen=True)
class Group:
    """Blocks that a reader can fold away."""

    title: str
    blocks: "Sequence[Block]"
    opened: bool = False
    kind = "group"


Block = KeyMetrics | Text | Table | Picture | Gallery | Group


@dataclass(frozen=True)
class Section:
    """A part of the page that its table of contents names."""

    title: str
    blocks: Sequence[Block]


def page_text(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """Render a page as text that is always valid Unicode."""
    return _template().render(title=title, subtitle=subtitle, sections=sections)


def write_page(path: Path, title: str, sections: Sequence[Section], subtitle: str = "") -> None:
    """Write a page."""
    write_text(path, page_text(title, sections, subtitle))


def number(value: float) -> str:
    """Write a number for readers: whole ones with commas, others with four digits that count."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "data_uri": _data_uri, "fingerprint": _fingerprint, "number": number}
    return environment.get_template("page.html")


def _visible(value: Any) -> Any:
    """Mark unprintable characters in every value of the page, except in the template's own markup."""
    return value if isinstance(value, Markup) else shown(str(value), _LONGEST)


def _cell(value: Any) -> tuple[str, str, str]:
    """Return the kind of a cell, its text, and the number by which it is sorted."""
    if value is None or value == "":
        return "none", "", ""
    if isinstance(value, bool):
        return "text", "yes" if value else "no", ""
    if isinstance(value, int | float):
        # Values that are not numbers come last, as missing ones do.
        return ("number", number(value), repr(value)) if math.isfinite(value) else ("none", str(value), "")
    text = value.text if isinstance(value, Link) else str(value)
    return "long" if len(text) > _WIDEST else "text", text, ""


def _data_uri(content: bytes, media: str) -> Markup:
    # No base64 character has a meaning in HTML.
    return Markup("data:{};base64,{}").format(media, base64.b64encode(content).decode("ascii"))


def _fingerprint(text: str) -> Markup:
    """Return the digest of the only script that a browser may run."""
    return Markup("sha256-{}").format(base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii"))
