"""Turn any error into an exit status and one plain message, or mark it as a bug in tlearn."""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from tlearn.config import options
from tlearn.config.suggestions import Asked, did_you_mean, unknown_key
from tlearn.config.unreadable import several, unreadable
from tlearn.config.valid_values import NOTHING
from tlearn.data.workers import KILLED, KILLED_REMEDY, is_killed_worker
from tlearn.errors import ConfigError, OutOfMemoryError, OutputError, TlearnError, is_out_of_memory, typed
from tlearn.files import FULL
from tlearn.training.signals import Stopped, stopping_signal

# Exit statuses after a signal, and what is said
STOPPED = {129: "its terminal was closed", 130: "interrupted", 143: "terminated"}

# errno of failed writes that are the machine's and not a bug in the program
_STORAGE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}

# Packages whose errors are not of the user's own code; __main__ is a program of tlearn
_LIBRARIES = {
    *("__main__", "tlearn", "hydra", "omegaconf", "lightning", "lightning_utilities"),
    *("torch", "torchvision", "torchmetrics", "timm"),
}

# Nodes that are built before what their targets need is known
_PARTIAL = ("optimizer", "scheduler.build")

# Options of Hydra's own plugins, which are packages
_PLUGINS = {
    "hydra/sweeper/optuna": "'tlearn[sweep]'",
    "hydra/sweeper/ax": "hydra-ax-sweeper",
    "hydra/sweeper/nevergrad": "hydra-nevergrad-sweeper",
    "hydra/launcher/joblib": "hydra-joblib-launcher",
    "hydra/launcher/ray": "hydra-ray-launcher",
    "hydra/launcher/rq": "hydra-rq-launcher",
    "hydra/launcher/submitit_local": "hydra-submitit-launcher",
    "hydra/launcher/submitit_slurm": "hydra-submitit-launcher",
}

# Options of earlier versions and their replacements
_GONE = {
    "optimizer/lbfgs": "optimizer=lbfgs is now module=full_batch, and its options are module.weight_decays and so on",
    "backbone/torchvision": "backbone=torchvision backbone.name=NAME is now backbone=NAME",
    "backbone/timm": "backbone=timm backbone.name=NAME is now backbone=timm/NAME",
    "logger/none": "logger=none is now logger=csv, as every run writes metrics.csv: the other loggers are beside it",
    "report/evaluation": "report=evaluation is now what evaluate does by itself: leave it out",
    "loading/default": "/loading is now a part of every program: leave it out of the defaults of your own option",
}


def explain(error: BaseException, asked: Asked | None = None) -> tuple[int, str | None]:
    """Return the exit status and the message for the user; no message means a bug in tlearn."""
    if status := _stopping_status(error):
        return status, STOPPED[status]
    if isinstance(error, BrokenPipeError):
        return 141, "output pipe closed"
    for one in _chain(error):
        if isinstance(one, TlearnError):
            return one.exit_status, _last_words(str(one))
    if any(map(is_out_of_memory, _chain(error))):
        return (
            OutOfMemoryError.exit_status,
            "out of memory: lower data.batch_size (trainer.accumulate_grad_batches makes up for it)",
        )
    if is_killed_worker(error):
        return OutputError.exit_status, f"{KILLED}: {KILLED_REMEDY}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        return ConfigError.exit_status, _unknown_option(error)
    if isinstance(error, InstantiationException):
        return _constructor(error)
    if isinstance(error, HydraException | OmegaConfBaseException) or _is_no_option(error):
        return ConfigError.exit_status, _configuration(error, asked)
    unreadable_file = isinstance(error, YAMLError | UnicodeDecodeError) or "Expected header format" in str(error)
    if unreadable_file and _was_composing(error):
        return ConfigError.exit_status, f"an option file cannot be read: {_unreadable_option(error, asked)}"
    if isinstance(error, RecursionError) and _was_composing(error):
        return (
            ConfigError.exit_status,
            "an option builds on itself: give your file another name than what its defaults name",
        )
    if isinstance(error, TypeError) and _place(error).startswith("hydra."):
        return ConfigError.exit_status, "an option of a group is a name, or a list of names (GROUP=OPTION)"
    if isinstance(error, AssertionError) and _place(error).startswith("hydra."):
        return ConfigError.exit_status, "an argument has no key before its @ (GROUP@PACKAGE=OPTION)"
    if isinstance(error, OSError) and error.errno in _STORAGE:
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "the output"
        room = "; free some space" if error.errno in FULL else ""
        return OutputError.exit_status, f"cannot write {place}: {error.strerror}{room}"
    if isinstance(error, RuntimeError) and "without overflow" in str(error):
        return ConfigError.exit_status, "a number is too large for float32: lower optimizer.lr, or what else is given"
    if _is_misconfiguration(error):
        return ConfigError.exit_status, str(error)
    if _is_complaint(error):
        return ConfigError.exit_status, f"callbacks: {' '.join(str(error).split())}"
    return TlearnError.exit_status, None


