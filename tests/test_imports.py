"""Imports run one way through the whole package, and what answers at once imports nothing slow."""

import ast
import subprocess
import sys
from itertools import dropwhile
from pathlib import Path

import pytest

import tlearn

PACKAGE = Path(tlearn.__file__).resolve().parent
PROGRAMS = ("train", "check", "evaluate", "predict", "explore", "compare", "bench", "cache", "__main__")
GROUND = ("download", "archive", "ranges", "files", "locks", "machine", "display", "console", "launch", "errors")
# From the top: a room may import itself and every room on a lower floor, and nothing beside it or above.
FLOORS = (
    ("interface",),
    PROGRAMS,
    ("config",),
    ("sweeps",),
    ("report",),
    ("features",),
    ("training", "runs"),
    ("analysis",),
    ("data", "models"),
)
# The only module of data and models that knows Lightning
DATAMODULE = "tlearn.data.datamodule"

# Where a function imports something beside the head of a program's job, and why it must
INSIDE_FUNCTIONS = {
    ("tlearn.models.backbones.timm", "_timm"): "an extra",
    ("tlearn.models.backbones.timm", "categories"): "an extra",
    ("tlearn.data.sources.torchvision", "_check_scipy"): "an extra",
    ("tlearn.data.header", "_open_heic"): "an extra",
    ("tlearn.data.sources.table", "_parquet"): "an extra",
    ("tlearn.runs.prediction_table", "_pyarrow"): "an extra",
    ("tlearn.config.ranks", "_told"): "help and configuration errors do not wait for torch",
    ("tlearn.config.ranks", "_meeting_place"): "as above",
    ("tlearn.locks", "lock"): "help and configuration errors, which lock nothing, do not wait for it",
    ("tlearn.machine", "environment"): "folders are looked at before anything slow is imported",
    ("tlearn.machine", "gpu_names"): "as above",
    ("tlearn.machine", "_version"): "help and configuration errors, which look no versions up, do not wait for it",
    ("tlearn.machine", "has_bf16"): "as above",
    ("tlearn.machine", "has_gpu"): "as above",
    ("tlearn.machine", "has_tf32"): "as above",
    ("tlearn.machine", "peak_memory"): "as above",
}


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


def own(name: str) -> set[str]:
    return {module for module in imported(name) if module.startswith("tlearn.")}


def packages(name: str) -> set[str]:
    return {module.partition(".")[0] for module in imported(name)}


def room(name: str) -> str:
    return name.split(".")[1]


def test_every_room_has_a_floor():
    known = {name for floor in FLOORS for name in floor} | set(GROUND)
    assert {room(name) for name in MODULES if name != "tlearn"} == known


def test_imports_run_down_only():
    below = {name: set(GROUND) for name in GROUND}
    for place, floor in enumerate(FLOORS):
        for name in floor:
            below[name] = {name, *GROUND, *(other for lower in FLOORS[place + 1 :] for other in lower)}
    wrong = {
        (name, other)
        for name in MODULES
        if name != "tlearn"
        for other in own(name)
        if room(other) not in below[room(name)]
    }
    assert wrong == set()


def test_no_module_imports_itself_over_others():
    waiting, clear = dict.fromkeys(MODULES), set()
    while ready := [name for name in waiting if own(name) <= clear | {"tlearn"}]:
        for name in ready:
            del waiting[name]
            clear.add(name)
    assert list(waiting) == []


def test_only_configuration_and_programs_know_hydra():
    knowing = {name for name in MODULES if packages(name) & {"hydra", "omegaconf"}}
    assert {"tlearn.config.command", "tlearn.config.compose", "tlearn.train"} <= knowing
    rooms = {room(name) for name in knowing}
    assert rooms <= {*PROGRAMS, "config", "sweeps"}


@pytest.mark.parametrize("name", ["build", "trainer", "evaluation", "tuning"])
def test_builders_take_plain_values(name):
    assert "omegaconf" not in packages(f"tlearn.config.{name}")


def test_of_sweeps_only_the_callback_knows_hydra():
    knowing = {
        name for name in MODULES if name.startswith("tlearn.sweeps.") and packages(name) & {"hydra", "omegaconf"}
    }
    assert knowing == {"tlearn.sweeps.callback"}


def test_data_and_models_know_no_lightning():
    layers = [name for name in MODULES if name.startswith(("tlearn.data.", "tlearn.models."))]
    knowing = {name for name in layers if packages(name) & {"lightning", "pytorch_lightning"}}
    assert knowing == {DATAMODULE}


@pytest.mark.parametrize("layer", ["analysis", "report"])
def test_tables_figures_and_pages_know_no_configuration(layer):
    members = [name for name in MODULES if name.startswith(f"tlearn.{layer}.")]
    assert len(members) > 5
    for name in members:
        if name not in ("tlearn.report.after_training", "tlearn.report.tensorboard"):
            assert packages(name) & {"hydra", "omegaconf", "lightning"} == set(), name


def importing_functions(name: str) -> set[tuple[str, str]]:
    """Name the functions of a module that import anything; of a program's job, what heads it does not count."""
    found = set()
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
        statements = function.body
        if name == f"tlearn.{function.name}":
            # Its docstring first
            statements = list(dropwhile(lambda node: isinstance(node, ast.Import | ast.ImportFrom), statements[1:]))
        below = [node for statement in statements for node in ast.walk(statement)]
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in below):
            found.add((name, function.name))
    return found


def test_functions_import_nothing_but_what_heads_a_programs_job():
    found = {place for name in MODULES for place in importing_functions(name)}
    assert found == INSIDE_FUNCTIONS.keys()


def test_programs_and_configuration_start_without_torch():
    names = ["tlearn", "tlearn.config.command", "tlearn.config.compose", *(f"tlearn.{name}" for name in PROGRAMS)]
    names += [name for name in MODULES if name.startswith("tlearn.") and MODULES[name].name == "__init__.py"]
    slow = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "matplotlib")
    code = f"import sys, {', '.join(names)}; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_what_only_runs_need_and_the_list_of_programs_start_without_the_rest():
    code = "import sys, hydra.core.plugins as plugins, tlearn.config.command; plugins.Plugins.instance(); "
    code += "print([name for name in ('portalocker', 'tlearn.sweeps.groups') if name in sys.modules]); "
    code += "assert 'hydra_plugins.tlearn_launcher' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
    code = "import sys, tlearn.__main__; print('hydra' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
