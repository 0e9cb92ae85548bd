"""Results in words on the terminal."""

from pathlib import Path

from tests.analysis.test_outputs import outputs
from tlearn.data.prepare import ImageSet
from tlearn.data.sources.torchvision import Sample
from tlearn.report import terminal
from tlearn.report.data_report import Survey
from tlearn.report.terminal import show_paths, show_result, show_survey

FIGURES = {"test/top1": 0.868, "test/top5": 0.996, "test/loss": 0.48299, "val/top1": 0.5, "val/loss": 1.0}


def _survey(classes: int, **more) -> Survey:
    names = [f"class {number}" for number in range(classes)]
    samples = [Sample(f"{name}/{copy}.jpg", name) for name in names for copy in "ab"]
    found = {"sizes": {sample.path: (40, 32) for sample in samples}, "duplicates": [], **more}
    skipped = found.pop("unreadable", {})
    images = ImageSet(Path("/root"), {"train": samples, "val": samples[:1]}, names, skipped=skipped)
    return Survey("a title", images, **found)


def test_accuracies_come_with_the_interval_and_the_number_of_images(capsys):
    show_result(FIGURES, outputs(500, split="test"))
    assert capsys.readouterr().out.splitlines() == [
        "test top-1 86.8 % (95 % interval 83.6 to 89.5), top-5 99.6 %",
        "test loss 0.483, 500 images",
    ]
    show_result(FIGURES, outputs(40, classes=3))
    assert capsys.readouterr().out.splitlines() == [
        "val top-1 50.0 % (95 % interval 35.2 to 64.8)",
        "val loss 1.000, 40 images",
    ]


def test_further_metrics_are_shown_as_far_as_a_line_goes(capsys, monkeypatch):
    found = FIGURES | {"test/f1": 0.85, "test/class_mean_accuracy": 0.84, "val/f1": 0.1}
    show_result(found, outputs(500, split="test"))
    assert capsys.readouterr().out.splitlines()[2:] == ["test f1 0.850, class mean accuracy 0.840"]
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    show_result(found, outputs(500, split="test"))
    assert capsys.readouterr().out.splitlines()[2:] == ["test f1 0.850"]
    show_result({"test/loss": 1.0}, outputs(2, split="test"))
    assert capsys.readouterr().out.startswith("test top-1 ")


def test_test_time_augmentation_is_better_or_worse(capsys):
    changed = {"top1": (0.88, 0.012), "top5": (0.996, 0.0), "loss": (0.46522, -0.01777)}
    tta = {f"test/tta/{name}": value for name, (value, _) in changed.items()}
    tta |= {f"test/tta/{name}_change": change for name, (_, change) in changed.items()}
    show_result(FIGURES | tta, outputs(500, split="test"))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "test with tta top-1 88.0 % (1.2 points better), top-5 99.6 % (unchanged)",
        "test with tta loss 0.465 (0.018 better)",
    ]
    show_result(FIGURES | tta | {"test/tta/top1_change": -0.002}, outputs(500, split="test"))
    assert "(0.2 points worse)" in capsys.readouterr().out


def test_long_lists_end_where_the_rest_lies(tmp_path, capsys):
    pairs = [[("train", f"{number}.jpg"), ("val", f"{number}.jpg")] for number in range(25)]
    unreadable = {f"{number}.png": "not an image" for number in range(21)}
    show_survey(_survey(120, duplicates=[*pairs, [("val", "x"), ("val", "y")]], unreadable=unreadable), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["class     train  val  median size", "class 0       2    1  40 x 32"]
    assert len(lines) < 90
    assert f"... and 90 more classes: {tmp_path / 'classes.csv'}" in lines
    assert f"... and 1 more unreadable files: {tmp_path / 'unreadable.csv'}" in lines
    assert "files with the same content: 26 groups, 25 of them across splits" in lines
    assert lines[-1] == f"... and 5 more groups across splits: {tmp_path / 'duplicates.csv'}"


def test_a_small_clean_data_set_needs_few_lines(tmp_path, capsys):
    sizes = {"a": (40, 32), "b": (9, 32), "c": (100, 32)}
    show_survey(_survey(2, sizes=sizes), tmp_path)
    assert capsys.readouterr().out.splitlines()[3:] == [
        "width: 9 to 100 pixels, median 40",
        "height: 32 pixels",
        "images with a side under 10 pixels: 1",
        "files with the same content: none",
    ]


def test_the_run_folder_is_the_last_line(tmp_path, capsys, monkeypatch):
    show_paths(tmp_path)
    assert capsys.readouterr().out == f"{tmp_path}\n"
    (tmp_path / "report.html").touch()
    show_paths(tmp_path)
    assert capsys.readouterr().out == f"report: {tmp_path / 'report.html'}\n{tmp_path}\n"
    monkeypatch.chdir(tmp_path.parent)
    show_paths(tmp_path)
    assert capsys.readouterr().out == f"report: {tmp_path.name}/report.html\n{tmp_path}\n"
