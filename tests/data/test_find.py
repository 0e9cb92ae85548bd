"""Which files count as images to classify: of a folder, a file or a glob."""

import os
import re
import tracemalloc
from pathlib import Path

import pytest

from tests.conftest import draw
from tlearn.data.find import find_images
from tlearn.errors import DataError, TlearnError


def found(images: Path | str) -> list[Path]:
    paths, _ = find_images(str(images))
    return list(paths)


@pytest.fixture
def folder(tmp_path):
    """Give a folder with seven images."""
    for number in range(7):
        draw(tmp_path / "new" / f"{number}.png", (30 * number, 1, 2))
    return tmp_path / "new"


def test_a_glob_gives_what_it_matches(folder):
    assert [path.name for path in found(folder / "[0-2].png")] == ["0.png", "1.png", "2.png"]
    assert len(found(folder.parent / "**" / "*.png")) == 7
    assert found(f"{folder}/../new/5*") == [folder / ".." / "new" / "5.png"]


# Python 3.13 reads two stars inside a name as one, and older ones refuse them.
@pytest.mark.parametrize("glob", ["a**.png", "**x/*.png"])
def test_a_glob_with_two_stars_inside_a_name_is_no_fault_of_tlearn(folder, glob):
    with pytest.raises(TlearnError, match=re.escape(glob)):
        found(folder / glob)


def test_a_folder_that_cannot_be_read_is_refused(folder, monkeypatch):
    (folder / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: str | Path = "."):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    # Not by its mode, which the superuser may ignore
    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"cannot read the folder .*locked: Permission denied"):
        found(folder)


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder):
    draw(folder / "[0].png", (1, 2, 3))
    assert found(folder / "[0].png") == [folder / "[0].png"]


def test_relative_and_home_paths_work(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert found("new/*.png")[0] == Path("new/0.png")
    assert len(found("new")) == 7
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(found("~/new")) == 7
    assert len(found("~/new/*.png")) == 7


@pytest.mark.parametrize("images", ["nowhere", "nowhere/*.png", "new/*.bmp", "empty"])
def test_nothing_there_is_an_error(folder, monkeypatch, images):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "empty").mkdir()
    with pytest.raises(DataError, match=f"images={re.escape(images)}: no images there"):
        found(images)


def test_images_are_found_by_ending_in_any_case_and_any_depth(tmp_path):
    for name in ("a.JPG", "b/c.jpeg", "b/d/e.PnG", "f.tiff"):
        draw(tmp_path / name, (1, 2, 3))
    names = [path.relative_to(tmp_path).as_posix() for path in found(tmp_path)]
    assert names == ["a.JPG", "b/c.jpeg", "b/d/e.PnG", "f.tiff"]


def test_hidden_files_and_folders_are_skipped(folder):
    for name in (".hidden.png", "._0.png", ".thumbs/1.png", "sub/.git/2.png", "@eaDir/3.png", "sub/__MACOSX/4.png"):
        draw(folder / name, (1, 2, 3))
    assert len(found(folder)) == 7
    assert len(found(folder / "*.png")) == 7
    assert len(found(folder / "**" / "*.png")) == 7


def test_a_glob_below_a_folder_with_signs_of_globs_in_its_name(tmp_path):
    place = tmp_path / "new [1] * b" / "x"
    other = tmp_path / "new 2 b" / "x" / "1.png"
    draw(place / "1.png", (1, 2, 3))
    draw(other, (1, 2, 3))
    assert found(tmp_path / "new [1] * b" / "*" / "[0-9].png") == [place / "1.png"]
    assert found(tmp_path / "new [12] *" / "*" / "*.png") == [other]


def test_a_folder_below_a_hidden_one_can_be_asked_for(folder):
    draw(folder / ".thumbs" / "1.png", (1, 2, 3))
    assert found(folder / ".thumbs") == [folder / ".thumbs" / "1.png"]
    assert found(folder / ".thumbs" / "*.png") == [folder / ".thumbs" / "1.png"]


def test_other_files_of_a_folder_are_counted_in_one_note(folder):
    for name in ("a.mov", "b.MOV", "notes.txt", "README", ".hidden"):
        (folder / name).write_bytes(b"")
    paths, notes = find_images(str(folder))
    assert len(paths) == 7
    assert notes == [f"4 other files in {folder}: (no ending) 1, .mov 2, .txt 1"]


def test_a_folder_of_images_alone_needs_no_note(folder):
    assert find_images(str(folder))[1] == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("images", ["new", "new/**/*.png"])
def test_links_that_lead_back_up_end(folder, monkeypatch, images):
    monkeypatch.chdir(folder.parent)
    (folder / "sub").mkdir()
    for name in ("one", "two", "sub/three"):
        (folder / name).symlink_to(folder, target_is_directory=True)
    (folder / "itself.png").symlink_to("itself.png")
    names = [path for path in found(images) if path.name != "itself.png"]
    assert names == [Path("new") / f"{number}.png" for number in range(7)]


def test_a_linked_folder_is_searched(folder):
    other = draw(folder.parent / "other" / "x.png", (1, 2, 3)).parent
    (folder / "link").symlink_to(other, target_is_directory=True)
    assert folder / "link" / "x.png" in found(folder)


@pytest.mark.parametrize("name", ["a" * 300, "~nobody-of-this-name/pictures", ""])
def test_a_name_that_no_system_takes_is_not_there(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match="no images there"):
        found(name)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 6000 images in three folders below `many`."""
    root = tmp_path_factory.mktemp("many")
    for folder in ("many/a", "many/b", "many/c"):
        (root / folder).mkdir(parents=True)
        for number in range(2000):
            (root / folder / f"{number:024}.jpg").touch()
    return root


@pytest.mark.parametrize("images", ["many", "many/*/*.jpg", ["many/a", "many/b", "many/c"]])
def test_many_images_take_little_memory(many, monkeypatch, images):
    monkeypatch.chdir(many)
    # What it imports is not measured.
    find_images(["many/a"])
    tracemalloc.start()
    try:
        paths, _ = find_images(images)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(paths) == 6000
    assert kept / 6000 < 80
    # A glob of Python's keeps what it has found.
    assert peak / 6000 < (500 if "*" in images else 150)


def test_images_are_in_the_order_of_the_parts_of_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a-b.png", "a/z.png", "a.b/c.png", "a b.png", "a/b/1.png", "B.png", "ü.png", "a0/0.png", "a/b.png"]
    for name in names:
        draw(Path(name), (1, 2, 3))
    assert found(".") == found("**/*.png") == sorted(map(Path, names))


def test_hidden_files_and_folders_are_not_told(tmp_path):
    draw(tmp_path / "a.png", (1, 2, 3))
    for name in (".DS_Store", ".git/b.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    images, notes = find_images([str(tmp_path)])
    assert list(images) == [tmp_path / "a.png"]
    assert notes == []
