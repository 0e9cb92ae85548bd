"""What the tests of figures share."""

import warnings

from matplotlib.figure import Figure


def drawn(figure: Figure) -> Figure:
    """Lay a figure out, where any warning but that of a letter without a font is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.draw_without_rendering()
    return figure
