"""Put runs side by side, the best first: python -m tlearn.compare runs=FOLDER metric=val/top1."""

import math

from omegaconf import DictConfig

from tlearn.config.command import program


def compare(config: DictConfig) -> dict[str, float]:
    """Print and write a table of runs: settings that differ, and metrics."""
    # Imported here: matplotlib takes a while to load, and help and configuration errors must not wait.
    from tlearn.config.tree import settings_of
    from tlearn.console import answer, say, session
    from tlearn.errors import ConfigError
    from tlearn.report.comparison_page import write_comparison
    from tlearn.report.ranking_table import print_ranking
    from tlearn.runs.comparison import entries, metric_mode, read_runs
    from tlearn.runs.folder import RunFolder
    from tlearn.runs.ranking import ranked

    settings = settings_of(config)
    metric = settings["metric"]
    with session(quiet=settings["quiet"]):
        runs = read_runs(settings["runs"])
    known = sorted({name for run in runs for name in run.metrics})
    if metric not in known:
        raise ConfigError(f"metric={metric}: no run has that metric; there are {', '.join(known) or 'none at all'}")
    compared = list(zip(entries(runs), runs, strict=True))
    mode = metric_mode([run.folder for run in runs if metric in run.metrics], metric)
    groups = ranked([entry for entry, run in compared if run.status == "done"], metric, mode)
    others = [(entry, run.status, run.error) for entry, run in compared if run.status != "done"]
    folder = RunFolder(settings["paths"]["output_dir"])
    best = groups[0].entries[0]
    with folder.claimed(), session(folder.path / "compare.log", quiet=settings["quiet"]):
        write_comparison(folder.path, runs, groups, others, metric, mode)
        print_ranking(groups, metric, "run", others, "compare.csv")
        say(f"best: {groups[0].words(metric)}", f"best run: {best.name}")
        answer(folder.path)
    return {"runs": len(runs), "done": len(runs) - len(others), metric: best.metrics.get(metric, math.nan)}


main, script = program("compare", compare)

if __name__ == "__main__":
    script()
