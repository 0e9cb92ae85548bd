"""A sweep's folder is of one command: typed again, it does what is not done; any other is refused."""

import json
import shlex
from pathlib import Path
from typing import Any

from tlearn.errors import OutputError, counted
from tlearn.files import json_text, write_text
from tlearn.sweeps.rows import collect

_COMMAND = "sweep.json"


def claim_sweep(
    folder: Path, command: list[str], settings: dict[str, Any], goes_on: bool, is_begun: bool = False
) -> str | None:
    """Take a folder for a sweep, and return what to say where it goes on.

    Args:
        folder: of the sweep.
        command: its arguments, as they were typed.
        settings: what all trials share, unresolved.
        goes_on: it can, as its trials are known beforehand or kept in a study.
        is_begun: another process takes or took part, whose first trial may not have begun.

    Raises:
        OutputError: it holds another sweep, or one that cannot go on.
    """
    trials, file = collect(folder), folder / _COMMAND
    wanted = json_text({"command": command, "settings": settings})
    try:
        stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    except (OSError, ValueError) as error:
        raise OutputError(f"{file} cannot be read ({error}): choose another hydra.sweep.dir") from error
    if not trials and not (is_begun and stored):
        write_text(file, wanted, durable=True)
        return None
    if stored is None or stored.get("command") != command:
        typed = f" of the command: -m {shlex.join(stored['command'])}" if stored else ""
        raise OutputError(f"{folder} already holds a sweep{typed}: choose another hydra.sweep.dir")
    if stored != json.loads(wanted):
        raise OutputError(f"{folder} holds a sweep with other defaults or options: choose another hydra.sweep.dir")
    if not goes_on:
        raise OutputError(f"{folder} already holds a search, which cannot go on: choose another hydra.sweep.dir")
    done = sum(trial.status == "done" for trial in trials)
    return f"{folder} goes on: {counted(done, 'trial is', 'trials are')} done"
