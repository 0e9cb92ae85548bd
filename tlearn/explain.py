"""Turn any error into an exit status and one plain message, or tell that it is a fault of tlearn."""

import errno
import re
import sys
from collections.abc import Callable, Iterator

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from tlearn.errors import ConfigError, OutputError, TlearnError
from tlearn.schema import suggestion

# The machine's answers to a write, as opposed to faults in the program
_STORAGE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}


def explain(error: BaseException, known_keys: Callable[[], list[str]]) -> tuple[int, str | None]:
    """Give the exit status and the message for the user; no message means a fault of tlearn."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    for one in _chain(error):
        if isinstance(one, TlearnError):
            return one.exit_status, _last_words(str(one))
    if isinstance(error, MissingConfigException) and error.options is not None:
        return ConfigError.exit_status, _unknown_option(error)
    if isinstance(error, InstantiationException):
        return _constructor(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return ConfigError.exit_status, _configuration(error, known_keys)
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return OutputError.exit_status, f"cannot write {error.filename or 'the output'}: {error.strerror}"
    if _is_misconfiguration(error):
        return ConfigError.exit_status, str(error)
    return TlearnError.exit_status, None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _last_words(message: str) -> str:
    """Give the message of an error that a DataLoader worker raised without the worker's trace around it."""
    if "Original Traceback" not in message:
        return message
    return re.split(r"\n\S*tlearn\.errors\.\w+: ", message)[-1].strip()


def _is_misconfiguration(error: BaseException) -> bool:
    # Only where lightning was imported can its error have been raised; importing it here would cost seconds.
    module = sys.modules.get("lightning.fabric.utilities.exceptions")
    return module is not None and isinstance(error, module.MisconfigurationException)


def _constructor(error: InstantiationException) -> tuple[int, str | None]:
    cause = error.__cause__ or error
    where = re.search(r"full_key: (\S+)", str(error))
    expected = isinstance(cause, TypeError | ValueError | ImportError | InstantiationException)
    if expected or _is_misconfiguration(cause):
        text = str(cause).splitlines()[0]
        return ConfigError.exit_status, f"{where.group(1)}: {text}" if where else text
    return TlearnError.exit_status, None


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = sorted(error.options or [])
    return f"unknown option {group}={option}{suggestion(option, options)}\noptions of {group}: {', '.join(options)}"


def _configuration(error: Exception, known_keys: Callable[[], list[str]]) -> str:
    for one in _chain(error):
        if isinstance(one, MissingMandatoryValue):
            key = getattr(one, "full_key", None) or str(one).split(": ")[-1].split()[0]
            return f"{key} is required: {key}=..."
    message = "\n".join(str(one) for one in _chain(error))
    unknown = re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", message)
    if unknown:
        full = re.search(r"Could not override '([^']+)'", message)
        key = (full or unknown).group(1) or unknown.group(2)
        return f"unknown key {key}{suggestion(key, known_keys())}"
    return message.strip().splitlines()[0] if message.strip() else type(error).__name__
