"""The command line of every program: from arguments to a checked configuration, from errors to an exit status."""

import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig

from tlearn import __version__
from tlearn.config.arguments import is_sweep, readable
from tlearn.config.compose import compose_checked
from tlearn.config.flags import parsed
from tlearn.config.help import help_text
from tlearn.config.interpreter import borrowed_interpreter, end_process
from tlearn.config.job import Task, run_job
from tlearn.config.messages import STOPPED, explain, own_code, plain_error
from tlearn.config.positional import replaced, with_images
from tlearn.config.ranks import check_alone, restarted_arguments, shared_place
from tlearn.config.relaunch import restored_arguments, resume_command, resumed_run
from tlearn.config.stored_code import check_stored_code
from tlearn.config.stored_run import refuse_other_version
from tlearn.config.suggestions import Asked
from tlearn.config.tree import plain
from tlearn.console import complain, is_main_process, say, warn
from tlearn.errors import ConfigError, OutputError, PastHydra, TlearnError
from tlearn.runs.folder import RunFolder
from tlearn.runs.trust import check_trust
from tlearn.training.signals import Stopped, stoppable


def program(config_name: str, task: Task, name: str = "") -> tuple[Callable[..., int], Callable[[], NoReturn]]:
    """Build a console program from a function that takes the configuration and returns metrics.

    Args:
        config_name: the file of its configuration.
        task: the function.
        name: what its help calls it, where it has the configuration of another.

    Returns:
        main: runs the program and returns its exit status; `main(["seed=1"])` takes arguments in place of the command
            line's.
        script: calls it and ends the process, for the command line alone.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        full_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
        with borrowed_interpreter(arguments), stoppable():
            try:
                return _answer(config_name, task, name)
            except PastHydra as stopped:
                return _report(stopped.error, config_name, full_trace, stopped.folder)
            except SystemExit as ended:
                # Hydra's own pages, such as --hydra-help
                return int(ended.code or 0)
            except (Exception, KeyboardInterrupt, Stopped) as error:
                return _report(error, config_name, full_trace)

    def script() -> NoReturn:
        end_process(main())

    return main, script


def run_program(config_name: str, task: Task, arguments: Sequence[str]) -> Path:
    """Run a program in this process as its command line does, and return the run folder.

    Raises:
        TlearnError: what the command line would say, with its message.
        KeyboardInterrupt, SystemExit: it was interrupted, or terminated; how to go on is on standard error.
    """
    folders: list[Path] = []

    @functools.wraps(task)
    def noted(config: DictConfig) -> dict[str, float]:
        folders.append(Path(config.paths.output_dir))
        return task(config)

    with borrowed_interpreter(arguments), stoppable():
        try:
            _answer(config_name, noted)
        except PastHydra as stopped:
            error, folder = stopped.error, stopped.folder
        except (Exception, Stopped) as refused:
            error, folder = refused, None
        else:
            return folders[0]
        told = plain_error(error)
        if not isinstance(told, Exception):
            _tell_stopped(explain(error)[1], config_name, folder)
        if isinstance(told, TlearnError) and os.environ.get("HYDRA_FULL_ERROR") != "1":
            # Its line is enough, and the frames of Hydra and of the run are in the log.
            raise told.with_traceback(None) from None
        raise told


def _answer(config_name: str, task: Task, name: str = "") -> int:
    """Print help, version or configuration on request; otherwise check the configuration and run the task."""
    if "--version" in sys.argv[1:]:
        say(f"tlearn {__version__}")
        return 0
    sys.argv[1:] = restarted_arguments(sys.argv[1:])
    if config_name == "predict":
        sys.argv[1:] = with_images(sys.argv[1:], parsed(config_name, sys.argv[1:]).overrides)
    typed, resumed = list(sys.argv[1:]), resumed_run(sys.argv[1:])
    sys.argv[1:] = readable(restored_arguments(sys.argv[1:]))
    arguments = parsed(config_name, sys.argv[1:])
    shows_only = arguments.hydra_help or arguments.cfg or arguments.info or arguments.shell_completion
    if arguments.config_name or arguments.config_path:
        raise ConfigError("--config-name and --config-path are not for this program: add options with --config-dir")
    if arguments.help:
        say(help_text(config_name, arguments.overrides, arguments.config_dir, name))
        return 0
    if arguments.multirun:
        check_alone("a sweep starts those of each trial by itself (trainer=ddp)")
    asked = Asked(config_name, arguments.overrides, arguments.config_dir)
    try:
        if not shows_only and not arguments.multirun:
            config = _check(asked, typed)
            if "trainer" not in config:
                check_alone(f"{config_name} works in one")
            more = shared_place(arguments.overrides, Path(config.paths.output_dir))
            sys.argv[1:] = replaced(sys.argv[1:], arguments.overrides, [*arguments.overrides, *more])
        return run_job(config_name, task, shows_only=bool(shows_only))
    except Exception as error:
        if resumed is not None:
            refuse_other_version(resumed)
        # Here it is known what was typed.
        raise plain_error(error, asked) from error


def _check(asked: Asked, typed: Sequence[str]) -> DictConfig:
    """Return the configuration, or refuse it or an occupied run folder before anything is written.

    Args:
        asked: the arguments, with those of a run that goes on.
        typed: those that were given.
    """
    config = compose_checked(list(asked.overrides), asked.program, asked.config_dir)
    run_dir = Path(config.paths.output_dir)
    # Checked before Hydra writes its own files there
    if is_main_process() and not config.get("resume") and RunFolder(run_dir).is_taken():
        raise OutputError(
            f"{run_dir} already holds a run: choose another hydra.run.dir, or go on with resume={run_dir}"
        )
    if config.get("resume"):
        # The run's stored command line chose this code.
        check_stored_code(plain(config), typed, asked.config_dir)
        check_trust(plain(config), config.trust, str(config.resume))
    return config


def _report(error: BaseException, config_name: str, full_trace: bool, folder: Path | None = None) -> int:
    """Print an error for the user and return the exit status.

    Bugs keep their traceback, with the place in the user's own code, if any was called. `folder` is the run folder, if
    there is one: after an interruption, the message has the command that resumes it.
    """
    status, message = explain(error)
    if message is None or full_trace:
        complain("".join(traceback.format_exception(error)).rstrip())
    if status in STOPPED:
        _tell_stopped(message, config_name, folder)
    elif message is not None:
        complain(f"tlearn: error: {message}")
    elif where := own_code(error):
        complain(f"tlearn: error: {type(error).__name__} in {where}")
    return status


def _tell_stopped(message: str | None, config_name: str, folder: Path | None) -> None:
    """Print that a run was stopped, and how to go on with it."""
    command = resume_command(folder) if folder and config_name == "train" else None
    advice = f"go on with: {command}" if command else "nothing to go on from yet: start it again"
    # How a sweep goes on has been told.
    alone = config_name == "train" and not is_sweep(sys.argv)
    warn(f"tlearn: {message}" + (f"; {advice}" if command or alone else ""))
