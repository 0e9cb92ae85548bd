"""Shared by all figures: how notebooks show them, printable names, fonts for their characters, and saving."""

import io
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import get_cachedir
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font, get_font_names
from PIL import Image

from tlearn.errors import capped, counted
from tlearn.files import write_bytes

# Chinese, Japanese and Korean as Linux, Windows and macOS have them; a name that is not installed makes matplotlib warn
_FURTHER_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Arial Unicode MS")

# How Unicode begins the names of their characters
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")

# Pixels per inch: twice those of a page, so that lines and text are sharp on any screen
DPI = 192

# Bytes of a png that may hold photographs
_LARGE = 300_000


class Drawing(Figure):
    """A figure that a notebook shows as an image, with or without pyplot; its default resolution is that of pages."""

    def __init__(self, *, dpi: float = DPI, **more: Any) -> None:
        super().__init__(dpi=dpi, **more)

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


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as png."""
    write_bytes(path, png_bytes(rendered(figure)))


def rendered(figure: Figure) -> Image.Image:
    """Draw a figure once, at its own resolution."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # The tables have every name.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        canvas.draw()
    size, dpi = canvas.get_width_height(), (figure.dpi, figure.dpi)
    image = Image.frombuffer("RGBA", size, canvas.buffer_rgba(), "raw", "RGBA", 0, 1).convert("RGB")
    image.info["dpi"] = dpi
    return image


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a png file."""
    buffer = io.BytesIO()
    # A higher level takes several times as long, for files that are hardly smaller.
    image.save(buffer, "PNG", compress_level=2, dpi=image.info["dpi"])
    return buffer.getvalue()


def compact(image: Image.Image, png: bytes) -> tuple[bytes, str]:
    """Return an image as its PNG, or as a JPEG where that is far smaller (photographs), and the media type."""
    buffer = io.BytesIO()
    if len(png) > _LARGE:
        image.convert("RGB").save(buffer, "JPEG", quality=88)
    jpeg = buffer.getvalue()
    return (jpeg, "image/jpeg") if jpeg and len(jpeg) < len(png) / 3 else (png, "image/png")


def notebook_bytes(figure: Figure) -> bytes:
    """Return a figure as a small png of few colours: a notebook keeps its figures, and photographs as png are large."""
    buffer, dpi = io.BytesIO(), figure.dpi
    figure.set_dpi(72)
    try:
        drawn = rendered(figure)
    finally:
        figure.set_dpi(dpi)
    drawn.quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
