"""Curves of runs and galleries of pictures."""

from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.conftest import draw
from tlearn.insight.gallery import gallery_figure
from tlearn.insight.runs import curves_figure, epochs_of


def _log(folder, rows):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,step,train/loss,val/top1\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_epochs_are_the_rows_that_have_the_figure(tmp_path):
    run = _log(tmp_path / "run", ["0,1,0.9,", "0,1,,0.25", "1,2,0.8,", "1,2,,0.5"])
    assert epochs_of(run, "val/top1") == ([0, 1], [0.25, 0.5])
    assert epochs_of(run, "val/top5") == ([], [])


def test_every_run_has_its_named_curve(tmp_path):
    runs = {name: _log(tmp_path / name, ["0,1,,0.25", "1,2,,0.5"]) for name in ("a", "b")}
    axes = curves_figure(runs).axes[0]
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert list(axes.lines[0].get_ydata()) == [0.25, 0.5]


def test_a_gallery_shows_every_picture_with_its_title(tmp_path):
    paths = [draw(tmp_path / f"{number}.png", (200, 30, 30)) for number in range(5)]
    figure = gallery_figure(paths, ["cat", "$x_1$", "<b>", "d", "e"], columns=3)
    assert sum(bool(axes.images) for axes in figure.axes) == 5
    FigureCanvasAgg(figure).draw()
