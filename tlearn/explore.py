"""Look at a data set before training: python -m tlearn.explore data=folder data.root=FOLDER."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tlearn.config.command import program

if TYPE_CHECKING:
    from tlearn.report.data_report import Survey


def explore(config: DictConfig) -> dict[str, float]:
    """Print and write what a data set holds: classes, splits, sizes, unreadable files, duplicates across splits."""
    # Imported here: torch takes seconds, which help and configuration errors must not wait for.
    from tlearn.analysis import data_profile
    from tlearn.config import build
    from tlearn.console import show_metrics
    from tlearn.report.data_report import Survey, write_survey
    from tlearn.runs.folder import RunFolder

    run = RunFolder(config.paths.output_dir)
    with run.claimed():
        # Everything is shown here, so a file that cannot be read does not stop the others.
        config.data.on_bad_image = "skip"
        found = build.pictures(config, run)
        survey = Survey(
            title=f"{config.data.name} before training",
            root=found.root,
            splits=found.splits,
            classes=found.classes,
            sizes=data_profile.image_sizes(found.root, found.splits),
            duplicates=data_profile.duplicates(found.root, found.splits),
            unreadable=found.skipped,
            notes=found.notes,
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
        _show(survey)
        show_metrics(metrics, run.path)
    return metrics


def _show(survey: "Survey") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tlearn.analysis.data_profile import class_table
    from tlearn.analysis.drawing import shown as visible

    shown = Table("class", *survey.splits)
    for row in class_table(survey.splits, survey.classes):
        shown.add_row(*(Text(visible(str(value))) for value in row.values()))
    Console().print(shown)
    for path, reason in survey.unreadable.items():
        print(f"unreadable: {path}: {reason}")
    across = survey.across_splits
    for group in across[:20]:
        print("the same picture in several splits:", ", ".join(path for _, path in group))
    if len(across) > 20:
        print(f"... and {len(across) - 20} more, listed in duplicates.csv")


main = program("explore")(explore)

if __name__ == "__main__":
    main()
