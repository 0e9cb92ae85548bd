"""The table of a sweep: trials by the settings that differ, best first, and the folder of the best one."""

from collections.abc import Sequence
from pathlib import Path

from tlearn.console import answer, say
from tlearn.errors import in_shell
from tlearn.report.ranking_table import print_ranking
from tlearn.runs.comparison import metric_mode
from tlearn.runs.ranking import Entry, ranked
from tlearn.runs.trial import Trial
from tlearn.sweeps.rows import RESULTS


def show_sweep(folder: Path, trials: Sequence[Trial], program: Sequence[str]) -> None:
    """Print the trials that are done, the best first, then why others are not, and the best one's folder and command.

    Args:
        folder: of the sweep.
        trials: all of them.
        program: the command line of one, without its settings.
    """
    settings = differing_settings(trials)
    entries = [(trial, Entry(str(trial.number), settings[trial.number], trial.metrics)) for trial in trials]
    done = {entry.name: trial for trial, entry in entries if trial.status == "done"}
    objective = next((trial.objective for trial in done.values() if trial.objective), None)
    folders = [trial.folder for trial in done.values() if trial.folder is not None]
    mode = metric_mode(folders, objective) if objective else "auto"
    groups = ranked([entry for trial, entry in entries if trial.status == "done"], objective, mode)
    others = [(entry, trial.outcome, trial.error) for trial, entry in entries if trial.status != "done"]
    print_ranking(groups, objective, "trial", others, RESULTS)
    if groups and objective and groups[0].is_finite(objective):
        best = done[groups[0].entries[0].name]
        here = Path.cwd()
        place = best.folder.relative_to(here) if best.folder and best.folder.is_relative_to(here) else best.folder
        say(f"best: {groups[0].words(objective)}", f"best trial: {best.number}, in {place}")
        say(f"repeat it: {' '.join(map(in_shell, [*program, *best.overrides]))}")
    answer(folder / RESULTS)


def differing_settings(trials: Sequence[Trial]) -> dict[int, dict[str, str]]:
    """Return the overrides that not all trials share, by the trials' numbers and the settings' dotted keys."""
    # A trial that never started is not known to differ.
    given = {trial.number: dict(map(_setting, trial.overrides)) for trial in trials if trial.overrides}
    names = dict.fromkeys(name for settings in given.values() for name in settings)
    differing = [name for name in names if len({settings.get(name) for settings in given.values()}) > 1]
    return {
        trial.number: {name: given[trial.number][name] for name in differing if name in given.get(trial.number, {})}
        for trial in trials
    }


def _setting(override: str) -> tuple[str, str]:
    name, _, value = override.partition("=")
    # head@package, +new and ~removed are Hydra's.
    return name.lstrip("+~").partition("@")[0], value
