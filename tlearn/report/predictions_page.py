"""Predictions as a page: each image beside its most probable classes."""

import os
from collections.abc import Sequence
from pathlib import Path

from tlearn.report.gallery import Thumbnails
from tlearn.report.page import Card, Gallery, Section, page_text
from tlearn.runs.predictions import Prediction

# More would not be looked at, and each is some kilobytes.
MOST_SHOWN = 200


def predictions_page(predictions: Sequence[Prediction], count: int, model_name: str) -> str:
    """Return the text of a page.

    Args:
        predictions: those to show, of files, at most `MOST_SHOWN`.
        count: images in all.
        model_name: what made them.
    """
    thumbnails = Thumbnails(Path(), MOST_SHOWN)
    # The common prefix of all paths carries no information.
    answers = [(str(prediction.image), prediction.best) for prediction in predictions]
    common = os.path.commonpath([os.path.dirname(path) for path, _ in answers]) if answers else ""
    cards = [
        [Card(thumbnails(path), os.path.relpath(path, common or "."), bars=[(*one, False) for one in best])]
        for path, best in answers
    ]
    source = f"from {common}, " if common else ""
    title = f"{len(predictions)} of {count} images"
    return page_text(title, [Section("Images", [Gallery(cards)])], f"{source}classified by {model_name}")
