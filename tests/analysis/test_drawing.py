"""Figures show themselves in notebooks."""

import ast
import re
import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.test_imports import MODULES
from tlearn.analysis import drawing
from tlearn.analysis.drawing import Drawing, font_advice, lettering, undrawable
from tlearn.analysis.learning_curves import curves_figure


def test_a_notebook_shows_a_figure_as_an_image_of_what_is_drawn():
    formatters = pytest.importorskip("IPython.core.formatters", reason="no notebook without IPython")
    figure = Drawing(figsize=(2, 1))
    figure.add_subplot().plot([0, 1], [0, 1], color="red")
    data, _ = formatters.DisplayFormatter().format(figure)
    pixels = np.asarray(Image.open(BytesIO(data["image/png"])).convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(axis=1).any()


def test_every_figure_of_the_package_is_one():
    made = {
        name
        for name, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and re.match(r"Figure$|(plt|pyplot)\.", ast.unparse(node.func))
    }
    assert made == set()
    assert isinstance(curves_figure({}), Drawing)


def test_names_that_no_font_can_draw_are_those_that_matplotlib_draws_as_boxes(monkeypatch):
    monkeypatch.setattr(drawing, "fonts", lambda: ["DejaVu Sans"])
    names = ["cat", "Käse", "кот", "قط", "犬", "हाथी", "ไทย", "한국", "a 犬", "Ω≈ç", "\U0001f9ff"]
    boxes = []
    for name in names:
        figure = Drawing(figsize=(1, 1))
        figure.text(0, 0, name, **lettering(8))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(BytesIO(), format="png")
        boxes += [name] if any("Glyph" in str(one.message) for one in caught) else []
    assert list(undrawable(names)) == boxes
    assert {"犬", "हाथी", "ไทย", "한국", "a 犬"} <= set(boxes)


def test_the_advice_names_classes_and_fonts_once(monkeypatch):
    monkeypatch.setattr(drawing, "fonts", lambda: ["DejaVu Sans"])
    [line] = font_advice(["cat", "犬", "हाथी"])
    assert line.startswith("figures show boxes for 2 class names, whose characters no installed font has: 犬, हाथी; ")
    assert "install Noto Sans CJK, Noto Sans Devanagari (Debian: apt install fonts-noto-cjk fonts-noto-core)" in line
    assert font_advice(["cat", "Käse"]) == []
