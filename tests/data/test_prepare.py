"""Preparing: bad pictures stop a run or are left out before the split, and no class gets lost on the way."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw
from tlearn.data.decode import Decoder
from tlearn.data.file_state import content_digest
from tlearn.data.file_table import FileTable
from tlearn.data.prepare import BadImagesError, ImageSet, copies, count_lines, prepare
from tlearn.data.sources.base import Listing, Sample
from tlearn.data.sources.folder import FolderSource
from tlearn.errors import DataError

HALVES = (0.5, 0.25, 0.25)


def prepared(root: Path, on_bad_image: str = "error", **more) -> ImageSet:
    return prepare(FolderSource(root, **more), Decoder(), HALVES, 0.2, 0, on_bad_image)


def spoil(folder: Path, count: int) -> list[Path]:
    """Cut the first pictures of a folder short and name them."""
    paths = sorted(folder.iterdir())[:count]
    for path in paths:
        path.write_bytes(path.read_bytes()[:200])
    return paths


def labels(pictures: ImageSet) -> set[str]:
    return {sample.label for samples in pictures.splits.values() for sample in samples}


@pytest.fixture
def unsplit(tmp_path: Path, draw_split) -> Path:
    """Give a folder with 8 pictures in each of the classes blue, green and red, and no splits."""
    return draw_split(tmp_path / "unsplit", 8, ("blue", "green", "red"))


def test_good_pictures_give_splits_classes_and_nothing_else(folder_data):
    found = prepared(folder_data)
    assert {name: len(samples) for name, samples in found.splits.items()} == {"train": 24, "val": 12, "test": 12}
    assert (found.root, found.classes) == (folder_data, ["blue", "green", "red"])
    assert (found.notes, found.skipped) == ([], {})


def test_the_test_pictures_are_val_where_that_is_asked_for(tmp_path, draw_split):
    for split, count, first in (("train", 6, 0), ("test", 3, 100)):
        draw_split(tmp_path / split, count, first=first)
    found = prepare(FolderSource(tmp_path), Decoder(), HALVES, 0.2, 0, test_as_val=True)
    assert {name: len(samples) for name, samples in found.splits.items()} == {"train": 12, "val": 6}
    assert {sample.path.partition("/")[0] for sample in found.splits["val"]} == {"test"}
    assert [note.startswith("the test images are val") for note in found.notes] == [True]


def test_a_class_of_test_that_train_lacks_is_refused_where_it_would_be_val_too(tmp_path, draw_split):
    draw_split(tmp_path / "train", 2)
    draw_split(tmp_path / "test", 2, ("blue", "green"))
    with pytest.raises(DataError, match="test has classes that train does not have: green"):
        prepare(FolderSource(tmp_path), Decoder(), HALVES, 0.2, 0, test_as_val=True)


def test_every_bad_picture_is_named_with_its_reason(folder_data):
    bad = spoil(folder_data / "train" / "red", 2) + spoil(folder_data / "test" / "blue", 1)
    with pytest.raises(BadImagesError, match=r"^3 images cannot be read") as caught:
        prepared(folder_data)
    error = caught.value
    assert error.exit_status == 3
    assert set(error.files) == {path.relative_to(folder_data).as_posix() for path in bad}
    for path in bad:
        assert f"{path}: {error.files[path.relative_to(folder_data).as_posix()]}" in str(error)
    assert all(error.files.values())
    assert "more" not in str(error)
    assert "data.on_bad_image=skip" in str(error)


def test_of_many_bad_pictures_twenty_are_shown_and_the_others_counted(tmp_path, draw_split):
    root = draw_split(tmp_path / "many", 13)
    spoil(root / "blue", 13)
    spoil(root / "red", 12)
    with pytest.raises(BadImagesError, match=r"^25 images cannot be read") as caught:
        prepared(root)
    assert str(caught.value).count(".jpg: ") == 20
    assert "... and 5 more" in str(caught.value)
    assert len(caught.value.files) == 25


def test_skipped_pictures_are_left_out_and_counted_per_class(unsplit):
    bad = spoil(unsplit / "blue", 1) + spoil(unsplit / "red", 3)
    found = prepared(unsplit, "skip")
    assert found.notes == ["left out 4 unreadable images: blue 1, red 3"]
    assert set(found.skipped) == {path.relative_to(unsplit).as_posix() for path in bad}
    assert all(found.skipped.values())


def test_the_split_is_that_of_the_readable_pictures_alone(unsplit):
    bad = spoil(unsplit / "blue", 1) + spoil(unsplit / "red", 3)
    skipping = prepared(unsplit, "skip")
    for path in bad:
        path.unlink()
    assert prepared(unsplit).splits == skipping.splits
    # Red has 5 left: had it been split before, val or test could have lost all of its pictures
    assert sorted(sum(one.label == "red" for one in samples) for samples in skipping.splits.values()) == [1, 1, 3]


@pytest.mark.parametrize("lost", [["green"], ["blue", "red"], ["blue", "green", "red"]], ids=",".join)
def test_a_class_without_a_readable_picture_is_not_left_out(unsplit, lost):
    for name in lost:
        spoil(unsplit / name, 8)
    with pytest.raises(DataError, match=f"all of {', '.join(lost)}:") as caught:
        prepared(unsplit, "skip")
    assert caught.value.exit_status == 3
    assert str(unsplit / lost[0] / f"{lost[0]}_0.jpg") in str(caught.value)
    assert "data.on_bad_image=skip" not in str(caught.value)


def test_a_class_that_only_train_has_lost_is_refused(folder_data):
    spoil(folder_data / "train" / "green", 8)
    with pytest.raises(DataError, match="green"):
        prepared(folder_data, "skip")


def test_a_class_that_only_val_has_lost_is_noted(folder_data):
    spoil(folder_data / "val" / "green", 4)
    found = prepared(folder_data, "skip")
    assert found.classes == ["blue", "green", "red"]
    assert "warning: few images: none in val, hence no metrics there, for class green" in found.notes


def test_an_allowed_empty_class_stays_a_class(unsplit):
    (unsplit / "violet").mkdir()
    spoil(unsplit / "blue", 1)
    found = prepared(unsplit, "skip", allow_empty=True)
    assert found.classes == ["blue", "green", "red", "violet"]
    assert labels(found) == {"blue", "green", "red"}


def test_a_mended_picture_is_good_again_despite_the_cache(unsplit, tmp_path):
    [path] = spoil(unsplit / "blue", 1)
    source, cache = FolderSource(unsplit), tmp_path / "verified"
    with pytest.raises(BadImagesError):
        prepare(source, Decoder(), HALVES, 0.2, 0, "error", cache)
    draw(path, (30, 30, 220))
    assert prepare(source, Decoder(), HALVES, 0.2, 0, "error", cache).skipped == {}


def test_16_bit_images_that_look_like_12_are_noted_and_read_so_when_told(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            values = np.full((8, 8), 4095 - number, np.uint16)
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    found = prepare(FolderSource(tmp_path), Decoder(high_bit_depth="scale"), HALVES, 0.2, 0)
    assert [note for note in found.notes if "look like 12 bits" in note and "data.bit_depth=12" in note]
    told = Decoder(high_bit_depth="scale", bit_depth=12)
    assert not [note for note in prepare(FolderSource(tmp_path), told, HALVES, 0.2, 0).notes if "bits" in note]
    assert told(tmp_path / "a" / "0.png").min() == 255


def test_classes_that_may_not_be_meant_are_warned_of(tmp_path, draw_split):
    for first, name in enumerate(("Cat", "cat", "nan")):
        draw_split(tmp_path, 4, (name,), 10 * first)
    assert [note.split(":")[0] for note in prepared(tmp_path).notes].count("warning") == 2


def test_the_first_lines_name_classes_and_counts_and_are_short_for_many():
    samples = [Sample(f"{number}.jpg", f"c{number % 30:02d}") for number in range(1500)]
    splits = {"train": [*samples, Sample("x.jpg", "c29")], "val": samples[:2]}
    assert count_lines(splits, ["c00", "c01"]) == ["train: c00 50, c01 50", "val: c00 1, c01 1"]
    assert count_lines({"val": [Sample("a.jpg", "two\nlines")]}, ["two\nlines"]) == ["val: 'two\\nlines' 1"]
    train, val = count_lines(splits, [f"c{number:02d}" for number in range(30)])
    assert train.endswith("c10 50, c11 50, ... and 18 more with 50 to 51 images")
    assert val.endswith("c11 0, ... and 18 more with 0 to 0 images")


def test_a_source_of_your_own_that_lists_nothing_is_named(tmp_path):
    class Empty:
        def prepare(self) -> None:
            pass

        def listing(self) -> Listing:
            return Listing(tmp_path, [])

    with pytest.raises(DataError, match=rf"^data\.source: listing\(\) of .*Empty listed no images in {tmp_path}$"):
        prepare(Empty(), Decoder(), HALVES, 0.2, 0)


def test_images_that_several_splits_have_are_named(tmp_path, draw_split):
    for split, count, first in (("train", 4, 0), ("val", 2, 100), ("test", 2, 200)):
        draw_split(tmp_path / split, count, ("blue", "red"), first)
    names = {split: sorted((tmp_path / split / "red").iterdir()) for split in ("train", "val", "test")}
    # Twice in train is not told here.
    shutil.copy(names["train"][1], tmp_path / "train" / "red" / "again.jpg")
    shutil.copy(names["train"][0], tmp_path / "test" / "red" / "copy.jpg")
    shutil.copy(names["val"][0], tmp_path / "test" / "blue" / "copy.jpg")
    [note] = prepared(tmp_path).notes
    told = "warning: 2 images (4 files) in several splits, 1 of them in several classes, so metrics are "
    assert note.startswith(told)
    assert "copy.jpg" in note
    assert "again.jpg" not in note
    for number in range(40):
        shutil.copy(names["train"][0], tmp_path / "test" / "red" / f"line\n{number}.jpg")
    [note] = prepared(tmp_path).notes
    assert note.startswith("warning: 2 images (44 files)")
    assert "... and 39 more" in note
    assert len(note) < 500
    assert "\n" not in note


def test_copies_are_grouped_with_their_splits_and_equal_size_is_not_enough(tmp_path):
    splits = {"train": [Sample("1", "a"), Sample("2", "a")], "val": [Sample("3", "b"), Sample("4", "a")]}
    for path, content in {"1": b"same", "2": b"diff", "3": b"same", "4": b"same", "left out": b"diff"}.items():
        (tmp_path / path).write_bytes(content)
    files = FileTable(tmp_path, ["1", "2", "3", "4", "left out"])
    assert copies(files, splits) == []
    for path in ("1", "2", "3", "4", "left out"):
        files.keep_digest(path, content_digest(tmp_path / path))
    [group] = copies(files, splits)
    assert [(split, one.path, one.label) for split, one in group] == [
        ("train", "1", "a"),
        ("val", "3", "b"),
        ("val", "4", "a"),
    ]
