"""The job that Hydra runs: a task in its run folder, or a trial of a sweep, and the end of either past Hydra."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tlearn.config.compose import check_home, check_rules, check_run_folder
from tlearn.config.flags import parsed
from tlearn.config.interpreter import variable
from tlearn.config.messages import plain_error
from tlearn.config.positional import replaced
from tlearn.config.suggestions import Asked
from tlearn.config.tree import CONF_DIR, own_hydra, plain
from tlearn.config.trial import check_objective, end_sweep, run_trial
from tlearn.errors import OutputError, PastHydra, SearchEndedError, TlearnError

Task = Callable[[DictConfig], dict[str, float]]


def run_job(config_name: str, task: Task, shows_only: bool) -> int:
    """Let Hydra run the task, once or for each trial of a sweep, or show what a flag asks for; return the status."""
    asked = os.environ.get("HYDRA_FULL_ERROR")
    with own_hydra():
        try:
            # Makes Hydra raise its errors instead of printing a trace and exiting with status 1
            with variable("HYDRA_FULL_ERROR", asked if shows_only else "1"):
                job = _job(config_name, task, asked)
                hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(job)()
        except SearchEndedError as error:
            end_sweep(error)
            if error.returned:
                given = parsed(config_name, sys.argv[1:]).overrides
                sys.argv[1:] = replaced(sys.argv[1:], given, [*given, "hydra.sweeper.n_jobs=1"])
                return run_job(config_name, task, shows_only)
        except BaseException as error:
            end_sweep(error)
            raise
        else:
            end_sweep(None)
    return 0


def _job(config_name: str, task: Task, full_error: str | None) -> Callable[[DictConfig], float | None]:
    """Make of the task what Hydra calls; `full_error` is what the user's own HYDRA_FULL_ERROR is."""

    @wraps(task)
    def job(config: DictConfig) -> float | None:
        hydra_config = HydraConfig.get()
        if hydra_config.job.chdir:
            # Paths are of where they were typed, also for what the task starts; that of the run folder is absolute.
            os.chdir(hydra_config.runtime.cwd)
        in_sweep = hydra_config.mode == RunMode.MULTIRUN

        def run(resumed: Path | None) -> dict[str, float]:
            if resumed is not None:
                config.resume = str(resumed)
            with _in_folder(Path(config.paths.output_dir)):
                return task(config)

        # Set for Hydra alone: processes that the task starts must follow the user's own setting.
        with variable("HYDRA_FULL_ERROR", full_error):
            try:
                objective, nodes = config.get("optimized_metric"), config.get("metrics")
                if in_sweep:
                    return run_trial(run, objective, lambda: _check_trial(config_name, partial(plain, config)), nodes)
                check_objective(objective, nodes)
                run(None)
            except BaseException as error:
                # The sweep goes on, and not a trial of it alone.
                raise PastHydra(error, None if in_sweep else Path(config.paths.output_dir)) from error
        return None

    return job


def _check_trial(config_name: str, content: Callable[..., dict[str, Any]]) -> None:
    """Check the configuration of a trial, which `plain` makes of it, as a single run's was before Hydra began."""
    job = HydraConfig.get()
    sources = [one.path for one in job.runtime.config_sources if one.provider == "command-line"]
    asked = Asked(config_name, list(job.overrides.task), next(iter(sources), None))
    unresolved = content(resolve=False)
    check_home("hydra.sweep.dir", job.sweep.dir)
    check_run_folder(unresolved["paths"])
    folder = Path(job.runtime.output_dir)
    # Nothing has imported it where no trials train together.
    groups: Any = sys.modules.get("tlearn.sweeps.groups")
    group = groups.group_of(folder) if groups else None
    resolved = group.content_of(folder) if group else None
    try:
        resolved = resolved or content()
    except Exception as error:
        raise plain_error(error, asked) from error
    if group is not None:
        group.content = resolved
    check_rules(resolved, unresolved, job.runtime.choices, asked)


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Say in a line that the run folder of the block, or a file that the run writes to, is gone: OutputError."""
    # Not the folder: what is written makes it anew.
    was_there, failure = (folder / ".hydra").is_dir(), None
    try:
        yield
    except (OSError, TlearnError) as error:
        # What has ended the fit comes before a logger that cannot be closed then; `raise ... from` says it anew.
        ended = isinstance(error.__context__, TlearnError) and not error.__suppress_context__
        failure = error.__context__ if ended else error
    if was_there and not (folder / ".hydra").is_dir():
        raise OutputError(f"the run folder {folder} was moved or removed while the run wrote to it") from failure
    if isinstance(failure, OSError) and failure.errno in (errno.ENOENT, errno.ENOTDIR):
        name = failure.filename
        if isinstance(name, str | bytes) and (path := Path(os.fsdecode(name))).is_relative_to(folder):
            raise OutputError(f"{path} was removed while the run wrote to it") from failure
    if failure is not None:
        raise failure
