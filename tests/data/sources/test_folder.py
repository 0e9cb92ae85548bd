"""Folders in every state: layouts, links, downloads, and what users are told of wrong trees."""

import os
from itertools import product
from pathlib import Path

import pytest

from tests.conftest import fill, tree
from tlearn.data.sources import archive as archive_module
from tlearn.data.sources.archive import Archive
from tlearn.data.sources.base import Listing, Sample
from tlearn.data.sources.folder import FolderSource
from tlearn.errors import ConfigError, DataError, DownloadError


def listed(root: Path, **options: bool) -> Listing:
    return FolderSource(root, **options).listing()


def refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        listed(root)
    return str(caught.value)


class TestLayouts:
    def test_one_folder_per_class_gives_samples_without_split_in_the_order_of_paths(self, tmp_path):
        fill(tmp_path, "b/2.jpg", "b/1.jpg", "a/deep/er/3.jpg")
        assert listed(tmp_path) == Listing(
            tmp_path, [Sample("a/deep/er/3.jpg", "a"), Sample("b/1.jpg", "b"), Sample("b/2.jpg", "b")]
        )

    @pytest.mark.parametrize("val", ["val", "valid", "validation", "VAL"])
    @pytest.mark.parametrize("test", [True, False])
    def test_split_folders_are_recognised_under_their_usual_names(self, tmp_path, val, test):
        fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"{val}/a/2.jpg", *(["test/b/3.jpg"] if test else []))
        expected = {
            ("train/a/1.jpg", "a", "train"),
            ("train/b/1.jpg", "b", "train"),
            (f"{val}/a/2.jpg", "a", "val"),
            *([("test/b/3.jpg", "b", "test")] if test else []),
        }
        assert set(listed(tmp_path).samples) == expected

    def test_train_and_test_alone_are_a_split_layout(self, tmp_path):
        fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/2.jpg")
        assert {sample.split for sample in listed(tmp_path).samples} == {"train", "test"}

    def test_classes_may_be_called_like_splits(self, tmp_path):
        fill(tmp_path, "train/1.jpg", "bus/1.jpg", "car/1.jpg")
        assert [sample.label for sample in listed(tmp_path).samples] == ["bus", "car", "train"]

    def test_valid_and_invalid_are_classes(self, tmp_path):
        fill(tmp_path, "valid/1.jpg", "invalid/1.jpg")
        assert {(sample.label, sample.split) for sample in listed(tmp_path).samples} == {
            ("invalid", None),
            ("valid", None),
        }

    def test_every_accepted_ending_counts_in_any_case(self, tmp_path):
        endings = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "JPG", "Png"]
        fill(tmp_path, *(f"a/{number}.{ending}" for number, ending in enumerate(endings)), "b/1.jpg")
        listing = listed(tmp_path)
        assert len(listing.samples) == len(endings) + 1
        assert listing.notes == []

    def test_names_beyond_ascii_and_blanks_are_kept(self, tmp_path):
        fill(tmp_path, "Größe/ä 1.jpg", "花/1.jpg")
        assert [sample.path for sample in listed(tmp_path).samples] == ["Größe/ä 1.jpg", "花/1.jpg"]

    def test_a_relative_root_gives_the_same_paths(self, tmp_path, monkeypatch):
        fill(tmp_path, "a/deep/1.jpg", "b/1.jpg")
        monkeypatch.chdir(tmp_path)
        assert listed(Path(".")).samples == listed(tmp_path).samples

    def test_folders_beside_the_splits_and_pictures_in_no_class_are_noted(self, tmp_path):
        fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/stray.jpg", "val/a/1.jpg", "extra/x/1.jpg")
        listing = listed(tmp_path)
        assert len(listing.samples) == 3
        assert listing.notes == [
            "ignored folders beside the splits: extra",
            "ignored 1 image directly in train/, in no class folder",
        ]

    def test_listing_changes_nothing_on_disk(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "b/1.gif", "b/1.jpg", ".DS_Store")
        before = tree(tmp_path)
        listed(tmp_path)
        assert tree(tmp_path) == before


class TestIgnoredFiles:
    def test_hidden_entries_become_neither_class_nor_sample(self, tmp_path):
        fill(tmp_path, ".ipynb_checkpoints/1.jpg", "__MACOSX/a/1.jpg", "a/1.jpg", "a/._1.jpg", "a/Thumbs.db", "b/1.jpg")
        listing = listed(tmp_path)
        assert listing.samples == [Sample("a/1.jpg", "a"), Sample("b/1.jpg", "b")]
        assert listing.notes == ["ignored 4 hidden entries"]

    def test_hidden_entries_of_a_split_layout_are_counted_once(self, tmp_path):
        fill(tmp_path, ".DS_Store", "train/.DS_Store", "train/a/1.jpg", "train/b/1.jpg", "val/a/.x.jpg", "val/a/1.jpg")
        assert listed(tmp_path).notes == ["ignored 3 hidden entries"]

    def test_other_endings_are_noted_for_each_class(self, tmp_path):
        fill(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "train/a/3.psd", "train/a/4.MOV", "train/b/1.jpg")
        fill(tmp_path, "val/a/1.jpg", "val/b/1.jpg", "val/b/LABELS")
        assert listed(tmp_path).notes == [
            "train/a: 2 files ignored: .mov, .psd",
            "val/b: 1 file ignored: (no ending)",
        ]

    def test_a_class_that_loses_more_than_half_of_its_files_is_refused(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "a/2.mov", "a/3.mov", "b/1.jpg")
        message = refused(tmp_path)
        assert "2 of the 3 files of class 'a'" in message
        assert str(tmp_path / "a") in message
        assert ".mov" in message


class TestEmptyClasses:
    @pytest.mark.parametrize("prefix", ["", "train/"])
    def test_an_empty_class_is_refused_by_name_and_path(self, tmp_path, prefix):
        fill(tmp_path, f"{prefix}a/1.jpg", f"{prefix}b/1.jpg", *(["val/a/1.jpg"] if prefix else []))
        (tmp_path / prefix / "c").mkdir()
        message = refused(tmp_path)
        assert f"class 'c' has no images: {tmp_path / prefix / 'c'}" in message
        assert "data.allow_empty=true" in message

    def test_an_empty_class_is_kept_where_allowed(self, tmp_path):
        fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg")
        (tmp_path / "train/c").mkdir()
        listing = listed(tmp_path, allow_empty=True)
        assert listing.empty_classes == ["c"]
        assert {sample.label for sample in listing.samples} == {"a", "b"}

    def test_an_empty_class_of_val_is_a_note(self, tmp_path):
        fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg")
        (tmp_path / "val/b").mkdir()
        listing = listed(tmp_path)
        assert listing.empty_classes == []
        assert listing.notes == ["val/b: no images"]

    def test_the_error_says_what_was_skipped_in_the_class(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "c").mkdir()
        (tmp_path / "c/1.jpg").symlink_to("unmounted/1.jpg")
        assert "c/1.jpg (broken link)" in refused(tmp_path)


class TestWrongTrees:
    def test_a_flat_folder_shows_the_tree_and_the_expected_layouts(self, tmp_path):
        message = refused(fill(tmp_path, "1.jpg", "2.jpg", "3.txt"))
        assert "no class folders, and 2 images directly in it" in message
        assert "(3 files: .jpg, .txt)" in message
        assert "<data.root>/train/<class>/*.jpg" in message

    def test_an_extra_top_folder_is_named_as_the_root_to_give(self, tmp_path):
        message = refused(fill(tmp_path, "archive/v1/train/a/1.jpg", "archive/v1/val/a/1.jpg", "README"))
        assert message.endswith(f"data.root={tmp_path / 'archive/v1'}")
        assert "    v1/" in message

    def test_train_alone_is_no_class_called_train(self, tmp_path):
        message = refused(fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "docs/readme.txt"))
        assert "train/ without val/ or test/" in message
        assert message.endswith(f"data.root={tmp_path / 'train'}")

    def test_a_folder_of_data_sets_is_no_data_set(self, tmp_path):
        names = product(("one", "two"), ("train", "val"), ("a", "b"))
        fill(tmp_path, *(f"{name}/{split}/{label}/1.jpg" for name, split, label in names))
        assert refused(tmp_path).endswith(f"data.root={tmp_path / 'one'}")

    def test_val_and_test_without_train_are_refused(self, tmp_path):
        assert "no train/ beside test/, val/" in refused(fill(tmp_path, "val/a/1.jpg", "test/a/1.jpg"))

    def test_two_folders_for_one_split_are_refused(self, tmp_path):
        message = refused(fill(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"))
        assert "val/ and valid/ are the same split" in message

    def test_a_val_without_class_folders_is_refused(self, tmp_path):
        message = refused(fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/1.jpg"))
        assert "val/ has no class folders, and 1 image directly in it" in message
        assert f"train/ alone, 2 classes a, b: data.root={tmp_path / 'train'}" in message

    def test_nothing_at_all_is_refused(self, tmp_path):
        assert "no class folders, and 0 images" in refused(tmp_path)

    def test_folders_without_any_picture_are_refused(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        assert "no images found" in refused(tmp_path)

    def test_the_tree_shown_is_capped(self, tmp_path):
        fill(tmp_path, *(f"{number:02d}/deep/x/1.txt" for number in range(30)))
        for number in range(30):
            (tmp_path / f"{number:02d}/deep/x/1.txt").unlink()
        message = refused(tmp_path)
        assert "... 22 more folders" in message
        assert "      ... 1 folder" in message
        assert len(message.splitlines()) < 40

    def test_a_root_that_is_missing_or_a_file_is_named(self, tmp_path):
        assert refused(tmp_path / "lost") == f"data.root={tmp_path / 'lost'} does not exist"
        assert refused(fill(tmp_path, "1.jpg") / "1.jpg") == f"data.root={tmp_path / '1.jpg'} is not a folder"


@pytest.mark.timeout(20)
class TestLinks:
    def test_a_loop_lists_each_picture_once(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "a/loop").symlink_to("../a")
        listing = listed(tmp_path)
        assert [sample.path for sample in listing.samples] == ["a/1.jpg", "b/1.jpg"]
        assert listing.notes == ["loop skipped: a/loop"]

    def test_links_up_to_the_root_end(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "a/up").symlink_to("..")
        (tmp_path / "top").symlink_to(".")
        listing = listed(tmp_path)
        assert listing.samples == [Sample("a/1.jpg", "a"), Sample("b/1.jpg", "b")]
        assert sorted(listing.notes) == ["loop skipped: a/up", "loop skipped: top"]

    def test_two_classes_that_link_to_each_other_end(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "b/2.jpg")
        (tmp_path / "a/other").symlink_to("../b")
        (tmp_path / "b/other").symlink_to("../a")
        (tmp_path / "c").symlink_to("a")
        paths = [sample.path for sample in listed(tmp_path).samples]
        assert len(paths) == len(set(paths))
        assert {"a/1.jpg", "a/other/2.jpg", "b/2.jpg", "b/other/1.jpg", "c/1.jpg"} <= set(paths)

    def test_linked_classes_folders_and_files_are_followed(self, tmp_path):
        store = fill(tmp_path / "store", "x/1.jpg", "more/2.jpg", "3.jpg")
        root = fill(tmp_path / "root", "b/1.jpg")
        (root / "a").symlink_to(store / "x")
        (root / "b/more").symlink_to(store / "more")
        (root / "b/3.jpg").symlink_to(store / "3.jpg")
        listing = listed(root)
        assert [sample.path for sample in listing.samples] == ["a/1.jpg", "b/1.jpg", "b/3.jpg", "b/more/2.jpg"]
        assert listing.notes == []

    def test_a_folder_reached_by_a_link_too_is_listed_under_its_own_name(self, tmp_path):
        fill(tmp_path, "a/z/deep/1.jpg", "b/1.jpg")
        (tmp_path / "a/alias").symlink_to("z/deep")
        assert [sample.path for sample in listed(tmp_path).samples] == ["a/z/deep/1.jpg", "b/1.jpg"]

    def test_only_regular_files_are_samples(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "a/folder.jpg/2.jpg", "b/1.jpg")
        (tmp_path / "a/broken.jpg").symlink_to("nowhere.jpg")
        (tmp_path / "a/self.jpg").symlink_to("self.jpg")
        os.mkfifo(tmp_path / "a/pipe.jpg")
        os.mkfifo(tmp_path / "pipe.jpg")
        listing = listed(tmp_path)
        assert [sample.path for sample in listing.samples] == ["a/1.jpg", "a/folder.jpg/2.jpg", "b/1.jpg"]
        assert (
            "a: skipped, not regular files: a/broken.jpg (broken link), a/pipe.jpg (not a file), a/self.jpg"
            in (listing.notes[0])
        )


class TestFolderDownload:
    def test_a_given_root_is_never_downloaded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archive_module, "fetch_archive", None)
        source = FolderSource(tmp_path / "lost", archive=Archive("lost", url="https://example.org/a.zip"))
        source.prepare()
        with pytest.raises(DataError, match="lost does not exist"):
            source.listing()

    def test_without_root_the_archive_is_fetched_once_into_the_named_folder(self, tmp_path, monkeypatch):
        calls = []

        def fetch_archive(url: str, folder: Path, **options: object) -> Path:
            calls.append((url, folder, options))
            return fill(folder, "a/1.jpg", "b/1.jpg")

        monkeypatch.setattr(archive_module, "fetch_archive", fetch_archive)
        source = FolderSource(None, archive=Archive("pets", tmp_path, "https://example.org/a.zip", "12345678", "inner"))
        source.prepare()
        source.prepare()
        assert len(source.listing().samples) == 2
        options = {"sha256": "12345678", "top": "inner", "what": "pets"}
        assert calls == [("https://example.org/a.zip", tmp_path / "pets", options)]

    def test_without_root_and_address_the_root_is_asked_for(self, tmp_path):
        with pytest.raises(ConfigError, match=r"data\.root must be given"):
            FolderSource(None, archive=Archive("mine", tmp_path)).prepare()
        with pytest.raises(ConfigError, match=r"data\.root must be given"):
            FolderSource(None)

    def test_without_network_the_error_names_the_address_and_the_place(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TLEARN_OFFLINE", "1")
        with pytest.raises(DownloadError) as caught:
            FolderSource(None, archive=Archive("mine", tmp_path, "https://example.org/a.zip")).prepare()
        assert "https://example.org/a.zip" in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert not (tmp_path / "mine").exists()


@pytest.mark.shared
def test_the_real_pictures_are_listed(shared):
    bees = FolderSource(shared / "data/hymenoptera").listing()
    assert [sum(sample.split == name for sample in bees.samples) for name in ("train", "val", "test")] == [244, 153, 0]
    assert bees.notes == ["train/ants: 1 file ignored: imageNotFound.gif, which stands for a missing picture"]
    cats = FolderSource(shared / "data/cat_dog").listing()
    assert [sum(sample.split == name for sample in cats.samples) for name in ("train", "val", "test")] == [800, 0, 300]
    assert {sample.label for sample in cats.samples} == {"cat", "dog"}
