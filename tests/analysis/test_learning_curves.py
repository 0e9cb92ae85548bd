"""Curves of one run and of several."""

import warnings

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tlearn.analysis.learning_curves import curves_figure, curves_table, epochs_of, learning_curves, learning_figure

HEADER = "epoch,lr-Adam/head,step,test/loss,train/loss,train/step_loss,train/top1,val/loss,val/top1"
# As a training logs it: learning rates, losses of steps, validations, epochs, and the test in the end
EPOCHS = [
    ",0.003,0,,,,,,",
    "0,,9,,,0.5,,,",
    "0,,9,,,,,0.9,0.25",
    "0,,9,,0.7,,0.5,,",
    "1,,19,,,,,0.6,0.5",
    "1,,19,,0.4,,0.75,,",
    ",,20,0.3,,,,,",
]
TWICE = ["0,,4,,,,,1.0,0.125", *EPOCHS]


def _log(folder, rows, header=HEADER):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def test_losses_and_accuracies_of_an_epoch_are_one_row(tmp_path):
    assert learning_curves(_log(tmp_path / "run", EPOCHS)) == [
        {"epoch": 0, "step": 9, "train/loss": 0.7, "val/loss": 0.9, "train/top1": 0.5, "val/top1": 0.25},
        {"epoch": 1, "step": 19, "train/loss": 0.4, "val/loss": 0.6, "train/top1": 0.75, "val/top1": 0.5},
    ]


def test_several_validations_in_an_epoch_are_rows_of_their_own(tmp_path):
    table = learning_curves(_log(tmp_path / "run", TWICE))
    assert [(row["epoch"], row["step"], row["train/loss"], row["val/loss"]) for row in table] == [
        (0, 4, None, 1.0),
        (0, 9, 0.7, 0.9),
        (1, 19, 0.4, 0.6),
    ]


def test_of_what_a_resumed_run_logged_again_the_later_holds(tmp_path):
    table = learning_curves(_log(tmp_path / "run", [*EPOCHS, "1,,19,,,,,0.55,0.625"]))
    assert [row["val/loss"] for row in table] == [0.9, 0.55]


@pytest.mark.parametrize("line", ["2,,29,,,,,0.5", "2,,29,,,,,0.5,4e-", "2,,29,,,,,0.5,0.2"])
def test_a_line_that_a_killed_run_has_not_finished_is_left_out(tmp_path, line):
    run = _log(tmp_path / "run", EPOCHS)
    with (run / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write(line)
    assert [row["epoch"] for row in learning_curves(run)] == [0, 1]


def test_a_run_without_a_log_has_no_curves(tmp_path):
    assert learning_curves(tmp_path) == []
    assert epochs_of(tmp_path, "val/top1") == ([], [])


@pytest.mark.parametrize(("rows", "axis", "kept"), [(EPOCHS, "epoch", 1), (TWICE, "step", 19)])
def test_train_is_drawn_beside_val_and_the_kept_epoch_is_marked(tmp_path, rows, axis, kept):
    table = learning_curves(_log(tmp_path / "run", rows))
    losses, accuracies = learning_figure(table, best_epoch=1).axes
    assert (losses.get_title(), accuracies.get_title()) == ("loss", "top1")
    for axes, kind in ((losses, "loss"), (accuracies, "top1")):
        lines = {line.get_label(): line for line in axes.lines}
        for split in ("train", "val"):
            rows_of = [row for row in table if row[f"{split}/{kind}"] is not None]
            assert list(lines[split].get_xdata()) == [row[axis] for row in rows_of]
            assert list(lines[split].get_ydata()) == [row[f"{split}/{kind}"] for row in rows_of]
        assert set(lines["kept"].get_xdata()) == {kept}
        assert axes.get_xlabel() == axis


def test_no_curves_are_an_empty_figure():
    FigureCanvasAgg(learning_figure([])).draw()


def test_epochs_are_the_rows_that_have_the_figure_and_the_last_of_an_epoch_counts(tmp_path):
    run = _log(tmp_path / "run", TWICE)
    assert epochs_of(run, "val/top1") == ([0, 1], [0.25, 0.5])
    assert epochs_of(run, "val/top5") == ([], [])


def test_every_run_has_its_named_curve(tmp_path):
    runs = {name: _log(tmp_path / str(number), EPOCHS) for number, name in enumerate(["a", "$b_1$", "c\n\udcff"])}
    figure = curves_figure(runs)
    [axes] = figure.axes
    assert [line.get_label() for line in axes.lines][:2] == ["a", "$b_1$"]
    assert list(axes.lines[0].get_ydata()) == [0.25, 0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()


def test_many_runs_do_not_lie_below_their_names(tmp_path):
    run = _log(tmp_path / "run", EPOCHS)
    figure = curves_figure({str(number): run for number in range(12)})
    FigureCanvasAgg(figure).draw()
    [axes] = figure.axes
    assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(styles) == 12


def test_the_table_has_what_the_figure_shows(tmp_path):
    runs = {"a": _log(tmp_path / "a", EPOCHS), "none": tmp_path}
    assert curves_table(runs) == [
        {"run": "a", "epoch": 0, "val/top1": 0.25},
        {"run": "a", "epoch": 1, "val/top1": 0.5},
    ]