def plain_error(error: BaseException, asked: Asked | None = None) -> BaseException:
    """Return the error that says in Python what the command line would, or the same where that has no message.

    It is one of `tlearn.errors`, KeyboardInterrupt, or SystemExit with the status of a termination.
    """
    status, message = explain(error, asked)
    if status in STOPPED:
        # Lightning raises others.
        return KeyboardInterrupt() if status == 130 else SystemExit(status)
    known = next((one for one in _chain(error) if isinstance(one, TlearnError)), None)
    if known is not None and str(known) == message:
        return known
    kinds = {kind.exit_status: kind for kind in (ConfigError, OutputError, OutOfMemoryError)}
    kind = type(known) if known is not None else kinds.get(status)
    if message is None or kind is None:
        return error
    told = kind(message)
    told.__cause__ = error
    return told


def own_code(error: BaseException) -> str | None:
    """Return where code that is not of tlearn or its libraries was called before an error, or None."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _LIBRARIES and package not in sys.stdlib_module_names:
            code = frame.f_code
            return f"{code.co_qualname} of {code.co_filename}:{line}"
    return None


def _stopping_status(error: BaseException) -> int:
    """Return the exit status after a signal that has ended the program, or 0."""
    if number := stopping_signal():
        # Whatever broke first: a loader worker, another process, or a wait for one of them
        return 128 + number
    if isinstance(error, Stopped):
        return 128 + error.number
    # Lightning turns Ctrl-C into SystemExit with status 1.
    asked = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(asked, KeyboardInterrupt):
        return 130
    # The second: SIGTERM went to the whole process group, and a loader worker was the first to die.
    terminated = type(error).__name__ == "SIGTERMException" or "killed by signal: Terminated" in str(error)
    return 143 if terminated else 0


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    # OmegaConf raises errors whose cause leads back to themselves.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__


def _last_words(message: str) -> str:
    """Return the message of an error that a DataLoader worker raised, without the worker's traceback."""
    if "Original Traceback" not in message:
        return message
    return re.split(r"\n\S*tlearn\.errors\.\w+: ", message)[-1].strip()


def _is_no_option(error: BaseException) -> bool:
    # backbone=3, or an unquoted off in a defaults list, which YAML reads as false: Hydra raises a bare ValueError.
    starts = ("Config group override", "Unsupported item value in defaults")
    return isinstance(error, ValueError) and str(error).startswith(starts)


def _unreadable_option(error: BaseException, asked: Asked | None) -> str:
    """Return which option file is damaged, and where."""
    reason = " ".join(str(error).split())
    if isinstance(error, YAMLError):
        return reason
    # These errors name no file: the bytes that were read, or the header between quotes.
    found = error.object[:512] if isinstance(error, UnicodeDecodeError) else reason.partition("'")[2][:-1].encode()
    paths = sorted(Path(asked.config_dir).rglob("*.yaml")) if asked and asked.config_dir else []
    return ", ".join([*[str(path) for path in paths if found in path.read_bytes()][:1], reason])


