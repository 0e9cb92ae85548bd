"""Sections of a report: confusion, classes, mistakes, calibration, doubtful labels and near-duplicates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tlearn.analysis import accuracy, calibration, confusion
from tlearn.analysis.direction import further_metrics
from tlearn.analysis.outputs import Outputs, compute_metrics
from tlearn.report.gallery import (
    Thumbnails,
    card,
    confident_correct,
    confident_mistakes,
    least_certain,
    mistakes_of,
    predictions_figure,
    random_images,
)
from tlearn.report.page import Block, Card, Gallery, Group, Text, number
from tlearn.report.page_files import Exhibits

TableRows = Sequence[Mapping[str, Any]]

# Limits of the page; the CSV tables have every row.
_CARDS, _PAIRS, _SUSPECTS, _COPIES, _RANDOM = 12, 30, 24, 12, 24
# Rows of classes on the page
_CLASSES = 200
# Classes of a confusion matrix that is written as a table
_MOST_COLUMNS = 200
# Thumbnails reserved for doubtful labels and near-duplicates, which come after the mistakes
DOUBTFUL_PICTURES = _SUSPECTS + 2 * _COPIES
# Column heads on the page
LABELS = {
    "top1": "top-1",
    "top5": "top-5",
    "calibration_error": "calibration error",
    "calibration_error_scaled": "with temperature",
    "pictures": "images",
    "train_pictures": "training images",
    "top1_low": "95 % low",
    "top1_high": "95 % high",
    "most_taken_for": "most confused with",
    "taken_for_count": "times",
    "taken_for": "predicted",
    "of": "of its images",
}


def outcome_figures(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Choose the most important metrics of a `split_row` for `KeyMetrics`."""
    count = f"{row['pictures']:,} images"
    items = [
        (
            f"{row['split']} top-1",
            _percent(row["top1"]),
            f"{_percent(row['top1_low'])} to {_percent(row['top1_high'])}",
        )
    ]
    if "top5" in row:
        items.append((f"{row['split']} top-5", _percent(row["top5"]), count))
    items.append((f"{row['split']} loss", number(row["loss"]), f"cross-entropy, {count}"))
    error = row.get("calibration_error_scaled")
    scaled = "" if error is None else f"{number(error)} with temperature"
    return [*items, ("calibration error", number(row["calibration_error"]), scaled)]


