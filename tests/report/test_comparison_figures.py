"""Figures of many runs can be drawn whatever the runs are called, and show what they say."""

import math
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg

from tlearn.report.comparison_figures import ranking_figure, settings_figure
from tlearn.runs.ranking import Entry, ranked


def drawn(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    return [axes for axes in figure.axes if axes.lines]


def groups(*runs):
    return ranked([Entry(str(n), settings, {"m": value}) for n, (settings, value) in enumerate(runs)], "m")


def test_a_metric_is_drawn_against_each_setting_that_has_several_values():
    runs = groups(
        ({"lr": 0.001, "head": "mlp", "$odd_1$": "a\nb\udcff", "same": 1, "seed": 1}, 0.5),
        ({"lr": 0.1, "head": "linear", "$odd_1$": "$x_1$", "same": 1, "missing": 3, "seed": 2}, 0.75),
        ({"lr": None, "head": "linear", "$odd_1$": "w" * 300, "same": 1, "missing": 3, "seed": 3}, 0.625),
        ({"lr": 0.01, "head": "linear", "$odd_1$": "", "same": 1, "missing": 3, "seed": 4}, math.nan),
    )
    axes = drawn(settings_figure(runs, "m"))
    assert [one.get_xlabel() for one in axes] == ["lr", "head", "$odd_1$"]
    assert axes[0].get_xscale() == "log"
    assert list(axes[0].lines[0].get_xdata()) == [0.1, 0.001]
    assert list(axes[0].lines[0].get_ydata()) == [0.75, 0.5]
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["linear", "mlp"]
    assert list(axes[1].lines[0].get_xdata()) == [0, 0, 1]


def test_the_ranking_shows_each_seed_the_mean_and_the_spread_from_the_top():
    found = groups(({"h": "a", "seed": 1}, 0.25), ({"h": "b", "seed": 1}, 0.5), ({"h": "b", "seed": 2}, 0.75))
    [axes] = drawn(ranking_figure(dict(zip(["$b$", "a\n"], found, strict=True)), "m"))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["$b$", "a\N{REPLACEMENT CHARACTER}"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    means = [line for line in axes.lines if line.get_marker() == "D"]
    assert [sorted(line.get_xdata()) for line in points] == [[0.5, 0.75]]
    assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in means] == [(0.625, 0), (0.25, 1)]
    [[start, end]] = [
        container.lines[2][0].get_segments()[0][:, 0] for container in axes.containers if container.has_xerr
    ]
    assert abs((end - start) / 2 - math.sqrt(0.03125)) < 1e-6
