"""Imports run one way, and what answers at once imports nothing slow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tlearn

PACKAGE = Path(tlearn.__file__).resolve().parent
PROGRAMS = {"tlearn.train", "tlearn.evaluate", "tlearn.predict", "tlearn.explore", "tlearn.compare"}
CONFIGURATION = {
    f"tlearn.{name}"
    for name in ("configs", "cli", "explain", "resume", "sweep", "assemble", "caching", "help", "reporting")
}
# What data and models share
COMMON = {"tlearn.errors", "tlearn.download"}


def _name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str) -> set[str]:
    """Name every module that a module imports anywhere in it, also in functions and for its types."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import, which this test cannot follow"
            # What is imported from a package may be a module of it.
            members = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= members or {str(node.module)}
    return found


def packages(name: str) -> set[str]:
    return {module.partition(".")[0] for module in imported(name)}


def test_only_configuration_and_programs_know_hydra():
    knowing = {name for name in MODULES if packages(name) & {"hydra", "omegaconf"}}
    assert {"tlearn.cli", "tlearn.configs", "tlearn.train"} <= knowing
    assert knowing <= CONFIGURATION | PROGRAMS


def test_data_and_models_know_no_lightning():
    layers = [name for name in MODULES if name.startswith(("tlearn.data.", "tlearn.models."))]
    knowing = {name for name in layers if packages(name) & {"lightning", "pytorch_lightning"}}
    assert knowing == {"tlearn.data.datamodule"}


def test_tables_figures_and_pages_know_data_and_models_only():
    members = [name for name in MODULES if name.startswith("tlearn.insight.")]
    assert len(members) > 10
    for name in members:
        assert packages(name) & {"hydra", "omegaconf", "lightning"} == set(), name
        own = {module for module in imported(name) - COMMON if module.startswith("tlearn")}
        assert all(module.startswith(("tlearn.insight.", "tlearn.data.", "tlearn.models.")) for module in own), name


@pytest.mark.parametrize("layer", ["tlearn.data", "tlearn.models"])
def test_data_and_models_know_only_themselves_and_the_common_ground(layer):
    members = [name for name in MODULES if name.startswith(f"{layer}.")]
    assert len(members) > 5
    for name in members:
        own = {module for module in imported(name) if module.partition(".")[0] == "tlearn"}
        assert {module for module in own - COMMON if not module.startswith(f"{layer}.")} == set(), name


def test_the_common_ground_knows_nothing_above_it():
    for name in COMMON:
        assert {module for module in imported(name) if module.startswith("tlearn")} <= COMMON


def test_nothing_imports_a_program():
    for name in MODULES:
        assert imported(name) & PROGRAMS == set(), name


def test_programs_and_configuration_start_without_torch():
    names = ["tlearn", "tlearn.cli", "tlearn.configs", *sorted(PROGRAMS)]
    names += [name for name in MODULES if name.startswith("tlearn.") and MODULES[name].name == "__init__.py"]
    slow = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "matplotlib")
    code = f"import sys, {', '.join(names)}; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
