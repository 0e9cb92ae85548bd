"""The notebooks run from top to bottom in one kernel, show their figures as images, and are committed as they ran."""

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import REPOSITORY

# How many figures each shows, and what must be true at its end
EXPECTED = {
    "01_quickstart": (3, ["transfer.metrics['test/top1'] > scratch.metrics['test/top1'] + 0.15"]),
    "02_explore_data": (
        5,
        [
            "looked['unreadable'] == looked['duplicates'] == 0",
            "found['unreadable'] == 1",
            "found['duplicates/across_splits'] == len(copied) == 2",
        ],
    ),
    "03_investigate_a_model": (
        12,
        [
            "abs(tried['test/top1'] - run.metrics['test/top1']) < 1e-6",
            "abs(temperature - model.temperature) < 1e-3",
            "maps.shape[0] == len(shown)",
            "found >= 7",
        ],
    ),
    "04_compare_and_sweep": (
        2,
        [
            "best['runs'] == len(rows) == 3",
            "(reached := [float(row['test/top1']) for row in rows]) == sorted(reached, reverse=True)",
            "Path(rows[-1]['folder']) == scratch.folder",
        ],
    ),
    "05_your_own_code": (
        3,
        ["type(cosine.model().network.head).__module__ == 'mylab'", "0 < measured.metrics['test/confidence'] < 1"],
    ),
    "06_python_interface": (
        4,
        ["losses[-1] < losses[0]", "len(model.predict(files)) == len(files)", "features.shape[0] == len(test)"],
    ),
}
# Enough for the statements above; the committed outputs are of whole trainings with reports.
SHORTER = {
    "trainer.max_epochs=5": "trainer.max_epochs=1",
    "tlearn.fit()": 'tlearn.fit(["trainer.max_epochs=4"])',
    'tlearn.fit(["quiet=true"])': 'tlearn.fit(["quiet=true", "trainer.max_epochs=4", "report=off"])',
    '"experiment=shapes_scratch", "quiet=true"': '"experiment=shapes_scratch", "trainer.max_epochs=1", "report=off"',
    '"trainer.max_epochs=1", "quiet=true"': '"trainer.max_epochs=1", "report=off", "quiet=true"',
    '"transforms=strong", ': '"transforms=strong", "transforms.size=32", "data.num_workers=0", ',
    "optimizer.lr=0.001,0.003": "optimizer.lr=0.001",
    "head.scale=5,20": "head.scale=5",
}
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
# Their outputs are in the repository.
LARGEST = 700_000


def _code(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def _figures(book: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for cell in _code(book) for output in cell.outputs)


@pytest.fixture(scope="module")
def kernel(drawn: Path) -> Iterator[NotebookClient]:
    """Start a kernel that imports torch, and composes, once for all notebooks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLEARN_CACHE", str(drawn))
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        # For cells that start programs
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        client = NotebookClient(nbformat.v4.new_notebook(), timeout=600, kernel_name="python3")
        with client.setup_kernel():
            # Compositions are merged once there, too.
            client.nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import tests.preloaded")])
            client.execute_cell(client.nb.cells[0], 0)
            yield client


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == list(EXPECTED)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_outputs_and_without_logic_of_its_own(notebook):
    book = nbformat.read(notebook, 4)
    assert _figures(book) == EXPECTED[notebook.stem][0]
    assert notebook.stat().st_size < LARGEST
    assert [cell.execution_count for cell in _code(book)] == list(range(1, len(_code(book)) + 1))
    for cell in _code(book):
        assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in cell.outputs)
        # The end of what a sweep prints is its whole table.
        assert "| tail" not in cell.source or cell.outputs[0].text.startswith("val top-1 ")
        # Own code is written into files of a package, as users do.
        if not cell.source.startswith(("%%writefile", "!")):
            logic = (ast.FunctionDef, ast.ClassDef, ast.While, ast.If)
            assert not any(isinstance(node, logic) for node in ast.walk(ast.parse(cell.source)))
    text = notebook.read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.~])/(?:home|root|work|Users|usr|opt)/", text) == []


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_every_figure_as_an_image(notebook, kernel, tmp_path):
    book = nbformat.read(notebook, 4)
    for cell in _code(book):
        cell.outputs = []
        for whole, shorter in SHORTER.items():
            cell.source = cell.source.replace(whole, shorter)
    figures, statements = EXPECTED[notebook.stem]
    # Names of the notebook before, and its folder, are gone.
    anew, *checks = [
        f"%reset -f\n%cd -q {tmp_path}",
        *(f"assert {statement}, {statement!r}" for statement in statements),
    ]
    book.cells = [nbformat.v4.new_code_cell(anew), *book.cells, *map(nbformat.v4.new_code_cell, checks)]
    kernel.nb = book
    for index, cell in enumerate(book.cells):
        kernel.execute_cell(cell, index)
    assert _figures(book) == figures
