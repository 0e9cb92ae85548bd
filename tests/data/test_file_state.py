"""A file is known by its absolute path, its size and its time."""

import os

import pytest

from tlearn.data.file_state import file_state


def test_a_file_is_known_by_path_size_and_time(tmp_path, monkeypatch):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"12")
    os.utime(file, ns=(5, 7))
    monkeypatch.chdir(tmp_path)
    assert file_state("a.jpg") == file_state(file) == (str(file), 2, 7)


@pytest.mark.parametrize("name", ["lost.jpg", "a\0b.jpg"])
def test_a_file_that_is_not_there_has_no_state(tmp_path, name):
    assert file_state(tmp_path / name) is None
