"""The documentation holds: every block on the Python interface runs, and the list of errors is that of the code."""

import re
import runpy
from typing import Any

import pytest

from tests.conftest import REPOSITORY

BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8"), re.M | re.S
)


@pytest.mark.slow
def test_every_block_runs(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TLEARN_CACHE", str(drawn))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert len(BLOCKS) == 10
    for number, block in enumerate(BLOCKS):
        capsys.readouterr()
        # Small images do for the one training of a whole body.
        smaller = block.replace('"finetune=full",', '"finetune=full", "transforms.size=32",')
        exec(compile(smaller, f"block {number}", "exec"), names)
        # What a comment promises of a printed line
        promised = re.findall(r"print\(error\)  # (.*)", block)
        printed = capsys.readouterr().out
        assert all(line in printed.splitlines() for line in promised)
    assert names["run"].report.is_file()
    assert len(names["runs"]) == len(names["table"]) == 4
    assert names["best"].metrics["val/top1"] > 0.5
    assert names["outputs"].classes == names["model"].classes
    assert len(names["wrong"]) == int((~names["outputs"].correct()).sum())
    assert names["matrix"].sum() == len(names["outputs"]) == 500
    assert names["features"].shape == (100, 512)
    assert names["tuned"].folder != names["best"].folder
    assert names["config"].backbone.name == "resnet18"
    assert all(run.folder.is_relative_to(tmp_path) for run in names["runs"])


def test_the_list_of_errors_is_that_of_the_code():
    made = runpy.run_path(str(REPOSITORY / "docs" / "errors.py"))["page"]()
    assert made == (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8"), "write it: python docs/errors.py"
    assert {int(status) for status in re.findall(r"^\| (\d+) \|", made, re.M)} == {*range(9), 129, 130, 141, 143}
    assert "choose data.balance=weights | `ConfigError` | `config/build.py` |" in made
