"""Bytes that are damaged at random, and the limits within which a reader must answer."""

import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tlearn.errors import TlearnError

SECONDS, MEBIBYTES = 60, 300


class HangsError(BaseException):
    """No answer came in time; not an Exception, which a reader might take for damage."""


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Cut bytes off, change some, take some out, put some in, or do several of these."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place, length = draw.randrange(len(changed) or 1), draw.choice((1, 1, 2, 4, 8, 64))
        match draw.randrange(7):
            case 0:
                del changed[place:]
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = draw.randbytes(length)
            case 3:
                changed[place : place + length] = draw.choice((b"\0", b"\xff", b"\x7f")) * length
            case 4:
                changed[place : place + length] = draw.randbytes(length)
            case 5:
                # Headers, where sizes and counts lie
                place = draw.randrange(min(len(changed), 200) or 1)
                changed[place : place + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\1\0"))
            case _ if changed:
                changed[place % len(changed)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def answer(read: Callable[[], str], names: str | Path, limit: int = MEBIBYTES) -> str:
    """Return what is wrong with how a reader answers, or an empty text.

    Args:
        read: returns what is wrong with what it has read; an error of tlearn is a refusal.
        names: what a refusal must name, a path or a regular expression.
        limit: MiB that reading may take.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    fault = _judged(read, names)
    taken = (_status("VmHWM") - before) // 2**10
    return fault or (f"{taken} MiB" if taken > limit else "")


def _judged(read: Callable[[], str], names: str | Path) -> str:
    try:
        with in_time():
            return read()
    except TlearnError as error:
        pattern = names if isinstance(names, str) else re.escape(str(names))
        return "" if re.search(pattern, str(error)) else f"unnamed: {str(error)[:200]}"
    except HangsError:
        return f"no answer within {SECONDS} s"
    except Exception as error:
        return f"a trace, {type(error).__name__}: {str(error)[:200]}"


@contextmanager
def in_time(seconds: int = SECONDS) -> Iterator[None]:
    """Raise HangsError if the block takes longer."""

    def late(*_: object) -> None:
        raise HangsError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _status(name: str) -> int:
    """Return a number of /proc/self/status: KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
