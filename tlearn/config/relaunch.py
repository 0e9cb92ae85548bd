"""The command line of a run that is resumed, and of its further processes."""

import os
import re
import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from tlearn.config.arguments import is_sweep, key_of
from tlearn.config.stored_code import of_code
from tlearn.config.stored_run import absolute_path, read_stored, stored_config
from tlearn.errors import CheckpointError, ConfigError, quoted, typed
from tlearn.runs.folder import folder_around
from tlearn.runs.trust import own_packages
from tlearn.training.resume import last_checkpoint, last_path

# Nodes whose options have parts of other names
_PARTS = ("callbacks", "logger", "trainer.strategy")


def restored_arguments(arguments: list[str]) -> list[str]:
    """Replace `resume=RUN_FOLDER` by the run's own arguments and its folder.

    Arguments given beside `resume` win over the stored ones, see `_merged`. The stored ones are data, not code: one
    that names a `_target_`, a folder of options or a place to write to counts only if it is given again, and relative
    paths are of the folder where the run was started, which nothing is imported from.

    Raises:
        CheckpointError: the folder holds no run.
        ConfigError: a stored argument must be given again.
    """
    run = resumed_run(arguments)
    if run is None:
        return arguments
    if is_sweep(arguments):
        raise ConfigError("resume continues one run: give it without -m")
    stored, config_dir, cwd = read_stored(run)
    flags, given = _flags([argument for argument in arguments if key_of(argument) != "resume"])
    given = [_placed(argument, Path.cwd()) for argument in given]
    merged = _merged([_placed(argument, cwd) for argument in stored], given)
    if not set(of_code(merged)).issubset(given) or (config_dir and "--config-dir" not in flags):
        raise ConfigError(
            f"this run uses options, code or places of its own, which must be given again: {_resuming(run)}"
        )
    folder = quoted(run)
    return [*flags, *merged, f"resume={folder}", f"hydra.run.dir={folder}", "hydra.output_subdir=null"]


def _merged(stored: list[str], given: list[str]) -> list[str]:
    """Return the stored overrides that the given ones leave, and the given ones after them, as Hydra applies them.

    What is set, or removed, is set anew. What was added (`+key`) stays before what changes or removes it. What was
    removed or null does not hide what is given below it, and is removed before what is added (`+key`) in its place,
    unless it had only been added itself.
    """

    def is_left(place: int) -> bool:
        argument, key = stored[place], key_of(stored[place])
        was_added = any(one.startswith("+") and key_of(one) == key for one in stored[:place])
        for one in given:
            removes, extends = one.startswith("~"), argument.startswith("+") and not one.startswith("+")
            if argument.startswith("~") and one.startswith("+") and not was_added:
                continue
            if key_of(one) == key and (argument.startswith("~") if removes else not extends):
                return False
            if key_of(one).startswith(f"{key}.") and (argument.startswith("~") or argument.endswith("=null")):
                return False
            # Another option of these groups has other parts.
            if key.startswith(tuple(f"{part}." for part in _PARTS if key_of(one) in (part, part.partition(".")[0]))):
                return False
        return True

    return [*(argument for place, argument in enumerate(stored) if is_left(place)), *given]


def _placed(argument: str, folder: Path) -> str:
    """Return an override with a path from a folder as it means the same anywhere else."""
    typed, _, value = argument.partition("=")
    placed = absolute_path(key_of(argument), _unquoted(value), folder)
    return argument if placed is None else f"{typed}={quoted(placed)}"


def _flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate the flags, which go first, from the overrides; a folder of options becomes absolute."""
    flags: list[str] = []
    overrides: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            flags += ["--config-dir", os.path.abspath(value or next(remaining, ""))]
        elif argument.startswith("-") or (flags and "=" not in argument and not overrides):
            flags.append(argument)
        else:
            overrides.append(argument)
    return flags, overrides


def resume_command(run: Path) -> str | None:
    """Return the shell command that resumes a run, or None where no checkpoint was written yet."""
    try:
        last_checkpoint(run)
    except CheckpointError:
        return None
    return _resuming(run)


def _resuming(run: Path) -> str:
    """Return what to type for a run to go on: its folder, and again what chooses code."""
    stored, config_dir, cwd = read_stored(run)
    try:
        config = stored_config(run)
    except CheckpointError:
        config = {}
    search = ["--config-dir", config_dir] if config_dir else []
    own = own_packages(config)
    trust = [f"trust=[{','.join(own)}]"] if own else []
    return shlex.join(
        [
            "python",
            "-m",
            "tlearn.train",
            *search,
            f"resume={run}",
            *trust,
            *of_code([_placed(one, cwd) for one in stored]),
        ]
    )


def started_by(run: Path, arguments: list[str]) -> bool:
    """Return whether a command started the run in a folder: the same overrides, in the same order."""
    try:
        stored = read_stored(run)[0]
    except CheckpointError:
        return False
    return stored == [one for one in _flags(arguments)[1] if not key_of(one).startswith(("hydra.", "hydra/", "trust"))]


def resumed_run(arguments: list[str]) -> Path | None:
    """Return the folder of `resume=RUN_FOLDER`, where a file of it may stand, or None.

    Raises:
        ConfigError: it names a checkpoint that is not the last.
    """
    given = [argument for argument in arguments if key_of(argument) == "resume"]
    if not given or given[-1].endswith(("resume=", "resume=null")):
        return None
    path = Path(os.path.expanduser(_unquoted(given[-1].partition("=")[2]))).absolute()
    run = folder_around(path, lambda folder: (folder / ".hydra").is_dir())
    if path.suffix == ".ckpt" and run != path and path != last_path(run):
        raise ConfigError(f"{path}: a run goes on from its last checkpoint alone, with {typed('resume', run)}")
    return run


def folder_override(arguments: list[str]) -> Path | None:
    """Return the folder of `hydra.run.dir=FOLDER`, or None."""
    given = [argument.partition("=")[2] for argument in arguments if key_of(argument) == "hydra.run.dir"]
    return Path(os.path.expanduser(_unquoted(given[-1]))) if given else None


def _unquoted(value: str) -> str:
    """Parse a value as Hydra would: in quotes as `tlearn.errors.quoted` writes them, or bare."""
    inner = re.fullmatch(r"(['\"])(.*)\1", value, flags=re.S)
    if inner is None:
        return value
    text = re.sub(rf"(\\+)(?={inner[1]}|\Z)", lambda found: found[1][: len(found[1]) // 2], inner[2])
    return text.replace("\\${", "${")


def child_command(folder: Path, resumed: bool = False) -> list[str]:
    """Return the command of a further process: this trial alone, in the same run folder, where it may be resumed."""
    job = HydraConfig.get()
    sources = [source.path for source in job.runtime.config_sources if source.provider == "command-line"]
    search = ["--config-dir", sources[0]] if sources else []
    place = [f"hydra.run.dir={quoted(folder)}", "hydra.output_subdir=null"]
    if resumed and job.mode == RunMode.MULTIRUN:
        # What a sweep resumes was not typed so.
        place.append(f"resume={quoted(folder)}")
    return ["-m", f"tlearn.{job.job.config_name}", *search, *job.overrides.task, *place]
