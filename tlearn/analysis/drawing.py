"""Shared by all figures: how notebooks show them, printable names, fonts for their characters, and saving."""

import io
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import get_cachedir, rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font, get_font_names
from PIL import Image

from tlearn.errors import capped, counted
from tlearn.files import write_bytes

# Chinese, Japanese and Korean as Linux, Windows and macOS have them; a name that is not installed makes matplotlib warn
_FURTHER_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Arial Unicode MS")

# How Unicode begins the names of their characters
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")


class Drawing(Figure):
    """A figure that a notebook shows as an image, with or without pyplot."""

    def _repr_png_(self) -> bytes:
        return notebook_bytes(self)


def shown(name: str, most: int = 40) -> str:
    """Return a printable name: unprintable characters replaced, a long name shortened in the middle."""
    visible = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in name)
    if len(visible) <= most:
        return visible
    end = most * 3 // 8
    return f"{visible[: most - end - 1]}\N{HORIZONTAL ELLIPSIS}{visible[-end:]}"


def fonts() -> list[str]:
    """List matplotlib's own font and installed fonts for further scripts."""
    installed = set(get_font_names())
    scripts = sorted(name for name in installed if re.fullmatch(r"Noto Sans (?!CJK|Mono|Display|UI)\w+", name))
    return ["DejaVu Sans", *(name for name in _FURTHER_FONTS if name in installed), *scripts]


def undrawable(names: Iterable[str]) -> dict[str, str]:
    """Return the names with characters that no installed font has, and the font that would have the first of them."""
    covered = set().union(*(get_font(findfont(family)).get_charmap() for family in fonts()))
    found = {}
    for name in names:
        lost = [one for one in name if one.isprintable() and not one.isspace() and ord(one) not in covered]
        if lost:
            script = unicodedata.name(lost[0], "SYMBOL").split()[0]
            found[name] = "Noto Sans CJK" if script in _CJK else f"Noto Sans {script.title()}"
    return found


def font_advice(names: Sequence[str]) -> list[str]:
    """Return a line that says which names figures draw as boxes and what to install, or none."""
    lost = undrawable(names)
    if not lost:
        return []
    families = sorted(set(lost.values()))
    packages = sorted({"fonts-noto-cjk" if "CJK" in family else "fonts-noto-core" for family in families})
    return [
        f"figures show boxes for {counted(len(lost), 'class name')}, whose characters no installed font has: "
        f"{capped(lost, 5)}; install {', '.join(families)} (Debian: apt install {' '.join(packages)}), and remove "
        f"{get_cachedir()}, where matplotlib keeps its list of fonts"
    ]


def lettering(size: int) -> dict[str, Any]:
    """Return the text style of names: fonts for their characters, without math text."""
    return {"fontsize": size, "fontfamily": fonts(), "parse_math": False}


def write_figure(path: Path, figure: Figure, dpi: int = 120) -> None:
    """Write a figure as png or svg, by the suffix of the path."""
    write_bytes(path, figure_bytes(figure, path.suffix[1:], dpi))


def figure_bytes(figure: Figure, kind: str = "png", dpi: int = 120) -> bytes:
    """Return a figure as the bytes of a png or svg file."""
    buffer = io.BytesIO()
    with _drawing():
        # Without a date, the same figure always has the same bytes.
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def notebook_bytes(figure: Figure) -> bytes:
    """Return a figure as a small png of few colours: a notebook keeps its figures, and photographs as png are large."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(figure_bytes(figure, dpi=72))) as drawn:
        drawn.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@contextmanager
def _drawing() -> Iterator[None]:
    """Suppress warnings about missing glyphs while drawing: the tables have every name."""
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": "tlearn"}):
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield
