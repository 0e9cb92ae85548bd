"""The command line of every program: from arguments to a checked configuration, from errors to an exit status."""

import argparse
import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tlearn import __version__
from tlearn.config.arguments import readable
from tlearn.config.compose import check_home, check_rules, check_run_folder, compose_checked
from tlearn.config.help import help_text
from tlearn.config.interpreter import borrowed_interpreter, end_process, variable
from tlearn.config.messages import STOPPED, explain, own_code, plain_error
from tlearn.config.positional import replaced, with_images
from tlearn.config.ranks import check_alone, restarted_arguments, shared_place
from tlearn.config.relaunch import (
    restored_arguments,
    resume_command,
    resumed_run,
)
from tlearn.config.stored_code import check_stored_code
from tlearn.config.stored_run import refuse_other_version
from tlearn.config.suggestions import Asked, flag
from tlearn.config.tree import CONF_DIR, own_hydra, plain
from tlearn.config.trial import end_sweep, run_trial
from tlearn.console import complain, is_main_process, say, warn
from tlearn.errors import ConfigError, OutputError, PastHydra, SearchEndedError, TlearnError, in_shell
from tlearn.runs.folder import RunFolder
from tlearn.runs.trust import check_trust
from tlearn.training.signals import Stopped, stoppable

Task = Callable[[DictConfig], dict[str, float]]


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
        sys.argv[1:] = with_images(sys.argv[1:], _parsed(config_name, sys.argv[1:]).overrides)
    typed, resumed = list(sys.argv[1:]), resumed_run(sys.argv[1:])
    sys.argv[1:] = readable(restored_arguments(sys.argv[1:]))
    arguments = _parsed(config_name, sys.argv[1:])
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
        return _hydra_main(config_name, task, shows_only=bool(shows_only))
    except Exception as error:
        if resumed is not None:
            refuse_other_version(resumed)
        # Here it is known what was typed.
        raise plain_error(error, asked) from error


def _hydra_main(config_name: str, task: Task, shows_only: bool) -> int:
    asked = os.environ.get("HYDRA_FULL_ERROR")

    @functools.wraps(task)
    def job(config: DictConfig) -> float | None:
        if HydraConfig.get().job.chdir:
            # Paths are of where they were typed, also for what the task starts; that of the run folder is absolute.
            os.chdir(HydraConfig.get().runtime.cwd)
        # Set for Hydra alone: processes that the task starts must follow the user's own setting.
        with variable("HYDRA_FULL_ERROR", asked):
            in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN

            def run(resumed: Path | None) -> dict[str, float]:
                if resumed is not None:
                    config.resume = str(resumed)
                with _in_folder(Path(config.paths.output_dir)):
                    return task(config)

            def check() -> None:
                job = HydraConfig.get()
                sources = [one.path for one in job.runtime.config_sources if one.provider == "command-line"]
                asked = Asked(config_name, list(job.overrides.task), next(iter(sources), None))
                unresolved = plain(config, resolve=False)
                check_home("hydra.sweep.dir", job.sweep.dir)
                check_run_folder(unresolved["paths"])
                check_rules(plain(config), unresolved, job.runtime.choices, asked)

            try:
                if in_sweep:
                    objective, nodes = config.get("optimized_metric"), config.get("metrics")
                    return run_trial(run, objective, check, nodes)
                run(None)
            except BaseException as error:
                # The sweep goes on, and not a trial of it alone.
                raise PastHydra(error, None if in_sweep else Path(config.paths.output_dir)) from error
        return None

    with own_hydra():
        try:
            # Makes Hydra raise its errors instead of printing a trace and exiting with status 1
            with variable("HYDRA_FULL_ERROR", asked if shows_only else "1"):
                hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(job)()
        except SearchEndedError as error:
            end_sweep(error)
            if error.returned:
                given = _parsed(config_name, sys.argv[1:]).overrides
                sys.argv[1:] = replaced(sys.argv[1:], given, [*given, "hydra.sweeper.n_jobs=1"])
                return _hydra_main(config_name, task, shows_only)
        except BaseException as error:
            end_sweep(error)
            raise
        else:
            end_sweep(None)
    return 0


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Say in a line that the run folder of the block, or a file that the run writes to, is gone: OutputError."""
    # Not the folder: what is written makes it anew.
    was_there, failure = (folder / ".hydra").is_dir(), None
    try:
        yield
    except (OSError, TlearnError) as error:
        # What has ended the fit comes before a logger that cannot be closed then.
        failure = error.__context__ if isinstance(error.__context__, TlearnError) else error
    if was_there and not (folder / ".hydra").is_dir():
        raise OutputError(f"the run folder {folder} was moved or removed while the run wrote to it") from failure
    if isinstance(failure, OSError) and failure.errno in (errno.ENOENT, errno.ENOTDIR):
        name = failure.filename
        if isinstance(name, str | bytes) and (path := Path(os.fsdecode(name))).is_relative_to(folder):
            raise OutputError(f"{path} was removed while the run wrote to it") from failure
    if failure is not None:
        raise failure


def _parsed(config_name: str, arguments: list[str]) -> argparse.Namespace:
    """Parse arguments as Hydra will; raise ConfigError where argparse would print its usage and exit."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}: see --help")

    parser.error = refuse  # type: ignore[method-assign]
    namespace, others = parser.parse_known_args(arguments)
    # A flag of Hydra's that does nothing here, but a key of ours
    own = [one for one, value in pairwise(arguments) if one == "--run" and "=" not in value]
    if others := [*own, *others]:
        if told := flag(arguments, others, Asked(config_name)):
            raise ConfigError(told)
        # argparse takes KEY=VALUE arguments before a flag or after it, but not both.
        line = sorted(arguments, key=lambda one: one in (*namespace.overrides, *others))
        raise ConfigError(f"flags go first: python -m tlearn.{config_name} {' '.join(map(in_shell, line))}")
    return namespace


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
    warn(f"tlearn: {message}" + (f"; {advice}" if command or config_name == "train" else ""))
