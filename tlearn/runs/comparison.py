"""Compare finished runs: settings that differ, and metrics."""

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from tlearn.console import ended_by, say
from tlearn.errors import ConfigError
from tlearn.models.digests import check_json
from tlearn.runs.dotted_keys import leaves
from tlearn.runs.folder import TUNED, folder_around
from tlearn.runs.ranking import Entry, metric_order, rank_key
from tlearn.runs.trial import read_trials

# In C where PyYAML was built with it: ten times as fast
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Keys of paths and reporting, not of training
_NO_SETTINGS = (
    *("paths.", "logger.", "report.", "metrics.", "quiet", "resume", "optimized_metric"),
    # The summary was a callback once.
    *("callbacks.checkpoint.", "callbacks.last.", "callbacks.learning_rate.", "callbacks.progress."),
    *("callbacks.summary.", "data.source.", "data.download_root", "data.url", "data.num_workers"),
    *("features.on_write_error", "features.limit_gb", "trainer.default_root_dir", "trainer.log_every_n_steps"),
    # It follows from the metric.
    "monitor.mode",
)
# Far more than a configuration has: a few lines of YAML can stand for millions of values.
_MOST_SETTINGS = 5000
_CONFIG, _HYDRA, _METRICS = Path(".hydra/config.yaml"), Path(".hydra/hydra.yaml"), Path("metrics.json")
_MODEL, _LOG = Path("model/model.json"), "train.log"


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself.

    Args:
        folder: where it lies.
        status: done, unfinished, failed (as its sweep tells) or damaged.
        metrics: its metrics.json.
        settings: its configuration, by dotted keys.
        choices: the option of each group, where it is known.
        error: why it is not done.
    """

    folder: Path
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Find the folders of trainings in and below folders, in stable order; links to folders are not followed."""
    found: dict[Path, None] = {}
    for folder in folders:
        for here, below, _ in os.walk(folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            if _holds_run(Path(here)):
                below.clear()
                found[Path(here).resolve()] = None
    return list(found)


def _holds_run(folder: Path) -> bool:
    return any((folder / file).is_file() for file in (_CONFIG, _MODEL))


def read_runs(given: str | Sequence[str]) -> list[Run]:
    """Find and read the runs of folders, of files of runs, or of globs.

    Raises:
        ConfigError: a place that does not exist, or holds no runs.
    """
    folders: list[Path] = []
    for one in [given] if isinstance(given, str) else given:
        path = os.path.expanduser(one)
        matching = [path] if os.path.exists(path) else sorted(glob.glob(path))
        around = {given: folder_around(given, _holds_run) for given in matching}
        found = [folder for folder in around.values() if folder.is_dir()]
        if not found:
            raise ConfigError(f"runs={one}: no such folder (a folder, a list of folders, or a quoted glob)")
        # Of other files, the table shows which runs they are of.
        say(*(f"{one} has the metrics of its run {run}" for one, run in around.items() if one.endswith(".ckpt")))
        folders += found
    runs = [run for folder in find_runs(folders) if (run := read_run(folder)) is not None]
    if not runs:
        raise ConfigError(f"runs={given}: no run of tlearn.train there")
    return runs


def read_run(folder: Path) -> Run | None:
    """Read a run folder as plain data; None for a folder that is not of a training, such as an evaluation."""
    try:
        settings = dict(islice(leaves(_configuration(folder)), _MOST_SETTINGS))
        if (folder / TUNED).is_file():
            settings |= _json(folder / TUNED)
        job, choices = _job(folder)
        found = _json(folder / _METRICS) if (folder / _METRICS).is_file() else {}
        metrics = {name: value for name, value in found.items() if isinstance(value, int | float)}
    # Damaged or truncated files can parse as any structure.
    except Exception as error:
        return Run(folder, "damaged", error=(str(error) or type(error).__name__).splitlines()[0])
    # Evaluations can have a backbone too, and what is only checked or timed all that a training has.
    if job in ("check", "bench") or not any(key.partition(".")[0] == "optimizer" for key in settings):
        return None
    settings = {key: value for key, value in settings.items() if not key.startswith(_NO_SETTINGS)}
    status, reason = ("done", "") if metrics else _failure(folder)
    return Run(folder, status, metrics, settings, choices, reason)


def _json(path: Path) -> Any:
    content = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    if path.name == _MODEL.name:
        check_json(content, path)
    return content


def _yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8", errors="surrogateescape"), _Loader)


def _configuration(folder: Path) -> Any:
    return _yaml(folder / _CONFIG) if (folder / _CONFIG).is_file() else _json(folder / _MODEL)["config"]


def _job(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the name of the program, if the folder tells it, and the option of each group."""
    if not (folder / _HYDRA).is_file():
        return "", {}
    hydra = _yaml(folder / _HYDRA)["hydra"]
    choices = hydra["runtime"]["choices"]
    own = {group.partition("@")[0]: option for group, option in choices.items() if not group.startswith("hydra")}
    return hydra["job"]["name"], {
        group: "null" if option is None else str(option)
        for group, option in own.items()
        if f"{group}." not in _NO_SETTINGS
    }


def _failure(folder: Path) -> tuple[str, str]:
    """Return the status and the error of a run without metrics, as its row in a sweep tells them."""
    failed = [trial for trial in read_trials(folder) if trial.status == "failed"]
    if failed:
        return failed[-1].outcome, failed[-1].error
    error = ended_by(folder / _LOG)
    reason = f"ended by {error}, as {_LOG} tells" if error else "still running, or stopped"
    return "unfinished", f"no metrics.json: {reason}"


def differing(runs: Sequence[Run]) -> list[str]:
    """List the groups and settings that differ between runs.

    A setting that follows from the option chosen for its group, as the learning rate that is an optimizer's default,
    is left out: the option says it. So is one that runs of an older version do not have.
    """
    groups = list(dict.fromkeys(group for run in runs for group in run.choices))
    chosen = [group for group in groups if len({run.choices.get(group) for run in runs if run.choices}) > 1]
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.endswith("._partial_"))
    return [*chosen, *(key for key in keys if key not in chosen and _differs(key, runs, chosen))]


def _differs(key: str, runs: Sequence[Run], chosen: Sequence[str]) -> bool:
    values: dict[str | None, set[str]] = {}
    group = key.partition(".")[0]
    for run in runs:
        if key in run.settings:
            value = setting(run, key)
            # What refers to another setting tells nothing new.
            if isinstance(value, str) and "${" in value:
                return False
            option = run.choices.get(group) if group in chosen else None
            values.setdefault(option, set()).add(json.dumps(value))
    return any(len(found) > 1 for found in values.values())


def setting(run: Run, key: str) -> Any:
    """Return an option or a setting as a number or text; None where a run has none of that name."""
    if key in run.choices:
        return run.choices[key]
    if key not in run.settings:
        return None
    value = run.settings[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return value if isinstance(value, str) else json.dumps(value, default=str)


def comparison_table(runs: Sequence[Run], metric: str, mode: str = "auto") -> list[dict[str, Any]]:
    """Build a row for each run, the best first and those without the metric last.

    The columns are run, the metric, status, what differs, all other metrics, folder and error. `mode` is as `ranked`
    takes it.
    """
    ordered = sorted(runs, key=lambda run: rank_key(run.metrics.get(metric), metric, mode))
    names = differing(runs)
    others = sorted({name for run in runs for name in run.metrics} - {metric}, key=metric_order)
    return [
        {
            "run": name_of(run, runs),
            metric: run.metrics.get(metric),
            "status": run.status,
            **{name: setting(run, name) for name in names},
            **{name: run.metrics.get(name) for name in others},
            "folder": str(run.folder),
            "error": run.error,
        }
        for run in ordered
    ]


def metric_mode(folders: Iterable[Path], metric: str) -> str:
    """Return min or max as the first run says that knows the metric, or auto where none does."""
    split, _, name = metric.rpartition("/")
    for folder in folders if split else ():
        # As above: any error
        with suppress(Exception):
            if (mode := _json(folder / _MODEL)["directions"].get(name)) in ("min", "max"):
                return mode
    return "auto"


def name_of(run: Run, runs: Sequence[Run]) -> str:
    """Return the part of a run's path that differs from the others'."""
    if len(runs) == 1:
        return run.folder.name
    return str(run.folder.relative_to(os.path.commonpath([one.folder for one in runs])))


def entries(runs: Sequence[Run]) -> list[Entry]:
    """Return each run as an entry of a ranking, named by the part of its path that sets it apart."""
    names = differing(runs)
    return [Entry(name_of(run, runs), {name: setting(run, name) for name in names}, run.metrics) for run in runs]
