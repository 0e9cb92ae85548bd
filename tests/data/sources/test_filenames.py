"""Labels in file names and in the names of folders at any depth."""

from pathlib import Path

import pytest
from hydra.utils import instantiate

from tests.conftest import fill
from tlearn.config.compose import compose
from tlearn.data.sources.base import Sample
from tlearn.data.sources.filenames import FilenamesSource
from tlearn.errors import ConfigError, DataError


def listed(root: Path, pattern: str) -> list[Sample]:
    return FilenamesSource(root, pattern).listing().samples


def refused(root: Path, pattern: str) -> str:
    with pytest.raises(DataError) as caught:
        listed(root, pattern)
    return str(caught.value)


def test_a_pattern_is_found_in_file_names_at_any_depth(tmp_path):
    fill(tmp_path, "dog.1.jpg", "batch.7/cat.0.jpg", "notes.txt", ".hidden.jpg")
    listing = FilenamesSource(tmp_path, r"(?P<label>[a-z]+)\.\d+").listing()
    assert listing.samples == [Sample("batch.7/cat.0.jpg", "cat"), Sample("dog.1.jpg", "dog")]
    assert listing.notes == ["1 file ignored: .txt", "ignored 1 hidden entry"]


def test_a_pattern_with_a_slash_is_found_in_the_path(tmp_path):
    fill(tmp_path, "s1/cat/x/1.jpg", "s2/dog/y/2.jpg")
    assert [sample.label for sample in listed(tmp_path, "^[^/]+/(?P<label>[^/]+)/")] == ["cat", "dog"]


def test_a_group_names_the_split(tmp_path):
    fill(tmp_path, "training/cat.0.jpg", "valid/cat.1.jpg")
    found = listed(tmp_path, r"(?P<split>\w+)/(?P<label>[a-z]+)\.")
    assert [(sample.label, sample.split) for sample in found] == [("cat", "train"), ("cat", "val")]
    assert "'s1' is none of train, val, test" in refused(
        fill(tmp_path, "s1/cat.0.jpg"), r"(?P<split>\w+)/(?P<label>\w+)\."
    )


def test_what_matches_without_a_label_is_left_out_and_counted(tmp_path):
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg", "test/1.jpg", "test/2.jpg")
    listing = FilenamesSource(tmp_path, "^test/|^(?P<label>[^/]+)/").listing()
    assert [sample.label for sample in listing.samples] == ["cat", "dog"]
    assert listing.notes == ["2 images left out, where data.pattern matches without a label"]


def test_images_without_a_label_are_refused_by_name(tmp_path):
    fill(tmp_path, "cat.0.jpg", "Dog.1.jpg", "sub/9.jpg")
    message = refused(tmp_path, r"(?P<label>[a-z]+)\.\d+")
    assert "no label in 2 of 3 images" in message
    assert "sub/9.jpg: no label" in message
    # never the class og
    assert "Dog.1.jpg: 'og' would be a part of a longer name" in message


@pytest.mark.parametrize(("parent", "labels"), [(1, ["a", "b"]), (2, ["x", "y"])])
def test_labels_may_stand_in_parents_at_any_depth(tmp_path, parent, labels):
    fill(tmp_path, "s/x/a/1.jpg", "s/y/b/2.jpg")
    config = compose(["data=parents", f"data.root={tmp_path}", f"data.parent={parent}"])
    assert [sample.label for sample in instantiate(config.data.source).listing().samples] == labels


def test_an_image_with_too_few_parents_is_refused_by_name(tmp_path):
    config = compose(["data=parents", f"data.root={fill(tmp_path, 'a/1.jpg', 'a/b/2.jpg')}", "data.parent=2"])
    with pytest.raises(DataError, match=r"a/1\.jpg: no label"):
        instantiate(config.data.source).listing()


def test_a_root_that_is_missing_a_file_or_without_images_is_named(tmp_path):
    assert refused(tmp_path / "lost", "(?P<label>.)") == f"data.root={tmp_path / 'lost'} does not exist"
    assert "no images found" in refused(fill(tmp_path, "a.txt"), "(?P<label>.)")
    assert "is not a folder" in refused(tmp_path / "a.txt", "(?P<label>.)")
    with pytest.raises(ConfigError, match=r"data\.root must be given"):
        FilenamesSource(None, "(?P<label>.)")


@pytest.mark.timeout(20)
def test_links_that_lead_back_end(tmp_path):
    fill(tmp_path / "set", "cat.0.jpg", "sub/dog.0.jpg")
    (tmp_path / "set/sub/up").symlink_to("..")
    (tmp_path / "set/sub/out").symlink_to("../..")
    assert [sample.path for sample in listed(tmp_path / "set", "(?P<label>[a-z]+)")] == ["cat.0.jpg", "sub/dog.0.jpg"]
