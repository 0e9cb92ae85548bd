"""Turn any error into an exit status and one plain message, or mark it as a bug in tlearn."""

import errno
import os
import re
import sys
import traceback

from hydra.errors import InstantiationException

from tlearn.config.composing import chain, of_composing, place
from tlearn.config.suggestions import Asked
from tlearn.data.workers import KILLED, KILLED_REMEDY, is_killed_worker
from tlearn.errors import CheckpointError, ConfigError, OutOfMemoryError, OutputError, TlearnError, is_out_of_memory
from tlearn.files import FULL
from tlearn.runs.trust import locate
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


def explain(error: BaseException, asked: Asked | None = None) -> tuple[int, str | None]:
    """Return the exit status and the message for the user; no message means a bug in tlearn."""
    if status := _stopping_status(error):
        return status, STOPPED[status]
    if isinstance(error, BrokenPipeError):
        return 141, "output pipe closed"
    for one in chain(error):
        if isinstance(one, TlearnError):
            return one.exit_status, _last_words(str(one))
    if any(map(is_out_of_memory, chain(error))):
        return (
            OutOfMemoryError.exit_status,
            "out of memory: lower data.batch_size (trainer.accumulate_grad_batches makes up for it)",
        )
    if is_killed_worker(error):
        return OutputError.exit_status, f"{KILLED}: {KILLED_REMEDY}"
    if isinstance(error, RuntimeError) and "no kernel image" in str(error):
        return ConfigError.exit_status, "this torch has no code for this kind of GPU: choose trainer=cpu (device=cpu)"
    if isinstance(error, InstantiationException):
        return _constructor(error)
    if told := of_composing(error, asked):
        return told
    if isinstance(error, OSError) and (error.errno in _STORAGE or _was_making_folder(error)):
        file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "the output"
        room = "; free some space" if error.errno in FULL else ""
        return OutputError.exit_status, f"cannot write {file}: {error.strerror}{room}"
    if isinstance(error, RuntimeError) and re.search(r"gloo.*Connection (reset|closed) by peer", str(error)):
        return OutputError.exit_status, "another process of this run has ended, or was killed"
    if isinstance(error, RuntimeError) and "without overflow" in str(error):
        return ConfigError.exit_status, "a number is too large for float32: lower optimizer.lr, or what else is given"
    if isinstance(error, RuntimeError) and "does not have a deterministic implementation" in str(error):
        reason = str(error).partition(",")[0]
        return ConfigError.exit_status, f"{reason}: give +trainer.deterministic=warn, or leave it out"
    if isinstance(error, RuntimeError) and place(error) == "lightning.pytorch.plugins.precision.amp":
        reason = "trainer.gradient_clip_val does not go with a fused optimizer in mixed precision"
        return ConfigError.exit_status, f"{reason}: leave out optimizer.fused"
    if _is_misconfiguration(error):
        return ConfigError.exit_status, str(error)
    if isinstance(error, RuntimeError) and place(error) == "lightning.pytorch.core.optimizer":
        return ConfigError.exit_status, f"module: {' '.join(str(error).split())}"
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
    known = next((one for one in chain(error) if isinstance(one, TlearnError)), None)
    if known is not None and str(known) == message:
        return known
    kinds = {kind.exit_status: kind for kind in (ConfigError, OutputError, OutOfMemoryError)}
    kind = type(known) if known is not None else kinds.get(status)
    if message is None or kind is None:
        return error
    told = kind(message)
    told.__cause__ = error
    return told


def _was_making_folder(error: BaseException) -> bool:
    """Return whether Hydra could not make the run folder, for any reason that a file system may have."""
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)][-1:] == ["mkdir"]


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


def _last_words(message: str) -> str:
    """Return the message of an error that a DataLoader worker raised, without the worker's traceback."""
    if "Original Traceback" not in message:
        return message
    return re.split(r"\n\S*tlearn\.errors\.\w+: ", message)[-1].strip()


def _is_complaint(error: BaseException) -> bool:
    """Return whether a callback of Lightning misses a metric or a package, or does not go with the Trainer."""
    its_own = place(error).startswith("lightning.pytorch.callbacks.")
    return its_own and isinstance(error, RuntimeError | ValueError | ImportError)


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
        if absent := re.match(r"Error loading '(.+)':", text):
            text = _why_absent(absent[1])
        if where and where.group(1) in _PARTIAL and re.search(r"missing \d+ required", text):
            text += f"; the run adds it, so add {where.group(1)}._partial_=true"
        # Hydra counts the items of a list without a sign of it.
        key = where and re.sub(r"^(transforms\.train)(\d+)", r"\1[\2]", where.group(1))
        return ConfigError.exit_status, f"{key}: {text}" if key else text
    return TlearnError.exit_status, None


def _why_absent(target: str) -> str:
    try:
        locate(target)
    except CheckpointError as error:
        return str(error)
    return f"{target} cannot be imported"
