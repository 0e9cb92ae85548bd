"""A program called in a living interpreter leaves it as it was; one of its own is ended at once, unless watched."""

import gc
import os
import subprocess
import sys
import types

import pytest

from tlearn.config import interpreter
from tlearn.config.interpreter import _OBSERVERS, borrowed_interpreter, end_process, is_observed

ALONE = (
    ["python", "-m", "tlearn.train", "seed=1"],
    ["python", "-u", "-m", "tlearn.evaluate"],
    ["python", "/usr/bin/tlearn-train", "seed=1"],
)
WATCHED = (
    ["python", "-m", "cProfile", "-m", "tlearn.train"],
    ["python", "-m", "pdb", "-m", "tlearn.train"],
    ["python", "/usr/bin/kernprof", "-l", "-m", "tlearn.train"],
    ["python", "/usr/bin/ipython", "-m", "tlearn.train"],
    ["python", "-c", "from tlearn.train import script; script()"],
    ["python"],
)


@pytest.mark.parametrize("failing", [False, True])
def test_everything_that_a_program_borrows_is_given_back(tmp_path, monkeypatch, failing):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    argv = ["kernel.py", "-f", "connection.json"]
    monkeypatch.setattr(sys, "argv", argv)
    threshold = gc.get_threshold()
    (tmp_path / "elsewhere").mkdir()
    try:
        with borrowed_interpreter(["seed=1"]):
            assert sys.argv == ["kernel.py", "seed=1"]
            assert gc.get_threshold() != threshold
            sys.argv[1:] = ["others"]
            os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HYDRA_FULL_ERROR": "1"}
            os.chdir("elsewhere")
            if failing:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert sys.argv is argv
    assert argv == ["kernel.py", "-f", "connection.json"]
    assert gc.get_threshold() == threshold
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert os.getcwd() == str(tmp_path)


def test_without_arguments_it_takes_those_of_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tlearn-train", "seed=1"])
    with borrowed_interpreter(None):
        assert sys.argv == ["tlearn-train", "seed=1"]


@pytest.mark.parametrize("command", ALONE, ids=" ".join)
def test_a_process_of_its_own_is_not_observed(monkeypatch, command):
    quiet(monkeypatch, command)
    assert not is_observed()


@pytest.mark.parametrize("command", WATCHED, ids=" ".join)
def test_a_process_that_something_else_started_is_observed(monkeypatch, command):
    quiet(monkeypatch, command)
    assert is_observed()


@pytest.mark.parametrize("module", ["IPython", "bdb", "pydevd", "debugpy", "coverage"])
def test_a_process_with_a_debugger_or_a_notebook_is_observed(monkeypatch, module):
    quiet(monkeypatch, ALONE[0])
    monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    assert is_observed()


def quiet(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Hide from a test that it is one."""
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(sys, "getprofile", lambda: None)
    monkeypatch.setattr(sys, "modules", {name: sys.modules[name] for name in sys.modules if name not in _OBSERVERS})
    if hasattr(sys, "monitoring"):
        monkeypatch.setattr(sys.monitoring, "get_tool", lambda number: None)


@pytest.mark.parametrize("observed", [False, True])
def test_only_an_unobserved_process_leaves_without_teardown(monkeypatch, observed):
    class LeftError(Exception):
        pass

    def left(status: int) -> None:
        raise LeftError(status)

    monkeypatch.setattr(interpreter, "is_observed", lambda: observed)
    monkeypatch.setattr(interpreter.os, "_exit", left)
    monkeypatch.setattr(interpreter.threading, "_shutdown", lambda: None)
    monkeypatch.setattr(interpreter.atexit, "_run_exitfuncs", lambda: None)
    with pytest.raises(SystemExit if observed else LeftError) as caught:
        end_process(3)
    assert caught.value.args == (3,)


@pytest.mark.parametrize("watched", [False, True])
def test_what_was_registered_is_called_and_what_was_said_is_written_however_it_ends(tmp_path, watched):
    (tmp_path / "tlearn-try").write_text(
        "import atexit, sys\n"
        + ("import bdb\n" if watched else "")
        + "from tlearn.config.interpreter import end_process\n"
        "class Taken:\n    def __del__(self): sys.stdout.write('taken down ')\n"
        "taken = Taken()\n"
        "atexit.register(lambda: sys.stdout.write('registered '))\n"
        "sys.stdout.write('said ')\n"
        "end_process(5)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "tlearn-try"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (5, "")
    assert done.stdout == ("said registered taken down " if watched else "said registered ")
