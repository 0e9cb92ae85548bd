"""The report page of a data set: classes, image sizes, examples of each class, and anything unusual."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlearn.analysis.data_profile import (
    class_figure,
    class_size_figure,
    class_table,
    duplicate_table,
    few_of_each,
    image_sizes,
    size_figure,
    size_summary,
    size_table,
)
from tlearn.analysis.drawing import font_advice
from tlearn.console import say
from tlearn.data.prepare import ImageSet, copies
from tlearn.data.transforms import Transform
from tlearn.report.gallery import Thumbnails, augmentation_figure
from tlearn.report.page import Block, Card, Gallery, KeyMetrics, Section, Text, number, write_page
from tlearn.report.page_files import Exhibits

# How much is on the page; the tables beside it have everything.
_PICTURES, _EACH, _GROUPS, _GROUP_SIZE = 300, 6, 12, 4


@dataclass(frozen=True)
class Survey:
    """The profile of a data set.

    Args:
        title: of the page.
        images: in their splits, with what is unusual about them.
        sizes: width and height in pixels by path.
        duplicates: groups of files with the same bytes, as (split, path).
        transform: of training images, to show what it makes of one.
        bit_depth: of the images, as `Thumbnails` takes it.
    """

    title: str
    images: ImageSet
    sizes: Mapping[str, tuple[int, int]]
    duplicates: Sequence[Sequence[tuple[str, str]]]
    transform: Transform | None = None
    bit_depth: int | None = None

    @property
    def across_splits(self) -> list[Sequence[tuple[str, str]]]:
        """The groups of duplicates in several splits, which make metrics better than they should be."""
        return [group for group in self.duplicates if len({split for split, _ in group}) > 1]

    def metrics(self) -> dict[str, float]:
        """Return the counts and sizes, as metrics.json has them."""
        return {
            "classes": len(self.images.classes),
            **{f"pictures/{name}": len(samples) for name, samples in self.images.splits.items()},
            **size_summary(self.sizes),
            "unreadable": len(self.images.skipped),
            "duplicates": len(self.duplicates),
            "duplicates/across_splits": len(self.across_splits),
        }


def survey_of(images: ImageSet, title: str, transform: Transform | None, bit_depth: int | None) -> Survey:
    """Measure the images of a data set and look for duplicates; see `Survey`."""
    sizes = image_sizes(images.root, images.splits)
    same = [[(name, one.path) for name, one in group] for group in copies(images.files, images.splits)]
    return Survey(title, images, sizes, same, transform, bit_depth)


def write_survey(folder: Path, survey: Survey) -> None:
    """Write report.html, and its figures and tables beside it; one that fails becomes a note on the page."""
    say(*font_advice(survey.images.classes))
    exhibits, thumbnails = Exhibits(folder), Thumbnails(survey.images.root, bit_depth=survey.bit_depth)
    parts: dict[str, Callable[[], list[Block]]] = {
        "Summary": lambda: _summary(survey),
        "Classes": lambda: _classes(survey, exhibits),
        "Sizes": lambda: _sizes(survey, exhibits),
        "Unreadable files": lambda: _unreadable(survey, exhibits),
        "Duplicates": lambda: _duplicates(survey, exhibits, thumbnails),
        "Images": lambda: _pictures(survey, thumbnails),
        "What training sees": lambda: _augmentation(survey, exhibits),
    }
    sections = [Section(title, blocks) for title, make in parts.items() if (blocks := make())]
    write_page(folder / "report.html", survey.title, sections, str(survey.images.root))


def _summary(survey: Survey) -> list[Block]:
    counts = {split: len(samples) for split, samples in survey.images.splits.items()}
    across = survey.across_splits
    items = [
        ("images", number(sum(counts.values())), ", ".join(f"{split} {count:,}" for split, count in counts.items())),
        ("classes", number(len(survey.images.classes)), ""),
        ("unreadable files", number(len(survey.images.skipped)), ""),
        ("duplicates", number(len(survey.duplicates)), f"{len(across)} across splits"),
    ]
    notes: list[Block] = [Text(survey.images.notes, warning=True)] if survey.images.notes else []
    return [KeyMetrics(items), *notes]


def _classes(survey: Survey, exhibits: Exhibits) -> list[Block]:
    splits = survey.images.splits
    table = class_table(splits, survey.images.classes, survey.sizes)
    labels = {"median_width": "median width", "median_height": "median height"}
    return [
        exhibits.table("classes", "Images of each class, and their size in pixels", table, labels),
        exhibits.figure("images_per_class", "Images of each class", lambda: class_figure(table, list(splits))),
        exhibits.figure("class_sizes", "Median image size of each class", lambda: class_size_figure(table)),
    ]


def _sizes(survey: Survey, exhibits: Exhibits) -> list[Block]:
    found = size_summary(survey.sizes)
    sides = ("width", "height")
    items = [
        (
            side,
            number(found[f"{side}/median"]),
            f"{number(found[f'{side}/min'])} to {number(found[f'{side}/max'])} pixels",
        )
        for side in sides
        if found
    ]
    return [
        KeyMetrics(items),
        exhibits.figure("image_sizes", "Image sizes", lambda: size_figure(survey.sizes)),
        exhibits.note("sizes", "Width and height of each image", size_table(survey.sizes), ("path", *sides)),
    ]


def _unreadable(survey: Survey, exhibits: Exhibits) -> list[Block]:
    if not survey.images.skipped:
        return [Text(["None."])]
    rows = [{"path": path, "reason": reason} for path, reason in survey.images.skipped.items()]
    return [exhibits.table("unreadable", "Files that cannot be read, and are left out", rows, shown=rows[:500])]


def _duplicates(survey: Survey, exhibits: Exhibits, thumbnails: Thumbnails) -> list[Block]:
    """Show files with the same bytes, those in several splits first."""
    across = survey.across_splits
    groups = sorted(survey.duplicates, key=lambda group: len({split for split, _ in group}) == 1)
    note = exhibits.note("duplicates", "Files with the same bytes", duplicate_table(groups), ("group", "split", "path"))
    if not groups:
        return [Text(["None."])]
    caption = (
        f"{min(_GROUPS, len(groups))} of {len(groups)} groups of identical files, {len(across)} of them across splits"
    )
    cards = [
        [Card(thumbnails(path), path, [("split", split)]) for split, path in group[:_GROUP_SIZE]]
        for group in groups[:_GROUPS]
    ]
    return [Gallery(cards, caption), note]


def _pictures(survey: Survey, thumbnails: Thumbnails) -> list[Block]:
    """Show the same number of images of each class."""
    each = max(1, min(_EACH, _PICTURES // max(1, len(survey.images.classes))))
    samples = [sample for of_split in survey.images.splits.values() for sample in of_split]
    few = few_of_each(samples, each)
    blocks: list[Block] = [
        Gallery([[Card(thumbnails(path), path)] for path in paths], label)
        for label, paths in list(few.items())[:_PICTURES]
    ]
    if len(few) > _PICTURES:
        blocks.append(Text([f"{len(few) - _PICTURES} more classes are not shown."]))
    return blocks


def _augmentation(survey: Survey, exhibits: Exhibits) -> list[Block]:
    """Show the first training image as it is and as the transform makes it, where there is one."""
    transform, train = survey.transform, survey.images.splits["train"]
    if transform is None or not train:
        return []
    root, path = survey.images.root, train[0].path
    caption = f"{path} as it is, and as training sees it, with {transform.size} pixels"
    return [exhibits.figure("augmentation", caption, lambda: augmentation_figure(root / path, transform, path))]
