"""Paths that stand alone on the command line of predict, as a shell expands them."""

import pytest

from tests.small_runs import program
from tlearn.config.compose import compose
from tlearn.config.positional import with_images
from tlearn.data.find import find_images, folder_targets
from tlearn.errors import ConfigError, DataError

NAMES = [
    "z.jpg",
    "a=b.jpg",
    "[x],{y}.jpg",
    "a b.jpg",
    "it's.jpg",
    "${seed}.jpg",
    "-dash.jpg",
    "x\\.jpg",
    "~.jpg",
    "æ.jpg",
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_any_name_becomes_an_image_in_its_order(tmp_path):
    for name in NAMES:
        (tmp_path / name).touch()
    found = with_images(["--config-dir", "conf", "run=x", *NAMES, "topk=2"], ["run=x", *NAMES, "topk=2"])
    assert found[:4] == ["--config-dir", "conf", "run=x", "topk=2"]
    assert list(compose(found[2:], "predict").images) == NAMES
    assert [str(path) for path in find_images([f"./{name}" for name in NAMES])[0]] == NAMES


def test_what_is_an_override_stays_one(tmp_path):
    (tmp_path / "topk=3").touch()
    arguments = ["run=x", "images=x", "topk=3", "~page", "topk", "hydra.run.dir=x", "no=file.jpg"]
    assert with_images(arguments, arguments) == arguments


def test_both_ways_at_once_are_refused():
    with pytest.raises(ConfigError, match="in one of both ways"):
        with_images(["a.jpg", "images=b.jpg"], ["a.jpg", "images=b.jpg"])


def test_a_dash_that_ends_the_flags_is_understood():
    assert with_images(["run=x", "--", "-a.jpg"], ["run=x", "-a.jpg"]) == ["run=x", "images=['-a.jpg']"]


def test_the_program_takes_them_and_names_all_that_are_missing(tmp_path):
    (tmp_path / "there.jpg").touch()
    done = program("predict", "run=x", "there.jpg", "gone.jpg", "none/*.png", cwd=tmp_path)
    assert done.returncode == DataError.exit_status
    assert "images=gone.jpg, none/*.png: no images there" in done.stderr
    done = program("explore", "there.jpg", cwd=tmp_path)
    assert "cannot read the argument there.jpg" in done.stderr


def test_lists_keep_their_order_and_each_image_once(tmp_path):
    for name in ("b/1.jpg", "b/0.jpg", "a.jpg", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths, notes = find_images(["b/1.jpg", "a.jpg", "b", f"{tmp_path}/a.jpg"])
    assert [str(path) for path in paths] == ["b/1.jpg", "a.jpg", "b/0.jpg"]
    assert notes == ["1 other file in b: .txt 1", "2 images are given more than once: one row each"]
    with pytest.raises(DataError, match=r"images=\[\]: no images there"):
        find_images([])
    assert folder_targets(["b", "a.jpg"], paths, ["b"]) == (None, [])
    target, _ = folder_targets([str(tmp_path)], [tmp_path / "b/0.jpg"], ["b"])
    assert target(f"{tmp_path}/b/0.jpg") == "b"
