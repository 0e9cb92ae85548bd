"""Look at a data set before training: python -m tlearn.explore data=folder data.root=FOLDER."""

from omegaconf import DictConfig

from tlearn.config.command import program


def explore(config: DictConfig) -> dict[str, float]:
    """Print and write what a data set holds: classes, splits, sizes, unreadable files, duplicates across splits."""
    # Imported here: torch takes seconds to load, and help and configuration errors must not wait.
    from tlearn.analysis import data_profile
    from tlearn.config import build
    from tlearn.config.tree import task_overrides
    from tlearn.console import session
    from tlearn.errors import ConfigError
    from tlearn.report.data_report import Survey, write_survey
    from tlearn.report.terminal import show_paths, show_survey
    from tlearn.runs.evaluated import recorded_images
    from tlearn.runs.folder import RunFolder

    own = [one for one in task_overrides() if one.lstrip("+~").startswith(("data", "seed"))]
    if config.run is not None and own:
        raise ConfigError(f"run={config.run} has images and a split of its own: leave out {' '.join(own)}")
    run = RunFolder(config.paths.output_dir)
    with run.claimed(), session(run.path / "explore.log", quiet=config.quiet):
        found = build.image_set(config, run) if config.run is None else recorded_images(config.run)
        survey = Survey(
            title=f"{config.data.name} before training" if config.run is None else f"Images of {config.run}",
            root=found.root,
            splits=found.splits,
            classes=found.classes,
            sizes=data_profile.image_sizes(found.root, found.splits),
            duplicates=data_profile.duplicates(found.root, found.splits),
            unreadable=found.skipped,
            notes=found.notes,
            transform=build.looked_at(config),
            bit_depth=config.data.bit_depth,
        )
        metrics: dict[str, float] = {
            "classes": len(survey.classes),
            **{f"pictures/{name}": len(samples) for name, samples in survey.splits.items()},
            **data_profile.size_summary(survey.sizes),
            "unreadable": len(survey.unreadable),
            "duplicates": len(survey.duplicates),
            "duplicates/across_splits": len(survey.across_splits),
        }
        run.write_json("metrics.json", metrics)
        write_survey(run.path, survey)
        show_survey(survey, run.path)
        show_paths(run.path)
    return metrics


main, script = program("explore", explore)

if __name__ == "__main__":
    script()