def _was_composing(error: BaseException) -> bool:
    return any("hydra" in Path(frame.f_code.co_filename).parts for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_complaint(error: BaseException) -> bool:
    """Return whether a callback of Lightning misses a metric or a package, or does not go with the Trainer."""
    its_own = _place(error).startswith("lightning.pytorch.callbacks.")
    return its_own and isinstance(error, RuntimeError | ValueError | ImportError)


def _place(error: BaseException) -> str:
    """Return the module in which an error was raised."""
    places = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return places[-1] if places else ""


def _is_misconfiguration(error: BaseException) -> bool:
    # Lightning's errors need no look where it was never imported; importing it here would cost seconds.
    module = sys.modules.get("lightning.fabric.utilities.exceptions")
    return module is not None and isinstance(error, module.MisconfigurationException)


def _constructor(error: InstantiationException) -> tuple[int, str | None]:
    cause = error.__cause__ or error
    where = re.search(r"full_key: (\S+)", str(error))
    expected = isinstance(cause, TypeError | ValueError | ImportError | InstantiationException)
    if expected or _is_misconfiguration(cause):
        text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        if where and where.group(1) in _PARTIAL and re.search(r"missing \d+ required", text):
            text += f"; the run adds it, so add {where.group(1)}._partial_=true"
        return ConfigError.exit_status, f"{where.group(1)}: {text}" if where else text
    return TlearnError.exit_status, None


def _unknown_option(error: MissingConfigException) -> str:
    path = error.missing_cfg_file or ""
    if path in _GONE:
        return _GONE[path]
    group, _, option = path.rpartition("/")
    if path in _PLUGINS:
        return f"{group}={option} is of a package that is not installed: pip install {_PLUGINS[path]}"
    if options.option(path):
        return (
            f"{group}={option} is hidden by hydra.searchpath: add tlearn://options there, or take --config-dir instead"
        )
    known = sorted(error.options or [])
    more = ", and timm/NAME for a model of timm" if group == "backbone" else ""
    listed = f"options of {group}: {', '.join(known)}{more}"
    if group == "data" and Path(option).exists():
        return f"unknown option data={option}; did you mean data=folder {typed('data.root', option)}?\n{listed}"
    meant = did_you_mean(option, known, f"{group}={{}}")
    if nothing := [one for one in known if one in NOTHING and option.casefold() in NOTHING]:
        meant = f"; did you mean {group}={nothing[0]}?"
    return f"unknown option {group}={option}{meant}\n{listed}"


def _configuration(error: BaseException, asked: Asked | None) -> str:
    asked = asked or Asked("train")
    if isinstance(error, OverrideParseException):
        return unreadable(error.override, asked)
    if sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", str(error)):
        return several(sweep[1], asked)
    message = str(error).strip()
    # The innermost error knows the key best.
    keys = [key for one in _chain(error) if (key := getattr(one, "full_key", None))]
    if any(isinstance(one, MissingMandatoryValue) for one in _chain(error)):
        key = keys[-1] if keys else message.split(": ")[-1].split()[0]
        return f"{key} is required: {key}=..."
    unknown = re.match(r"Could not override '([^']+)'", message)
    if unknown:
        key = max([unknown.group(1), *keys], key=len)
        return unknown_key(key, asked)
    if "is not in struct" in message and keys:
        return f"{keys[-1]} is missing: it can be changed, not removed"
    # Hydra prints its search path after an empty line.
    lines = [line for line in message.partition("\n\n")[0].splitlines() if not line.startswith("    ")]
    where = f"{keys[-1]}: " if keys else ""
    if _is_no_option(error):
        where = "GROUP=OPTION takes a name, in a file 'off' in quotes: "
    return where + ("\n".join(lines) or type(error).__name__)
