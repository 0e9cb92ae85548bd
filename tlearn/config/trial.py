"""One trial of a sweep: its end is recorded in its folder, and its failure does not stop other trials."""

import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object

from tlearn.analysis.direction import MEASURED, lower_is_better
from tlearn.config.meant_values import metric_line
from tlearn.config.messages import explain
from tlearn.console import complain, warn
from tlearn.data.sources.base import SPLITS
from tlearn.errors import ConfigError, PastHydra, PrunedError, SearchEndedError, in_shell, quoted
from tlearn.runs.folder import RunFolder
from tlearn.runs.trial import Trial, read_trials, write_trial
from tlearn.training.resume import last_path

# Statuses from here on mean a signal or a closed output, which end the sweep.
_STOPPED = 128


def run_trial(
    task: Callable[[Path | None], dict[str, float]],
    objective: str | None,
    check: Callable[[], None],
    nodes: Mapping[str, Any] | None = None,
) -> float | None:
    """Run one trial and record its result; one of a sweep that goes on and is done is not run again.

    Args:
        task: runs it and returns its metrics; it goes on with the run in the folder that it is given, if any.
        objective: the metric that a sweeper optimises, if any.
        check: refuses a wrong configuration.
        nodes: of the metrics that the task measures, by name, if they are known.

    Returns:
        The value of the objective; the worst possible value where the trial failed or the metric is NaN, which would
        end Optuna's search; None without an objective.

    Raises:
        BaseException: an error that ends the whole sweep, such as an interruption.
    """
    trial = _begin(objective)
    assert trial.folder is not None
    before = next((one for one in read_trials(trial.folder) if one.number == trial.number), None)
    if before is not None and before.status in ("done", "pruned"):
        return _value(before, nodes)
    # An error of its own would meet a run that was stopped again.
    was_stopped = before is not None and (before.status == "running" or before.exit_status >= _STOPPED)
    resumed = trial.folder if was_stopped and last_path(trial.folder).is_file() else None
    write_trial(trial)
    try:
        check()
        check_objective(objective, nodes)
        if before is not None and resumed is None:
            RunFolder(trial.folder).clear()
        metrics = task(resumed)
        trial = replace(trial, metrics=dict(metrics))
        if trial.objective is not None and trial.objective not in metrics:
            raise ConfigError(f"optimized_metric={trial.objective}: no such metric; there are {', '.join(metrics)}")
    except PrunedError as pruned:
        trial = replace(trial, status="pruned", metrics=dict(pruned.metrics), error=pruned.message)
        write_trial(trial)
        return _value(trial, nodes)
    except BaseException as error:
        if _record_failure(trial, error):
            raise
        return _worst(objective, nodes)
    trial = replace(trial, status="done")
    write_trial(trial)
    return _value(trial, nodes)


def _value(trial: Trial, nodes: Mapping[str, Any] | None) -> float | None:
    """Return the objective of a trial that is done, as `run_trial`."""
    value = None if trial.objective is None else trial.metrics[trial.objective]
    return _worst(trial.objective, nodes) if value is None or math.isnan(value) else value


def _record_failure(trial: Trial, error: BaseException) -> bool:
    """Write and print why a trial failed; return whether its error ends the whole sweep."""
    status, message = explain(error)
    if message is None:
        complain(traceback.format_exc().rstrip())
    reason = (message or repr(error)).splitlines()[0]
    write_trial(replace(trial, status="failed", exit_status=status, error=reason))
    if status >= _STOPPED or not isinstance(error, Exception):
        return True
    warn(f"tlearn: trial {trial.number} failed: {message or reason}")
    return False


def check_objective(objective: str | None, nodes: Mapping[str, Any] | None) -> None:
    """Refuse a metric of val or test that no run will have, before it has trained."""
    asked = re.fullmatch(rf"({'|'.join(SPLITS)})([/_.-])(.+)", objective or "")
    known = {**dict.fromkeys(MEASURED, True), **(nodes or {})}
    if nodes is not None and asked and not (asked[2] == "/" and known.get(asked[3])):
        there = metric_line("optimized_metric", asked[0], known, asked[1])
        raise ConfigError(f"optimized_metric={objective}: no such metric; {there}")


def _worst(objective: str | None, nodes: Mapping[str, Any] | None) -> float | None:
    """Return the worst value of a metric, by what its class says or else by its name."""
    if objective is None:
        return None
    higher, node = None, (nodes or {}).get(objective.rpartition("/")[2])
    # Importing a user's class can raise anything, which the trial itself has told.
    with suppress(Exception):
        higher = getattr(get_object(node["_target_"]), "higher_is_better", None) if node else None
    lower = lower_is_better(objective) if higher is None else not higher
    return math.inf if lower else -math.inf


def _begin(objective: str | None) -> Trial:
    """Describe the trial that Hydra starts.

    Raises:
        ConfigError: its folder is not below that of the sweep, where its row would be looked for.
    """
    job = HydraConfig.get()
    sweep, folder = os.path.abspath(os.path.join(job.runtime.cwd, job.sweep.dir)), job.runtime.output_dir
    if not Path(folder).is_relative_to(sweep):
        raise ConfigError(f"hydra.sweep.subdir={job.sweep.subdir}: expected a folder below hydra.sweep.dir={sweep}")
    # Of a search that several processes share, the sweeper counts only its own.
    typed = [one.partition("=")[2] for one in job.overrides.hydra if one.startswith("hydra.sweep.subdir=")]
    number = int(typed[-1]) if typed and "study_name" in job.sweeper and typed[-1].isdecimal() else job.job.num
    return Trial(number, list(job.overrides.task), Path(folder), objective=objective)


def end_sweep(error: BaseException | None) -> None:
    """Show the table of a sweep that ended with an error, as Hydra does for others, and check its trials.

    A search whose process holds trials that have not run only releases them, to go on with these.

    Raises:
        SweepError: some trials are not done, and the error, if any, is not one that explains itself.
    """
    # Nothing has imported it where there is no sweep.
    callback: Any = sys.modules.get("tlearn.sweeps.callback")
    if callback is None or callback.SweepTable.sweep is None:
        return
    table, sweep = callback.SweepTable(), callback.SweepTable.sweep
    try:
        if isinstance(error, SearchEndedError) and error.returned:
            return
        if error is not None:
            table.on_multirun_end(sweep)
            if isinstance(error, PastHydra) and explain(error.error)[0] >= _STOPPED:
                place = in_shell(f"hydra.sweep.dir={quoted(sweep.hydra.sweep.dir)}")
                warn(f"tlearn: to go on with this sweep, type the same command with {place}")
        if error is None or isinstance(error, SearchEndedError):
            table.require_all_done(sweep.hydra)
        elif isinstance(error, Exception) and explain(error)[1] is None:
            # Such as an error of a launcher, one of whose processes was killed
            warn(f"tlearn: the sweep stopped: {type(error).__name__}: {error}")
            table.require_all_done(sweep.hydra)
    finally:
        table.release()
