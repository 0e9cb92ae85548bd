"""Look at a data set before training: python -m tlearn.explore data=folder data.root=FOLDER."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tlearn.cli import program

if TYPE_CHECKING:
    from tlearn.data.prepare import Pictures


def explore(config: DictConfig) -> dict[str, float]:
    """Print and write what a data set holds: classes, splits, sizes, unreadable files, duplicates across splits."""
    # Imported here: torch takes seconds, which help and configuration errors shall not.
    from tlearn import assemble
    from tlearn.insight import dataset
    from tlearn.insight.drawing import write_figure
    from tlearn.insight.tables import write_table
    from tlearn.run import RunFolder

    run = RunFolder(config.paths.output_dir)
    run.claim()
    try:
        # Everything is shown here, so a file that cannot be read does not stop the others.
        config.data.on_bad_image = "skip"
        found = assemble.pictures(config, run)
        table = dataset.class_table(found.splits, found.classes)
        sizes = dataset.image_sizes(found.root, found.splits)
        same = dataset.duplicates(found.root, found.splits)
        across = [group for group in same if len({split for split, _ in group}) > 1]
        counts = {f"pictures/{name}": len(samples) for name, samples in found.splits.items()}
        figures: dict[str, float] = {
            "classes": len(found.classes),
            **counts,
            **dataset.size_summary(sizes),
            "unreadable": len(found.skipped),
            "duplicates": len(same),
            "duplicates/across_splits": len(across),
        }
        write_table(run.path / "classes.csv", table)
        _write_duplicates(run.path / "duplicates.csv", same)
        write_figure(run.path / "images_per_class.png", dataset.class_figure(table, list(found.splits)))
        write_figure(run.path / "image_sizes.png", dataset.size_figure(sizes))
        run.write_json("metrics.json", figures)
        _show(found, table, across)
        assemble.show(figures, run.path)
        return figures
    finally:
        run.release()


def _write_duplicates(path: Path, groups: list[list[tuple[str, str]]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "split", "path"])
        writer.writerows((number, *member) for number, group in enumerate(groups) for member in group)


def _show(found: "Pictures", table: list[dict[str, Any]], across: list[list[tuple[str, str]]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table("class", *found.splits)
    for row in table:
        shown.add_row(*(Text(str(value)) for value in row.values()))
    Console().print(shown)
    for path, reason in found.skipped.items():
        print(f"unreadable: {path}: {reason}")
    for group in across[:20]:
        print("the same picture in several splits:", ", ".join(path for _, path in group))
    if len(across) > 20:
        print(f"... and {len(across) - 20} more, listed in duplicates.csv")


main = program("explore")(explore)

if __name__ == "__main__":
    main()
