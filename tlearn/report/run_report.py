"""The report page of a finished run: metrics, mistakes, and images to check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlearn.analysis.learning_curves import learning_curves, learning_figure
from tlearn.analysis.outputs import Outputs
from tlearn.data.sources.base import SPLITS
from tlearn.report.gallery import Thumbnails
from tlearn.report.page import Block, Group, KeyMetrics, Link, Section, Table, Text, number, write_page
from tlearn.report.page_files import Exhibits
from tlearn.report.redaction import redacted
from tlearn.report.sections import (
    LABELS,
    TableRows,
    calibration_blocks,
    class_blocks,
    confusion_blocks,
    doubt_blocks,
    mistake_blocks,
    outcome_figures,
    random_blocks,
    split_row,
)
from tlearn.runs.dotted_keys import flat

_WHAT = {
    "backbone": "backbone.name",
    "head": "head.build._target_",
    "data": "data.name",
    "module": "module._target_",
    "optimizer": "optimizer._target_",
}
_RUN_FILES = {
    "metrics.json": "metrics of the best checkpoint",
    "metrics.csv": "losses and accuracies of all epochs",
    "splits.csv": "the split of each image",
    "model": "the network, for evaluate and predict",
    "checkpoints": "the best and the last, to resume from",
    "tensorboard": "for tensorboard --logdir",
    "environment.json": "versions and hardware",
    "data_report.json": "unreadable images and notes on the data",
}


@dataclass(frozen=True)
class RunSummary:
    """Content of a report.

    Args:
        title: title of the page.
        outputs: the network's outputs by split: test, val or train.
        metrics: the content of metrics.json.
        subtitle: line below the title.
        overrides: overrides of the command line.
        settings: the configuration, nested or by dotted keys.
        environment: versions and hardware.
        notes: notes on the data.
        remarks: what must be known to read the metrics.
        train_counts: training images of each class.
        temperature: fitted on val, or None where it was not fitted.
        suspects: rows of images with doubtful labels, or the reason why they were not computed; None leaves the
            section out.
        near_duplicates: rows of near-duplicates across splits, or as above.
        run_folder: the folder with metrics.csv, for the learning curves, or None.
        extras: further figures, PNG files in the folder, by their captions.
    """

    title: str
    outputs: Mapping[str, Outputs]
    metrics: Mapping[str, float]
    subtitle: str = ""
    overrides: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    train_counts: Mapping[str, int] = field(default_factory=dict)
    temperature: float | None = None
    suspects: TableRows | str | None = None
    near_duplicates: TableRows | str | None = None
    run_folder: Path | None = None
    extras: Mapping[str, Path] = field(default_factory=dict)


def write_report(folder: Path, run: RunSummary) -> Path:
    """Write report.html, and its figures and tables into report/; a section that fails becomes a note on the page."""
    report = _Report(folder, run)
    parts: dict[str, Callable[[], list[Block]]] = {
        "Summary": report.summary,
        "Curves": report.curves,
        **report.about_outputs(),
        "Data": report.data,
        "More": report.more,
        "Settings": report.settings,
        "Files": report.files,
    }
    sections = []
    for title, make in parts.items():
        try:
            blocks = make()
        # A finished run must not fail because of its report.
        except Exception as error:
            blocks = [Text([f"This could not be made ({type(error).__name__}: {error})."], warning=True)]
        sections += [Section(title, blocks)] if blocks else []
    write_page(folder / "report.html", run.title, sections, run.subtitle)
    return folder / "report.html"


class _Report:
    """Build the blocks of each section; an empty section is left out."""

    def __init__(self, folder: Path, run: RunSummary) -> None:
        self.folder, self.run = folder, run
        self.exhibits = Exhibits(folder, "report")
        ordered = dict.fromkeys(split for split in ("test", "val", *run.outputs) if split in run.outputs)
        self.splits = [run.outputs[split] for split in ordered]
        self.outputs = self.splits[0] if self.splits else None
        self.thumbnails = Thumbnails(
            self.outputs.root if self.outputs else folder, bit_depth=flat(run.settings).get("data.bit_depth")
        )

    def summary(self) -> list[Block]:
        """Show the most important metrics, and those of each split."""
        run = self.run
        # A temperature of 1 scales nothing.
        temperature = None if run.temperature == 1.0 else run.temperature
        rows = [split_row(outputs, temperature, run.metrics) for outputs in self.splits]
        outcome = outcome_figures(rows[0]) if rows else []
        settings = flat(run.settings)
        # A backbone of a library has a name
        settings.setdefault("backbone.name", str(settings.get("backbone._target_", "")).rpartition(".")[2])
        chosen = {name: str(settings.get(key) or "") for name, key in _WHAT.items()}
        # Only the name of the class or function that builds it
        chosen |= {name: chosen[name].rpartition(".")[2] for name, key in _WHAT.items() if key.endswith("_target_")}
        blocks: list[Block] = [KeyMetrics([*outcome, *_views(run.metrics), *_costs(run.metrics)])]
        if chosen["backbone"]:
            blocks.append(Text([", ".join(f"{name} {value}" for name, value in chosen.items() if value)]))
        if run.remarks:
            blocks.append(Text(run.remarks))
        if rows:
            blocks.append(self.exhibits.table("splits", "Splits, with 95 % intervals", rows, LABELS))
        metrics = [{"metric": name, "value": value} for name, value in sorted(run.metrics.items())]
        return [*blocks, Group("All metrics", [Table(metrics, file="metrics.json")])]

    def curves(self) -> list[Block]:
        """Show loss and accuracy over the epochs."""
        if self.run.run_folder is None:
            return []
        table = learning_curves(self.run.run_folder)
        if not table:
            return [Text(["No epoch of metrics.csv to draw."])]
        best = self.run.metrics.get("epoch/best")
        caption = "Loss and accuracy"
        if best is not None:
            caption += f"; all metrics are those of the best checkpoint, epoch {best}"
        kept = None if best is None else int(best)
        return [self.exhibits.figure("curves", caption, lambda: learning_figure(table, kept), table)]

    def about_outputs(self) -> dict[str, Callable[[], list[Block]]]:
        """Return the sections on the network's outputs, if there are any."""
        if self.outputs is None:
            return {}
        run, outputs, exhibits = self.run, self.outputs, self.exhibits
        return {
            "Predictions": lambda: random_blocks(outputs, exhibits),
            "Confusion": lambda: confusion_blocks(outputs, exhibits),
            "Classes": lambda: class_blocks(outputs, run.train_counts, exhibits),
            "Mistakes": lambda: mistake_blocks(outputs, exhibits, self.thumbnails),
            "Calibration": lambda: calibration_blocks(outputs, run.temperature, exhibits),
        }

    def data(self) -> list[Block]:
        """Show which images to check."""
        run = self.run
        notes: list[Block] = [Text(run.notes)] if run.notes else []
        return [*notes, *doubt_blocks(run.suspects, run.near_duplicates, self.exhibits, self.thumbnails)]

    def more(self) -> list[Block]:
        """Show further figures."""
        return [self.exhibits.file(path, caption) for caption, path in self.run.extras.items()]

    def settings(self) -> list[Block]:
        """List overrides, settings and environment, with secrets removed."""
        run = self.run
        chosen = [override.partition("=") for override in run.overrides]
        blocks: list[Block] = [
            _pairs({key.lstrip("+~"): value for key, _, value in chosen}, "Overrides of the command line")
        ]
        for title, settings in (("All settings", run.settings), ("Environment", run.environment)):
            if settings:
                blocks.append(Group(title, [_pairs(flat(settings))]))
        return blocks

    def files(self) -> list[Block]:
        """Link to the files beside the page."""
        known = {name: what for name, what in _RUN_FILES.items() if (self.folder / name).exists()}
        rows = [{"file": Link(name, name), "holds": what} for name, what in (known | self.exhibits.files).items()]
        return [Table(rows)]


def _views(found: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Return the accuracy with test-time augmentation, and its change."""
    return [
        (f"{split} top-1 with augmentation", f"{found[name]:.1%}", f"{100 * found[f'{name}_change']:+.1f} points")
        for split in SPLITS
        if (name := f"{split}/tta/top1") in found
    ]


def _costs(found: Mapping[str, float]) -> list[tuple[str, str, str]]:
    items = []
    if "params/total" in found:
        items.append(("parameters", number(found["params/total"]), f"{number(found['params/trainable'])} trained"))
    if "time/total_s" in found:
        items.append(("time", f"{found['time/total_s']:.1f} s", f"{found['time/fit_s']:.1f} s of it training"))
    return items


def _pairs(settings: Mapping[str, Any], caption: str = "") -> Block:
    if not settings:
        return Text(["No overrides on the command line."])
    rows = [{"setting": key, "value": redacted(key, value)} for key, value in settings.items()]
    return Table(rows, caption)
