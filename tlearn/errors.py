"""The errors a user can meet: each has one plain message (what, which file or key, what to do) and one exit status."""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path


class TlearnError(Exception):
    """Base of every error caused by the input or the machine and not by a bug in tlearn."""

    exit_status = 1


class ConfigError(TlearnError):
    """A wrong key, value or combination of options."""

    exit_status = 2


class DataError(TlearnError):
    """Images, labels or splits that cannot be used."""

    exit_status = 3


class BadImageError(DataError):
    """One image that cannot be decoded faithfully; `path` names it and `reason` says why."""

    def __init__(self, path: str | Path, reason: str = "") -> None:
        # One positional string must be enough: a DataLoader worker's error is rebuilt from its text alone.
        super().__init__(f"{path}: {reason}" if reason else str(path))
        self.path = str(path)
        self.reason = reason


class CheckpointError(TlearnError):
    """A checkpoint, weights file or model folder that cannot be read or does not fit."""

    exit_status = 4


class OutputError(TlearnError):
    """A place that cannot be written to, or that another run holds."""

    exit_status = 4


class DownloadError(TlearnError):
    """A file that could not be fetched, or arrived damaged."""

    exit_status = 5


class NonFiniteError(TlearnError):
    """Training that produced NaN, infinity, or a loss far beyond that of no training."""

    exit_status = 6


class SweepError(TlearnError):
    """A sweep in which some trials failed."""

    exit_status = 7


class OutOfMemoryError(TlearnError):
    """Too little memory, of a GPU or of the machine."""

    exit_status = 8


# How torch and the libraries below it say it, on GPUs of all makers and on CPUs, beside torch.OutOfMemoryError
_OUT_OF_MEMORY = re.compile(
    "out ?of ?memory|can(not|'t) allocate memory|not enough memory|bad_alloc|alloc(ation)?_?failed", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device, or the machine, had too little memory; without importing torch."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or _OUT_OF_MEMORY.search(str(error)) is not None
    )


def may_be_out_of_memory(error: BaseException) -> bool:
    """Return whether less at once may do: also where torch says of a convolution that all of cuDNN's ways failed."""
    words = ("unable to find an engine", "CUDNN_STATUS_NOT_SUPPORTED")
    return is_out_of_memory(error) or (isinstance(error, RuntimeError) and any(one in str(error) for one in words))


class PrunedError(Exception):
    """A trial of a search that was ended because others are better; `metrics` has its last value."""

    def __init__(self, message: str, metrics: Mapping[str, float]) -> None:
        super().__init__(message, metrics)
        self.message, self.metrics = message, metrics


class SearchEndedError(BaseException):
    """The end of a process's part in a search, as all trials are handed out; passes Hydra as the error below does.

    Args:
        returned: whether this process still holds trials that have not run.
    """

    def __init__(self, returned: bool) -> None:
        super().__init__(returned)
        self.returned = returned


class PastHydra(BaseException):
    """An error on its way past Hydra, which would print and wrap any Exception, and warn of those of callbacks.

    Args:
        error: the error.
        folder: the run folder, if there is one.
    """

    def __init__(self, error: BaseException, folder: Path | None = None) -> None:
        # Pickling rebuilds it from these arguments when a launcher's worker process raised it.
        super().__init__(error, folder)
        self.error, self.folder = error, folder


def capped(items: Iterable[str], limit: int = 20, separator: str = ", ") -> str:
    """Join the first items and say how many more there are."""
    items = list(items)
    more = [f"... and {len(items) - limit} more"] if len(items) > limit else []
    return separator.join([*items[:limit], *more])


def counted(count: int, one: str, many: str = "") -> str:
    """Format a count with its noun: 1 image, 2 images."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def quoted(value: object) -> str:
    """Quote a path so that Hydra keeps its quotes, spaces, equals signs, braces and backslashes."""
    # A backslash is literal there except before a quote, and so also before the closing quote.
    protected = re.sub(r"(\\+)(?='|\Z)", r"\1\1", str(value))
    return "'" + protected.replace("'", "\\'").replace("${", "\\${") + "'"


def typed(key: str, value: object) -> str:
    """Write KEY=VALUE as it is typed in a shell, so that Hydra takes the value for text."""
    # 2750 and Null would not be text; a path with a slash is nothing else.
    plain = re.fullmatch(r"[A-Za-z][\w-]*|[\w.+-]*/[\w./+-]*", str(value), re.ASCII)
    if plain and str(value).lower() not in ("null", "true", "false", "nan", "inf"):
        return f"{key}={value}"
    return in_shell(f"{key}={quoted(value)}")


def in_shell(argument: str) -> str:
    """Write an argument as it is typed in a shell."""
    if re.fullmatch(r"[\w@%+=:,./~-]*", argument, re.ASCII):
        return argument
    return shlex.quote(argument) if re.search(r'["$`\\!]', argument) else f'"{argument}"'
