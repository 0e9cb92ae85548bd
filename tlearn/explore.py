"""Look at a data set before training: python -m tlearn.explore data=folder data.root=FOLDER."""

from omegaconf import DictConfig

from tlearn.config.command import program


def explore(config: DictConfig) -> dict[str, float]:
    """Print and write what a data set holds: classes, splits, sizes, unreadable files, duplicates across splits."""
    # Imported here: torch takes seconds to load, and help and configuration errors must not wait.
    from tlearn.config import build, seats
    from tlearn.config.settle import IMAGENET, settled
    from tlearn.config.tree import settings_of, task_overrides
    from tlearn.console import session
    from tlearn.errors import ConfigError
    from tlearn.report.data_report import survey_of, write_survey
    from tlearn.report.terminal import show_paths, show_survey
    from tlearn.runs.evaluated import recorded_images
    from tlearn.runs.folder import RunFolder

    chosen = settings_of(config).get("backbone")
    settings = settled(config, seats.backbone(chosen).preprocessing() if chosen else IMAGENET)
    opened, data = settings["run"], settings["data"]
    own = [one for one in task_overrides() if one.lstrip("+~").startswith(("data", "seed"))]
    if opened is not None and own:
        raise ConfigError(f"run={opened} has images and a split of its own: leave out {' '.join(own)}")
    run = RunFolder(settings["paths"]["output_dir"])
    with run.claimed(), session(run.path / "explore.log", quiet=settings["quiet"]):
        images = build.image_set(settings, run) if opened is None else recorded_images(opened)
        title = f"{data['name']} before training" if opened is None else f"Images of {opened}"
        transform = build.transforms(settings)[0] if settings.get("transforms") else None
        survey = survey_of(images, title, transform, data["bit_depth"])
        metrics = survey.metrics()
        run.write_json("metrics.json", metrics)
        write_survey(run.path, survey)
        show_survey(survey, run.path)
        show_paths(run.path)
    return metrics


main, script = program("explore", explore)

if __name__ == "__main__":
    script()
