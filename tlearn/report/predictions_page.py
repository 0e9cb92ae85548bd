"""Predictions as a page: each image beside its most probable classes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tlearn.console import percent
from tlearn.report.gallery import Thumbnails
from tlearn.report.page import Block, Card, Gallery, Section, Text, page_text
from tlearn.runs.predictions import Prediction

# More would not be looked at, and each is some kilobytes.
MOST_SHOWN = 200


def predictions_page(
    predictions: Sequence[Prediction],
    count: int,
    model_name: str,
    targets: Mapping[str, str],
    score: tuple[int, int] | None,
    bit_depth: int | None = None,
    unreadable: Sequence[str] = (),
) -> str:
    """Return the text of a page.

    Args:
        predictions: those to show, of files, at most `MOST_SHOWN`.
        count: images in all.
        model_name: what made them.
        targets: the classes that folders name, by path; empty where they name none.
        score: right predictions and images with a target, or None without targets.
        bit_depth: as the decoder takes it.
        unreadable: what is to be said of images that could not be read.
    """
    thumbnails = Thumbnails(Path(), MOST_SHOWN, bit_depth=bit_depth)
    answers = [(str(prediction.image), prediction.best) for prediction in predictions]
    try:
        # It carries no information.
        common = os.path.commonpath([os.path.dirname(path) for path, _ in answers])
    # None is shown, or they share no folder: from the root and from the working folder, or on two drives.
    except ValueError:
        common = ""
    cards = []
    for path, best in answers:
        target, name = targets.get(path), os.path.relpath(path, common) if common else path
        facts = [("target", target), ("prediction", "right" if best[0][0] == target else "wrong")] if target else []
        bars = [(label, share, label == target) for label, share in best]
        cards.append([Card(thumbnails(path), name, facts, bars)])
    blocks: list[Block] = [Gallery(cards)]
    if score is not None and score[1]:
        right, scored = score
        found = f"Top-1 {percent(right / scored)}: {right:,} of {scored:,} images, by the names of folders"
        blocks.insert(0, Text([found]))
    if unreadable:
        blocks.insert(0, Text(unreadable, warning=True))
    source = f"from {common}, " if common else ""
    title = f"{len(predictions)} of {count} images"
    return page_text(title, [Section("Images", blocks)], f"{source}classified by {model_name}")
