"""Figures show themselves in notebooks."""

import ast
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.test_imports import MODULES
from tlearn.analysis.drawing import Drawing
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
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("Figure", "plt.", "pyplot."))
    }
    assert made == set()
    assert isinstance(curves_figure({}), Drawing)
