"""One door to the terminal and the log file: who speaks, where it goes, and that nothing is left behind."""

import ast
import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.test_imports import MODULES
from tlearn import console
from tlearn.console import Bar, answer, complain, duration, percent, print_table, progress, say, session, short, warn


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that makes standard output a terminal of 80 columns: pytest has its own until a test runs."""

    def made(stream: io.StringIO | None = None, kind: str = "xterm") -> io.StringIO:
        stream = stream or Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", kind)
        return stream

    return made


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
    # The launcher of the other processes, and who takes which images
    assert asking == {"tlearn.training.ddp", "tlearn.data.datamodule"}


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


def test_a_bar_moves_on_a_terminal_and_vanishes(terminal, monkeypatch):
    stream = terminal()
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_DRAWINGS", 0)
    bar = Bar()
    bar.start("epoch 1/2", 40)
    bar.advance(10, lambda: "loss [0.4]")
    bar._progress.refresh()
    assert "10/40" in stream.getvalue()
    assert "epoch 1/2" in stream.getvalue()
    assert "loss [0.4]" in stream.getvalue()
    # A path on one line, however wide the terminal
    say("/a" * 60)
    bar.start("evaluation", float("inf"))
    bar.advance(3)
    bar._progress.refresh()
    assert "3/?" in stream.getvalue()
    bar.stop()
    assert "/a" * 60 in stream.getvalue()
    # The cursor goes back to the line of the bar, which is erased.
    assert stream.getvalue().endswith("\x1b[1A\x1b[2K")
    assert sys.stdout is stream


@pytest.mark.parametrize("why", ["pipe", "quiet", "dumb", "rank"])
def test_there_is_no_bar_where_none_can_move(terminal, monkeypatch, why):
    stream = terminal(io.StringIO() if why == "pipe" else None, "dumb" if why == "dumb" else "xterm")
    if why == "rank":
        monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0)
    with session(quiet=why == "quiet"), progress("features", 40) as advance:
        advance(10)
        advance(30)
    lines = stream.getvalue().splitlines()
    if why in ("quiet", "rank"):
        assert lines == []
    else:
        assert [line.partition(" images")[0] for line in lines] == [
            *("features: 10 of 40", "features: 40 of 40", "features: 40"),
        ]
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_a_pass_on_a_terminal_ends_as_one_line(terminal):
    stream = terminal()
    with progress("features", 40) as advance:
        advance(40)
    assert stream.getvalue().count("features: 40 images in ") == 1
    assert stream.getvalue().splitlines()[-1].endswith("images/s")


def test_a_pass_that_fails_leaves_no_bar_and_no_line(terminal):
    stream = terminal()
    with pytest.raises(KeyboardInterrupt), progress("features", 40):
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("\x1b[2K")


def test_columns_are_aligned_by_what_they_show(capsys):
    rows = [["漢字", "1.5", ""], ["a\nb", "10", "none"], ["[red]\udcff", "86.8 %", "x"]]
    print_table(["class", "share", "note"], rows)
    assert capsys.readouterr().out.splitlines() == [
        *("class    share  note", "漢字       1.5", "a\ufffdb         10  none", "[red]\ufffd  86.8 %  x"),
    ]
    print_table(["class"], [])
    assert capsys.readouterr().out == "class\n"


def test_a_narrow_terminal_cuts_the_widest_columns(terminal):
    stream = terminal()
    print_table(["path", "other", "count"], [["p" * 100, "o" * 60, "12345.67"]])
    header, row = stream.getvalue().splitlines()
    assert [len(header), len(row)] == [80, 80]
    assert [part[-1] for part in row.split()] == ["\u2026", "\u2026", "7"]
    assert row.endswith("12345.67")


def test_numbers_keep_the_digits_that_matter():
    assert [short(value) for value in (0.41234, 12.4159, 123.45, 1234.5, 0, 2.5e7)] == [
        *("0.412", "12.42", "123.5", "1234", "0.000", "2.5e+07"),
    ]
    assert [percent(value) for value in (0.8684, 0.0, 1.0)] == ["86.8 %", "0.0 %", "100 %"]
    assert [duration(value) for value in (0.04, 12.34, 754.2, 5400)] == ["0.0 s", "12.3 s", "754 s", "90 min"]
