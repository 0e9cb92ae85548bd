"""One door to the terminal and the log file: who speaks, where it goes, and that nothing is left behind."""

import ast
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.test_imports import MODULES
from tlearn.console import answer, complain, duration, measured, percent, say, session, short, warn


def _logged(path: Path) -> list[str]:
    """Return the lines of a log file without their times."""
    return [line.split(" ", 2)[2] for line in path.read_text(encoding="utf-8").splitlines()]


def test_only_the_console_prints_and_asks_for_a_rank():
    ranks = {"is_global_zero", "global_rank", "local_rank", "rank_zero_only", "rank_zero_info", "rank_zero_warn"}
    printing, asking = set(), set()
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.add(name)
            if isinstance(node, ast.Attribute) and (node.attr in ranks or ast.unparse(node) == "sys.stdout.write"):
                asking.add(name)
    assert printing == {"tlearn.console"}
    # The launcher of the other processes, and who takes which images and random numbers
    assert asking == {"tlearn.training.ddp", "tlearn.data.datamodule", "tlearn.training.last_checkpoint"}


def test_it_is_imported_in_milliseconds():
    code = "import sys, tlearn.console; print([name for name in ('torch', 'rich', 'hydra') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("quiet", "rank", "out", "err"),
    [
        (False, None, "said\nanswer\n", "warned\ncomplained\n"),
        (False, "0", "said\nanswer\n", "warned\ncomplained\n"),
        (True, None, "answer\n", "warned\ncomplained\n"),
        (False, "1", "", "complained\n"),
    ],
)
def test_who_says_what(monkeypatch, capsys, quiet, rank, out, err):
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    with session(quiet=quiet):
        say("said")
        warn("warned")
        answer("answer")
        complain("complained")
    assert capsys.readouterr() == (out, err)
    say("again", Path("a path"))
    assert capsys.readouterr().out == ("" if rank == "1" else "again\na path\n")


def test_a_log_file_keeps_what_was_said_warned_of_and_raised(tmp_path):
    log = tmp_path / "new" / "train.log"
    with warnings.catch_warnings(record=True, action="always") as shown, session(log, quiet=True):
        say("100 %", "a\udcff")
        warn("careful")
        answer("folder")
        warnings.warn("old", FutureWarning, stacklevel=1)
        logging.getLogger("lightning.pytorch.utilities").warning("slow")
        logging.getLogger("somebody.else").warning("not ours")
    assert [str(warning.message) for warning in shown] == ["old"]
    with pytest.raises(ValueError, match="no"), session(log):
        raise ValueError("no")
    say("afterwards")
    text = log.read_text(encoding="utf-8").splitlines()
    assert text[1] == "a\\udcff"
    lines = [line.split(" ", 2)[2] for line in text if line.startswith("2")]
    assert lines[:3] == ["INFO    100 %", "WARNING careful", "INFO    folder"]
    assert lines[3].startswith(f"WARNING {__file__}:")
    assert lines[3].endswith("FutureWarning: old")
    assert lines[4:] == ["WARNING slow", "ERROR   ended by ValueError"]
    assert text[-1] == "ValueError: no"


def test_two_sessions_leave_two_logs_and_no_handler(tmp_path, capsys):
    loggers = [logging.getLogger(name) for name in (None, "tlearn", "lightning.pytorch", "torch")]
    before, showing = [list(logger.handlers) for logger in loggers], warnings.showwarning
    for name in ("one", "two"):
        with session(tmp_path / name):
            say(name)
    assert [list(logger.handlers) for logger in loggers] == before
    assert warnings.showwarning is showing
    assert [_logged(tmp_path / name) for name in ("one", "two")] == [["INFO    one"], ["INFO    two"]]
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_handler_at_the_root_shows_no_line_again(capsys):
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        say("once")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr() == ("once\n", "")


def test_other_processes_leave_the_log_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with session(tmp_path / "train.log"):
        complain("broken")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with session(full):
        say("one")
        say("two")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err == "/dev/full cannot be written: [Errno 28] No space left on device\n"


def test_numbers_keep_the_digits_that_matter():
    assert [short(value) for value in (0.41234, 12.4159, 123.45, 1234.5, 0, 2.5e7)] == [
        *("0.412", "12.42", "123.5", "1234", "0.000", "2.5e+07"),
    ]
    assert [measured(name, 0.8684) for name in ("top5", "topology")] == ["top-5 86.8 %", "topology 0.868"]
    assert [percent(value) for value in (0.8684, 0.0, 1.0)] == ["86.8 %", "0.0 %", "100 %"]
    assert [duration(value) for value in (0.04, 12.34, 754.2, 5400)] == ["0.0 s", "12.3 s", "754 s", "90 min"]


def test_control_characters_in_names_are_shown_and_not_obeyed(tmp_path, capsys):
    name = "a\x1b]0;mine\x07\x1b[2J\r\x9b1m\u202egpj.exe\x7f\ttab\nline é"
    shown = r"a\x1b]0;mine\x07\x1b[2J\r\x9b1m\u202egpj.exe\x7f" + "\ttab\nline é\n"
    with session(tmp_path / "train.log"):
        say(name)
        warn(name)
        complain(name)
    assert capsys.readouterr() == (shown, shown * 2)
    assert "\x1b" not in (tmp_path / "train.log").read_text(encoding="utf-8")
