"""Pictures beside each other, with what they are and what they were taken for."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tlearn.data.decode import Decoder


def gallery_figure(paths: Sequence[Path | str], titles: Sequence[str], columns: int = 6) -> Figure:
    """Draw pictures in rows with a title above each."""
    rows = -(-len(paths) // columns)
    figure = Figure(figsize=(1.7 * columns, 1.9 * rows), layout="constrained")
    decode = Decoder(high_bit_depth="scale")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, path, title in zip(grid.flat, paths, titles, strict=False):
        axes.imshow(decode(path).permute(1, 2, 0).numpy())
        axes.set_title(title.replace("$", r"\$"), fontsize=8)
    return figure
