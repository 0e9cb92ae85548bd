"""Paths of images in one block: a sequence as a list of them is."""

import pickle
from pathlib import Path

import pytest

from tlearn.data.image_paths import ImagePaths

NAMES = ["b/1.png", "a", "ü漢/\udcff.png", "a b\n.jpg", "/x/y"]


def test_it_is_the_sequence_that_a_list_is():
    paths, expected = ImagePaths(NAMES), list(map(Path, NAMES))
    assert list(paths) == expected
    assert [paths[index] for index in range(-5, 5)] == [expected[index] for index in range(-5, 5)]
    for part in (slice(2, None), slice(None, 2), slice(1, 4), slice(4, 1), slice(9, None), slice(None, None, -2)):
        assert list(paths[part]) == expected[part]
    assert list(paths[1:][1:3][1:]) == expected[3:4]
    # As a process that is not forked gets them
    assert list(pickle.loads(pickle.dumps(paths[1:]))) == expected[1:]
    for index in (5, -6):
        with pytest.raises(IndexError):
            paths[index]
    assert not ImagePaths()


def test_of_names_for_one_file_the_first_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once = ImagePaths(["b", "./b", "a", f"{tmp_path}/b", "x/../a", "c"]).each_once()
    assert list(once) == list(map(Path, ["b", "a", "c"]))
