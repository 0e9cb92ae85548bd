"""Tables and bars on a terminal, in a pipe, and where nothing can move."""

import io
import sys

import pytest

from tlearn import display
from tlearn.console import say, session
from tlearn.display import Bar, print_table, progress


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


def test_a_bar_moves_on_a_terminal_and_vanishes(terminal):
    stream = terminal()
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
    monkeypatch.setattr(display, "_SECONDS_BETWEEN_LINES", 0)
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