def split_row(
    outputs: Outputs, temperature: float | None, metrics: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Compute the metrics of a split, with Wilson's interval and the calibration error before and after scaling.

    `metrics` are those of the run, of which the further ones are added.
    """
    found, right = compute_metrics(outputs), int(outputs.correct().sum())
    low, high = accuracy.wilson(right, len(outputs))
    row = {"split": outputs.split, "pictures": len(outputs), "top1": found["top1"], "top1_low": low, "top1_high": high}
    row |= {name: found[name] for name in ("top5", "loss") if name in found}
    row["calibration_error"] = calibration.calibration_error(calibration.reliability(outputs.scaled(1.0)))
    if temperature is not None:
        row["calibration_error_scaled"] = calibration.calibration_error(
            calibration.reliability(outputs.scaled(temperature))
        )
    return row | further_metrics(metrics or {}, outputs.split)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def confusion_blocks(outputs: Outputs, exhibits: Exhibits) -> list[Block]:
    """Show which classes are confused with which."""
    matrix = confusion.confusion_matrix(outputs)
    pairs, split = confusion.confused_pairs(matrix, outputs.classes), outputs.split
    figure = exhibits.figure(
        f"{split}_confusion",
        f"{split}: images of each class (rows) by prediction (columns)",
        lambda: confusion.confusion_figure(matrix, outputs.classes),
        # With more classes, only the table of pairs is readable.
        confusion.matrix_table(matrix, outputs.classes) if len(matrix) <= _MOST_COLUMNS else pairs,
    )
    if not pairs:
        return [figure, Text(["No class is confused with another."])]
    caption = f"{split}: most frequent confusions"
    return [figure, exhibits.table(f"{split}_confused_pairs", caption, pairs, LABELS, pairs[:_PAIRS])]


def class_blocks(outputs: Outputs, train_counts: Mapping[str, int], exhibits: Exhibits) -> list[Block]:
    """Show the accuracy of each class."""
    split, table = outputs.split, accuracy.per_class(outputs, train_counts or None)
    # Recall is top-1 of a class.
    left_out = ("recall", "top5_low", "top5_high", *(() if train_counts else ("train_pictures",)))
    short = [{name: value for name, value in row.items() if name not in left_out} for row in table]
    title = f"{split}: accuracy of each class"
    caption = f"{title}, with 95 % intervals"
    if len(short) > _CLASSES:
        # Those without images come last.
        short = sorted(short, key=lambda row: (row["top1"] is None, row["top1"]))[:_CLASSES]
        caption += f": the worst {_CLASSES} of {len(table):,} classes"
    labels = LABELS | {"top1": "top-1 (recall)", "f1": "F1"}
    blocks = [
        exhibits.table(f"{split}_classes", caption, table, labels, short),
        exhibits.figure(f"{split}_class_accuracy", title, lambda: accuracy.accuracy_figure(table), table),
    ]
    # Without a difference in class sizes there is nothing to see.
    if train_counts and max(train_counts.values()) > 1.2 * min(train_counts.values()):
        caption = f"{title}, over its number of training images"
        figure = exhibits.figure(f"{split}_class_counts", caption, lambda: accuracy.counts_figure(table), table)
        blocks.append(figure)
    return blocks


def random_blocks(outputs: Outputs, exhibits: Exhibits) -> list[Block]:
    """Show random images with prediction and target, the same ones each time."""
    some = random_images(outputs, _RANDOM)
    caption = f"{outputs.split}: {len(some)} random images, titled prediction / target"
    make = partial(predictions_figure, outputs, some)
    return [exhibits.figure(f"{outputs.split}_predictions", caption, make, _rows(outputs, some))]


def mistake_blocks(outputs: Outputs, exhibits: Exhibits, thumbnails: Thumbnails) -> list[Block]:
    """Show images: the most confident mistakes and correct predictions, the least confident, some mistakes by class."""
    split, wrong = outputs.split, confident_mistakes(outputs, len(outputs))
    doubtful = least_certain(outputs, _CARDS)
    blocks: list[Block] = []
    if wrong:
        blocks += [
            _gallery(outputs, wrong[:_CARDS], thumbnails, "Most confident mistakes"),
            exhibits.note(f"{split}_mistakes", f"All {len(wrong)} mistakes", _rows(outputs, wrong)),
        ]
    else:
        blocks.append(Text(["No mistakes."]))
    if right := confident_correct(outputs, _CARDS):
        blocks.append(_gallery(outputs, right, thumbnails, "Most confident correct predictions"))
        exhibits.note(f"{split}_correct", "Most confident correct predictions", _rows(outputs, right))
    blocks.append(_gallery(outputs, doubtful, thumbnails, "Least confident predictions"))
    exhibits.note(f"{split}_least_certain", "Least confident predictions", _rows(outputs, doubtful))
    return [*blocks, *_by_class(outputs, thumbnails)]


def _rows(outputs: Outputs, indices: Sequence[int]) -> list[dict[str, Any]]:
    paths = [outputs.paths[index] for index in indices]
    chosen = replace(outputs, paths=paths, targets=outputs.targets[indices], logits=outputs.logits[indices])
    return chosen.rows()


def _gallery(outputs: Outputs, indices: Sequence[int], thumbnails: Thumbnails, caption: str = "") -> Gallery:
    return Gallery([[card(outputs, index, thumbnails)] for index in indices], caption)


def _by_class(outputs: Outputs, thumbnails: Thumbnails) -> list[Block]:
    """Show the same number of mistakes of each class, the classes with most mistakes first."""
    sizes = Counter(outputs.targets.tolist())
    mistaken = Counter(outputs.targets[~outputs.correct()].tolist()).most_common()
    left = thumbnails.left - DOUBTFUL_PICTURES
    each = min(_CARDS, max(1, left // max(1, len(mistaken))))
    groups: list[Block] = []
    for label, count in mistaken[: max(0, left // each)]:
        indices = mistakes_of(outputs, label, each)
        title = f"{outputs.classes[label]}: {count} of {sizes[label]} wrong"
        groups.append(Group(title, [_gallery(outputs, indices, thumbnails)]))
    if len(groups) < len(mistaken):
        groups.append(Text([f"{len(mistaken) - len(groups)} more classes have mistakes."]))
    return groups


def calibration_blocks(outputs: Outputs, temperature: float | None, exhibits: Exhibits) -> list[Block]:
    """Show calibration before and after temperature scaling."""
    before = calibration.reliability(outputs.scaled(1.0))
    scaled = temperature not in (None, 1.0)
    after = calibration.reliability(outputs.scaled(temperature or 1.0)) if scaled else None
    rows = [{"probabilities": "as trained", **row} for row in before]
    rows += [{"probabilities": "with temperature", **row} for row in after or ()]
    figure = exhibits.figure(
        f"{outputs.split}_calibration",
        f"{outputs.split}: accuracy against confidence",
        lambda: calibration.reliability_figure(before, after),
        rows,
    )
    note = f"Expected calibration error {number(calibration.calibration_error(before))}"
    if after is not None:
        error = number(calibration.calibration_error(after))
        note += f"; {error} when logits are divided by the temperature {number(temperature or 1)}, fitted on val"
    elif temperature is not None:
        note += "; val gives no significant reason to scale the logits, so the temperature is 1"
    return [Text([f"{note}."]), figure]


def doubt_blocks(
    suspects: TableRows | str | None, copies: TableRows | str | None, exhibits: Exhibits, thumbnails: Thumbnails
) -> list[Block]:
    """Show images with doubtful labels, and near-duplicates across splits.

    Args:
        suspects: rows, most doubtful first, or the reason why there are none; None leaves them out.
        copies: rows, most similar first, or as above.
        exhibits: writer of figures and tables.
        thumbnails: thumbnails of the images.
    """
    blocks: list[Block] = []
    for stem, title, all_of_them, rows, make, most in (
        ("suspects", "most doubtful labels", "All labels, the most doubtful first", suspects, _suspect, _SUSPECTS),
        ("near_duplicates", "near-duplicates in several splits", "All pairs", copies, _copies, _COPIES),
    ):
        if rows is None:
            continue
        if isinstance(rows, str):
            blocks.append(Text([f"{title.capitalize()}: not computed: {rows}."]))
        elif not rows:
            blocks.append(Text([f"{title.capitalize()}: none found."]))
        else:
            shown = [row for row in rows[:most] if "suggested" not in row or row["suggested"] is not None]
            caption = f"{len(shown)} {title}"
            blocks.append(Gallery([make(row, thumbnails) for row in shown], caption))
            blocks.append(exhibits.note(stem, all_of_them, rows))
    return blocks


def _suspect(row: Mapping[str, Any], thumbnails: Thumbnails) -> list[Card]:
    bars = [
        (row["class"], row["probability_of_class"], False),
        (row["suggested"], row["probability_of_suggested"], False),
    ]
    facts = [("split", row["split"]), ("labelled", row["class"]), ("suggested", row["suggested"])]
    return [Card(thumbnails(row["path"]), row["path"], facts, bars)]


def _copies(row: Mapping[str, Any], thumbnails: Thumbnails) -> list[Card]:
    similarity = ("similarity", number(row["similarity"]))
    pairs = [(row["split"], row["path"]), (row["other_split"], row["other_path"])]
    return [Card(thumbnails(path), path, [("split", split), similarity]) for split, path in pairs]
