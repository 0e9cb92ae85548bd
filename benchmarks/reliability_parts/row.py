"""What every kind of fault is asked for, and what it answers: one outcome for each case."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

TLEARN, PLAIN = "tlearn", "plain"


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Args:
        folder: an empty folder for files, removed afterwards.
        seed: what the cases are drawn from.
        count: cases of tlearn, or None for the row's full number.
        short: the form for every change, which ends within a minute a row.
        only: names of the cases to replay, or none for all.
    """

    folder: Path
    seed: int = 0
    count: int | None = None
    short: bool = False
    only: Sequence[str] = ()

    def cases(self, full: int, short: int) -> int:
        """Return how many cases are tried."""
        return self.count if self.count is not None else short if self.short else full

    def wants(self, case: str) -> bool:
        """Return whether a case is to be tried."""
        return not self.only or case in self.only

    def random(self, case: str) -> random.Random:
        """Return the generator of a case, which depends on the seed and its name alone."""
        return random.Random(f"{self.seed}/{case}")


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Args:
        case: its name, which `--case` replays; no two cases of a row have the same.
        fault: what was found wrong, in one line; empty if nothing.
        cell: the group in which it is counted, such as "workers 2, mixup".
        program: which program was tried.
        figures: what was measured besides.
    """

    case: str
    fault: str = ""
    cell: str = ""
    program: str = TLEARN
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What a row of the page says.

    Args:
        number: R1 to R13.
        figure: what is counted or measured, such as "divergent resumes".
        method: what was done, in a sentence.
        summary: makes the row's figure from the outcomes of one program; by default, faults of cases.
    """

    number: str
    figure: str
    method: str
    summary: Callable[[Sequence[Outcome]], str] | None = None

    def summarise(self, outcomes: Sequence[Outcome]) -> str:
        """Return the figure of the outcomes of one program, or a dash where there are none."""
        if not outcomes:
            return "-"
        if self.summary:
            return self.summary(outcomes)
        return f"{sum(bool(one.fault) for one in outcomes)} of {len(outcomes):,}"


class Part(Protocol):
    """A module of this package: the row it fills, and the cases that it tries one after the other."""

    ROW: Row

    def run(self, options: Options) -> Iterator[Outcome]:
        """Try each case that is wanted."""
        ...
