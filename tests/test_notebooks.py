"""The notebooks run from top to bottom, hold no logic of their own, and are committed without outputs."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests.conftest import REPOSITORY


def _quickstart(names: dict[str, Any]) -> None:
    assert names["transfer"]["test/top1"] > names["scratch"]["test/top1"] + 0.15


def _explore(names: dict[str, Any]) -> None:
    assert names["figures"]["unreadable"] == names["figures"]["duplicates"] == 0
    assert names["found"]["unreadable"] == 1
    assert names["found"]["duplicates/across_splits"] == len(names["copied"]) == 2


def _investigate(names: dict[str, Any]) -> None:
    assert names["measured"]["test/top1"] == pytest.approx(names["figures"]["test/top1"])
    assert names["temperature"] == pytest.approx(names["model"].temperature, abs=1e-3)
    assert names["maps"].shape[0] == len(names["shown"]) == 6
    assert names["found"] >= 7


def _compare(names: dict[str, Any]) -> None:
    assert names["done"].returncode == 0
    assert names["best"]["runs"] == len(names["rows"]) == 5
    top1 = [float(row["test/top1"]) for row in names["rows"]]
    assert top1 == sorted(top1, reverse=True)
    assert Path(names["rows"][-1]["folder"]) == names["work"] / "scratch"


# What must have come out at the end of each
EXPECTED: dict[str, Callable[[dict[str, Any]], None]] = {
    "01_quickstart": _quickstart,
    "02_explore_data": _explore,
    "03_investigate_a_model": _investigate,
    "04_compare_and_sweep": _compare,
}
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def _code_cells(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == list(EXPECTED)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_neither_outputs_nor_logic(notebook):
    for cell in _code_cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        logic = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.Try)
        assert not any(isinstance(node, logic) for node in ast.walk(ast.parse("".join(cell["source"]))))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache for all notebooks, so that the built-in images are drawn and their features computed once."""
    return tmp_path_factory.mktemp("drawn")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TLEARN_CACHE", str(drawn))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    matplotlib.use("Agg")
    names: dict[str, object] = {}
    for number, cell in enumerate(_code_cells(notebook)):
        exec(compile("".join(cell["source"]), f"{notebook.name}[{number}]", "exec"), names)
    EXPECTED[notebook.stem](names)
