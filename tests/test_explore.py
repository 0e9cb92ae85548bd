"""Looking at a data set: tables, figures and numbers, with whatever is odd in it named."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import draw
from tests.small_runs import program, run, write_weights
from tlearn.config.compose import compose
from tlearn.errors import DataError
from tlearn.explore import explore

FILES = {
    *("classes.csv", "duplicates.csv", "sizes.csv", "metrics.json"),
    *("images_per_class.png", "class_sizes.png", "image_sizes.png", "report.html", "explore.log"),
}


def _explore(output: Path, root: Path, *more: str) -> dict[str, float]:
    return explore(compose(["data=folder", f"data.root='{root}'", *more], "explore", output_dir=output))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_figures_and_numbers_are_written(tmp_path, folder_data, capsys):
    figures = _explore(tmp_path / "out", folder_data)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == figures
    assert _rows(tmp_path / "out" / "classes.csv") == [
        {"class": name, "train": "8", "val": "4", "test": "4", "median_width": "40", "median_height": "32"}
        for name in ("blue", "green", "red")
    ]
    assert re.search(r"^red +8 +4 +4 +40 x 32$", capsys.readouterr().out, re.MULTILINE)
    assert figures["classes"] == 3
    assert [figures[f"pictures/{split}"] for split in ("train", "val", "test")] == [24, 12, 12]
    assert [figures["unreadable"], figures["duplicates"], figures["duplicates/across_splits"]] == [0, 0, 0]
    # All have one size.
    assert {figures[f"width/{name}"] for name in ("min", "median", "max")} == {40}
    assert {figures[f"height/{name}"] for name in ("min", "median", "max")} == {32}
    for name in ("images_per_class.png", "image_sizes.png"):
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
            assert min(image.size) > 100


def test_the_first_lines_name_the_classes_and_their_counts(tmp_path, folder_data, capsys):
    _explore(tmp_path / "out", folder_data)
    assert capsys.readouterr().out.splitlines()[:4] == [
        "data: folder, 3 classes; images: train 24, val 12, test 12",
        "train: blue 8, green 8, red 8",
        "val: blue 4, green 4, red 4",
        "test: blue 4, green 4, red 4",
    ]


def test_unreadable_pictures_are_named_and_do_not_stop_the_others(tmp_path, folder_data, capsys):
    (folder_data / "train" / "red" / "bad.jpg").write_bytes(b"no picture")
    figures = _explore(tmp_path / "out", folder_data)
    assert figures["unreadable"] == 1
    assert figures["pictures/train"] == 24
    assert "unreadable: train/red/bad.jpg: not an image" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "data_report.json").read_text(encoding="utf-8"))
    assert list(report["unreadable"]) == ["train/red/bad.jpg"]
    [row] = _rows(tmp_path / "out" / "unreadable.csv")
    assert row["path"] == "train/red/bad.jpg"
    assert "not an image" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_images_of_a_run_are_shown_in_its_own_splits(tmp_path, folder_data, draw_split):
    flat = draw_split(tmp_path / "flat", 12)
    run(tmp_path / "run", flat, write_weights(tmp_path / "w.pth"), "data.split.fractions=[0.5,0.25,0.25]")
    for place in (tmp_path / "run", tmp_path / "run" / "model"):
        figures = explore(compose([f"run={place}"], "explore", output_dir=tmp_path / f"of {place.name}"))
        assert [figures[f"pictures/{split}"] for split in ("train", "val", "test")] == [12, 6, 6]
        assert figures["classes"] == 2
    beside = program("explore", f"run={tmp_path / 'run'}", "data=folder", f"data.root={flat}", "seed=3", cwd=tmp_path)
    assert beside.returncode == 2
    assert f"leave out data=folder data.root={flat} seed=3" in beside.stderr
    changed = next((flat / "red").iterdir())
    was, content = changed.stat(), changed.read_bytes()
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(changed, ns=(was.st_atime_ns, was.st_mtime_ns))
    with pytest.raises(DataError, match=f"other content: red/{changed.name}"):
        explore(compose([f"run={tmp_path / 'run'}"], "explore", output_dir=tmp_path / "out"))
    changed.unlink()
    with pytest.raises(DataError, match="missing: red/"):
        explore(compose([f"run={tmp_path / 'run'}"], "explore", output_dir=tmp_path / "out"))


def test_the_same_picture_in_two_splits_is_named(tmp_path, folder_data, capsys):
    shutil.copy(folder_data / "train" / "red" / "red_0.jpg", folder_data / "test" / "red" / "again.jpg")
    shutil.copy(folder_data / "val" / "blue" / "blue_100.jpg", folder_data / "val" / "green" / "other.jpg")
    figures = _explore(tmp_path / "out", folder_data)
    assert [figures["duplicates"], figures["duplicates/across_splits"]] == [2, 1]
    groups: dict[str, set[tuple[str, str]]] = {}
    for row in _rows(tmp_path / "out" / "duplicates.csv"):
        groups.setdefault(row["group"], set()).add((row["split"], row["path"]))
    assert {("train", "train/red/red_0.jpg"), ("test", "test/red/again.jpg")} in groups.values()
    assert {("val", "val/blue/blue_100.jpg"), ("val", "val/green/other.jpg")} in groups.values()
    named = [line for line in capsys.readouterr().out.splitlines() if line.startswith("the same image")]
    assert named == ["the same image in several splits: train/red/red_0.jpg, test/red/again.jpg"]


def test_many_duplicates_are_counted_where_they_are_not_named(tmp_path, draw_split, capsys):
    draw_split(tmp_path / "data" / "train", 12)
    shutil.copytree(tmp_path / "data" / "train", tmp_path / "data" / "test")
    draw_split(tmp_path / "data" / "val", 1, first=100)
    assert _explore(tmp_path / "out", tmp_path / "data")["duplicates/across_splits"] == 24
    out = capsys.readouterr().out
    assert out.count("the same image in several splits") == 20
    assert "... and 4 more" in out


def test_a_folder_without_splits_is_shown_as_training_would_split_it(tmp_path, draw_split):
    first = _explore(tmp_path / "one", draw_split(tmp_path / "data", 20))
    again = _explore(tmp_path / "two", tmp_path / "data")
    assert first == again
    assert sum(first[f"pictures/{split}"] for split in ("train", "val", "test")) == 40
    assert _rows(tmp_path / "one" / "classes.csv") == _rows(tmp_path / "two" / "classes.csv")


def test_any_class_name_is_written_and_drawn(tmp_path, recwarn):
    names = ["$x_1$", "$", "[bold]red", 'a, "b"', "a\nb", "ü漢字ไทย", "w" * 120]
    for number, name in enumerate(names):
        for split, first in (("train", 0), ("val", 10)):
            for seed in range(first, first + 2):
                draw(tmp_path / "data" / split / name / f"{seed}.png", (30 * number, 9, 9), seed=seed)
    _explore(tmp_path / "out", tmp_path / "data")
    assert [row["class"] for row in _rows(tmp_path / "out" / "classes.csv")] == sorted(names)
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


def test_names_that_are_no_text_are_written_and_drawn(tmp_path, draw_split):
    names = ("a\udcff", "red")
    try:
        for split, first in (("train", 0), ("val", 10)):
            draw_split(tmp_path / "data" / split, 2, names, first)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    shutil.copy(tmp_path / "data/train/a\udcff/a\udcff_0.jpg", tmp_path / "data/val/a\udcff/again\udcfe.jpg")
    (tmp_path / "data/train/red/bad\udcff.jpg").write_bytes(b"no picture")
    assert _explore(tmp_path / "out", tmp_path / "data")["unreadable"] == 1
    assert [row["class"] for row in _rows(tmp_path / "out" / "classes.csv")] == sorted(names)
    paths = {row["path"] for row in _rows(tmp_path / "out" / "duplicates.csv")}
    assert paths == {"train/a\udcff/a\udcff_0.jpg", "val/a\udcff/again\udcfe.jpg"}
    report = json.loads((tmp_path / "out" / "data_report.json").read_text(encoding="utf-8"))
    assert list(report["unreadable"]) == ["train/red/bad\udcff.jpg"]


def test_a_data_set_of_unreadable_pictures_is_refused(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            (tmp_path / "data" / split / name / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError):
        _explore(tmp_path / "out", tmp_path / "data")


def test_what_training_sees_is_drawn_where_transforms_are_chosen(tmp_path, folder_data):
    _explore(tmp_path / "plain", folder_data)
    assert not (tmp_path / "plain" / "augmentation.png").exists()
    assert "What training sees" not in (tmp_path / "plain" / "report.html").read_text(encoding="utf-8")
    for name, more, pixels in (
        ("usual", (), 224),
        ("tiny", ("backbone=tiny",), 96),
        ("small", ("transforms.size=40",), 40),
    ):
        _explore(tmp_path / name, folder_data, "transforms=light", *more)
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        assert f"train/blue/blue_0.jpg as it is, and as training sees it, with {pixels} pixels" in page
        assert "could not be made" not in page
        assert (tmp_path / name / "augmentation.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["backbone=tiny"], "add transforms=NAME"),
        (["transforms=light", "transforms.mixup_alpha=0.2"], "several images"),
        (["transforms=light", "transforms.cutmix_alpha=1"], "several images"),
        (["transforms=light", "transforms.size=0"], "transforms.size=0"),
    ],
)
def test_what_looking_would_ignore_is_refused(tmp_path, folder_data, arguments, reason):
    done = program("explore", "data=folder", f"data.root={folder_data}", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert list(tmp_path.glob("outputs")) == []


def test_the_data_stays_as_it_is(tmp_path, folder_data):
    before = {path: path.stat().st_mtime_ns for path in folder_data.rglob("*")}
    _explore(tmp_path / "out", folder_data)
    assert {path: path.stat().st_mtime_ns for path in folder_data.rglob("*")} == before


@pytest.mark.shared
def test_real_pictures_are_shown(tmp_path, shared):
    root = shared / "data" / "hymenoptera"
    figures = _explore(tmp_path / "out", root)
    # The counts that the folders have
    for split in ("train", "val"):
        assert 0 < figures[f"pictures/{split}"] <= len(list((root / split).glob("*/*")))
    table = _rows(tmp_path / "out" / "classes.csv")
    assert [row["class"] for row in table] == ["ants", "bees"]
    assert sum(int(row["train"]) for row in table) == figures["pictures/train"]
    assert 0 < figures["width/min"] < figures["width/median"] < figures["width/max"]
