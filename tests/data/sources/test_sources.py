"""Where pictures come from: folders in every state, CSV files, torchvision's data sets, and what users are told."""

import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tlearn.data.sources import torchvision as samples
from tlearn.data.sources.torchvision import CsvSource, FolderSource, Listing, Sample, TorchvisionSource
from tlearn.errors import ConfigError, DataError, DownloadError


def fill(root: Path, *paths: str) -> Path:
    """Make files that nothing here needs to decode."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"never opened")
    return root


def listed(root: Path, **options: bool) -> Listing:
    return FolderSource(root, **options).listing()


def refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        listed(root)
    return str(caught.value)


def tree(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


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
            "ignored 1 picture directly in train/, in no class folder",
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
        fill(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "train/a/3.gif", "train/a/4.HEIC", "train/b/1.jpg")
        fill(tmp_path, "val/a/1.jpg", "val/b/1.jpg", "val/b/LABELS")
        assert listed(tmp_path).notes == [
            "train/a: 2 files ignored: .gif, .heic",
            "val/b: 1 file ignored: (no ending)",
        ]

    def test_a_class_that_loses_more_than_half_of_its_files_is_refused(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "a/2.heic", "a/3.heic", "b/1.jpg")
        message = refused(tmp_path)
        assert "2 of the 3 files of class 'a'" in message
        assert str(tmp_path / "a") in message
        assert ".heic" in message


class TestEmptyClasses:
    @pytest.mark.parametrize("prefix", ["", "train/"])
    def test_an_empty_class_is_refused_by_name_and_path(self, tmp_path, prefix):
        fill(tmp_path, f"{prefix}a/1.jpg", f"{prefix}b/1.jpg", *(["val/a/1.jpg"] if prefix else []))
        (tmp_path / prefix / "c").mkdir()
        message = refused(tmp_path)
        assert f"class 'c' has no pictures: {tmp_path / prefix / 'c'}" in message
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
        assert listing.notes == ["val/b: no pictures"]

    def test_the_error_says_what_was_skipped_in_the_class(self, tmp_path):
        fill(tmp_path, "a/1.jpg", "b/1.jpg")
        (tmp_path / "c").mkdir()
        (tmp_path / "c/1.jpg").symlink_to("unmounted/1.jpg")
        assert "c/1.jpg (broken link)" in refused(tmp_path)


class TestWrongTrees:
    def test_a_flat_folder_shows_the_tree_and_the_expected_layouts(self, tmp_path):
        message = refused(fill(tmp_path, "1.jpg", "2.jpg", "3.txt"))
        assert "no class folders, and 2 pictures directly in it" in message
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
        fill(tmp_path, *(f"{name}/{split}/a/1.jpg" for name in ("one", "two") for split in ("train", "val")))
        assert refused(tmp_path).endswith(f"data.root={tmp_path / 'one'}")

    def test_val_and_test_without_train_are_refused(self, tmp_path):
        assert "no train/ beside test/, val/" in refused(fill(tmp_path, "val/a/1.jpg", "test/a/1.jpg"))

    def test_two_folders_for_one_split_are_refused(self, tmp_path):
        message = refused(fill(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"))
        assert "val/ and valid/ are the same split" in message

    def test_a_split_without_class_folders_is_refused(self, tmp_path):
        message = refused(fill(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/1.jpg"))
        assert "test/ has no class folders, and 1 picture directly in it" in message

    def test_nothing_at_all_is_refused(self, tmp_path):
        assert "no class folders, and 0 pictures" in refused(tmp_path)

    def test_folders_without_any_picture_are_refused(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        assert "no pictures found" in refused(tmp_path)

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
            "a: skipped, no regular files: a/broken.jpg (broken link), a/pipe.jpg (not a file), a/self.jpg"
            in (listing.notes[0])
        )


class TestFolderDownload:
    def test_a_given_root_is_never_downloaded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "fetch_archive", None)
        source = FolderSource(tmp_path / "lost", url="https://example.org/a.zip")
        source.prepare()
        with pytest.raises(DataError, match="lost does not exist"):
            source.listing()

    def test_without_root_the_archive_is_fetched_once_into_the_named_folder(self, tmp_path, monkeypatch):
        calls = []

        def fetch_archive(url: str, folder: Path, **options: object) -> Path:
            calls.append((url, folder, options))
            return fill(folder, "a/1.jpg", "b/1.jpg")

        monkeypatch.setattr(samples, "fetch_archive", fetch_archive)
        source = FolderSource(None, "pets", tmp_path, "https://example.org/a.zip", "12345678", "inner")
        source.prepare()
        source.prepare()
        assert len(source.listing().samples) == 2
        options = {"sha256": "12345678", "top": "inner", "what": "pets"}
        assert calls == [("https://example.org/a.zip", tmp_path / "pets", options)]

    def test_without_root_and_address_the_root_is_asked_for(self, tmp_path):
        with pytest.raises(ConfigError, match=r"data\.root must be given"):
            FolderSource(None, "mine", tmp_path).prepare()

    def test_without_network_the_error_names_the_address_and_the_place(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TLEARN_OFFLINE", "1")
        with pytest.raises(DownloadError) as caught:
            FolderSource(None, "mine", tmp_path, "https://example.org/a.zip").prepare()
        assert "https://example.org/a.zip" in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert not (tmp_path / "mine").exists()


class TestCsv:
    def write(self, folder: Path, text: str, encoding: str = "utf-8") -> Path:
        fill(folder, "1.jpg", "2.jpg", "b/3.jpg")
        (folder / "labels.csv").write_text(text, encoding=encoding)
        return folder / "labels.csv"

    def refused(self, folder: Path, text: str) -> str:
        path = self.write(folder, text)
        with pytest.raises(DataError) as caught:
            CsvSource(path).listing()
        assert str(path) in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_paths_are_relative_to_the_file_and_labels_are_names(self, tmp_path, encoding):
        path = self.write(tmp_path, "path,label\r\nb/3.jpg,Kätzchen\r\n./1.jpg, 7\r\n\r\n", encoding)
        source = CsvSource(str(path))
        source.prepare()
        assert source.listing() == Listing(tmp_path, [Sample("1.jpg", "7"), Sample("b/3.jpg", "Kätzchen")])

    def test_the_root_can_be_another_folder(self, tmp_path):
        path = self.write(tmp_path, "path,label\n3.jpg,x\n")
        listing = CsvSource(path, tmp_path / "b").listing()
        assert listing.root == tmp_path / "b"
        assert listing.samples == [Sample("3.jpg", "x")]

    def test_absolute_paths_are_kept(self, tmp_path):
        elsewhere = fill(tmp_path / "elsewhere", "4.jpg") / "4.jpg"
        path = self.write(tmp_path / "here", f"path,label\n{elsewhere},x\n")
        assert CsvSource(path).listing().samples == [Sample(str(elsewhere), "x")]

    def test_splits_go_by_all_their_names(self, tmp_path):
        path = self.write(tmp_path, "label,split,path\nx,train,1.jpg\nx,Valid,2.jpg\nx,test,b/3.jpg\n")
        assert [sample.split for sample in CsvSource(path).listing().samples] == ["train", "val", "test"]

    def test_an_empty_split_column_is_none(self, tmp_path):
        path = self.write(tmp_path, "path,label,split\n1.jpg,x,\n2.jpg,x,\n")
        assert [sample.split for sample in CsvSource(path).listing().samples] == [None, None]

    def test_other_columns_are_ignored_with_a_note(self, tmp_path):
        path = self.write(tmp_path, "path,label,width,\n1.jpg,x,40,\n")
        assert CsvSource(path).listing().notes == ["ignored columns of labels.csv: width"]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ("2.jpg,,train", "label is empty for 2.jpg"),
            (",x,train", "path is empty"),
            ("2.jpg,x,dev", "split is 'dev', and must be one of train, val, valid, validation, test"),
            ("2.jpg,x,", "split is '', and must be one of"),
            ("2.jpg", "label is empty for 2.jpg"),
            ("4.jpg,x,train", "no such file: "),
            ("b,x,train", "no such file: "),
            ("b/../1.jpg,x,val", "b/../1.jpg is on line 2 already"),
            ("2.jpg,x,y,train", "more fields than columns"),
        ],
    )
    def test_a_wrong_row_is_named_by_its_line(self, tmp_path, row, reason):
        message = self.refused(tmp_path, f"path,label,split\n1.jpg,x,train\n\n{row}\n")
        assert f"line 4: {reason}" in message
        assert "1 of 2 rows" in message

    def test_many_wrong_rows_are_capped(self, tmp_path):
        message = self.refused(tmp_path, "path,label\n" + "".join(f"no{number}.jpg,x\n" for number in range(50)))
        assert "50 of 50 rows" in message
        assert "line 21: " in message
        assert "line 22: " not in message
        assert "... and 30 more" in message

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "no column path and no column label; expected path,label or path,label,split, found nothing"),
            ("path,class\n1.jpg,x\n", "no column label"),
            ("path;label\n1.jpg;x\n", "found path;label"),
            ("path,label,label\n1.jpg,x,y\n", "two columns of one name"),
            ("path,label\n", "lists no pictures"),
        ],
    )
    def test_a_wrong_header_or_no_row_is_refused(self, tmp_path, text, reason):
        assert reason in self.refused(tmp_path, text)

    def test_other_encodings_and_missing_files_are_refused(self, tmp_path):
        path = self.write(tmp_path, "path,label\n1.jpg,Kätzchen\n", encoding="latin-1")
        with pytest.raises(DataError, match="not a CSV file in UTF-8"):
            CsvSource(path).listing()
        with pytest.raises(DataError, match=r"data\.csv=.*lost\.csv: No such file"):
            CsvSource(tmp_path / "lost.csv").listing()

    @pytest.mark.timeout(20)
    def test_a_pipe_is_no_picture(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert "no such file" in self.refused(tmp_path, "path,label\npipe.jpg,x\n")


# two ids or more in each: a single one would not come back as a list
FLOWERS = {
    "setid": {"trnid": [3, 1], "valid": [2, 6], "tstid": [4, 5]},
    "imagelabels": {"labels": [1, 2, 1, 102, 2, 1]},
}


def flowers(root: Path) -> Path:
    paths = [*(f"jpg/image_{number:05d}.jpg" for number in range(1, 7)), "imagelabels.mat", "setid.mat"]
    return fill(root / "flowers-102", *paths).parent


def pets(root: Path) -> Path:
    folder = fill(root / "oxford-iiit-pet", *(f"images/{name}.jpg" for name in ("Abyssinian_1", "great_pyrenees_2")))
    fill(folder, "images/Abyssinian_3.jpg")
    (folder / "annotations").mkdir()
    (folder / "annotations/trainval.txt").write_text("Abyssinian_1 1 1 1\ngreat_pyrenees_2 2 2 1\n")
    (folder / "annotations/test.txt").write_text("Abyssinian_3 1 1 1\n")
    return root


def caltech(root: Path) -> Path:
    folder = root / "caltech101/101_ObjectCategories"
    fill(folder, "accordion/image_0001.jpg", "airplanes/image_0001.jpg", "BACKGROUND_Google/image_0001.jpg")
    fill(folder, "BACKGROUND_Google/tmp", "airplanes/.DS_Store")
    return root


TREES = {"Caltech101": caltech, "Flowers102": flowers, "OxfordIIITPet": pets}


@pytest.fixture
def matlab_files(monkeypatch):
    """Let torchvision read FLOWERS without scipy, and take its files for intact."""
    package, module = ModuleType("scipy"), ModuleType("scipy.io")
    module.loadmat = lambda path, **options: {key: np.array(ids) for key, ids in FLOWERS[Path(path).stem].items()}
    package.io = module
    monkeypatch.setitem(sys.modules, "scipy", package)
    monkeypatch.setitem(sys.modules, "scipy.io", module)
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *arguments: True)


class TestTorchvision:
    def test_caltech_leaves_out_the_background_class(self, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "CALTECH_PICTURES", 2)
        listing = TorchvisionSource("Caltech101", caltech(tmp_path)).listing()
        assert listing.root == tmp_path / "caltech101/101_ObjectCategories"
        assert listing.samples == [
            Sample("accordion/image_0001.jpg", "accordion"),
            Sample("airplanes/image_0001.jpg", "airplanes"),
        ]
        assert listing.notes == []

    def test_a_part_of_caltech_is_noted_where_given_and_refused_where_downloaded(self, tmp_path):
        caltech(tmp_path)
        assert "holds 2 of 8677 pictures" in TorchvisionSource("Caltech101", tmp_path).listing().notes[0]
        with pytest.raises(DownloadError, match=f"2 of 8677 pictures; remove {tmp_path}/caltech101"):
            TorchvisionSource("Caltech101", None, tmp_path).listing()

    def test_pets_have_their_official_splits_and_breed_names(self, tmp_path):
        listing = TorchvisionSource("OxfordIIITPet", pets(tmp_path)).listing()
        assert listing.root == tmp_path / "oxford-iiit-pet"
        assert listing.samples == [
            Sample("images/Abyssinian_1.jpg", "Abyssinian", "train"),
            Sample("images/Abyssinian_3.jpg", "Abyssinian", "test"),
            Sample("images/great_pyrenees_2.jpg", "Great Pyrenees", "train"),
        ]

    def test_a_lost_picture_is_named(self, tmp_path):
        (pets(tmp_path) / "oxford-iiit-pet/images/Abyssinian_3.jpg").unlink()
        with pytest.raises(DataError, match=r"1 of 3 pictures are missing .*images/Abyssinian_3.jpg"):
            TorchvisionSource("OxfordIIITPet", tmp_path).listing()

    def test_an_annotation_that_cannot_be_read_is_an_error_in_plain_words(self, tmp_path):
        (pets(tmp_path) / "oxford-iiit-pet/annotations/trainval.txt").write_text("half a li")
        with pytest.raises(DataError, match="OxfordIIITPet: torchvision: ValueError"):
            TorchvisionSource("OxfordIIITPet", tmp_path).listing()

    @pytest.mark.usefixtures("matlab_files")
    def test_flowers_have_their_official_splits_and_names(self, tmp_path, monkeypatch):
        names = [f"flower {number}" for number in range(102)]
        monkeypatch.setattr("torchvision.datasets.Flowers102.classes", names, raising=False)
        listing = TorchvisionSource("Flowers102", flowers(tmp_path)).listing()
        assert listing.root == tmp_path / "flowers-102"
        assert listing.samples == [
            Sample("jpg/image_00001.jpg", "flower 0", "train"),
            Sample("jpg/image_00002.jpg", "flower 1", "val"),
            Sample("jpg/image_00003.jpg", "flower 0", "train"),
            Sample("jpg/image_00004.jpg", "flower 101", "test"),
            Sample("jpg/image_00005.jpg", "flower 1", "test"),
            Sample("jpg/image_00006.jpg", "flower 0", "val"),
        ]

    @pytest.mark.usefixtures("matlab_files")
    def test_flowers_without_names_are_numbered(self, tmp_path, monkeypatch):
        monkeypatch.delattr("torchvision.datasets.Flowers102.classes", raising=False)
        listing = TorchvisionSource("Flowers102", flowers(tmp_path)).listing()
        assert [sample.label for sample in listing.samples] == ["001", "002", "001", "102", "002", "001"]

    def test_flowers_are_read_from_real_matlab_files(self, tmp_path, monkeypatch):
        io = pytest.importorskip("scipy.io", reason="scipy writes the MATLAB files of this test")
        monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *arguments: True)
        folder = flowers(tmp_path) / "flowers-102"
        for name, content in FLOWERS.items():
            io.savemat(folder / f"{name}.mat", content)
        listing = TorchvisionSource("Flowers102", tmp_path).listing()
        assert [sample.split for sample in listing.samples] == ["train", "val", "train", "test", "test", "val"]

    @pytest.mark.parametrize("call", ["prepare", "listing"])
    def test_flowers_without_scipy_say_what_to_install(self, tmp_path, monkeypatch, call):
        monkeypatch.setitem(sys.modules, "scipy.io", None)
        monkeypatch.setitem(sys.modules, "scipy", None)
        with pytest.raises(ConfigError, match=r'pip install "tlearn\[flowers\]"'):
            getattr(TorchvisionSource("Flowers102", flowers(tmp_path)), call)()

    @pytest.mark.usefixtures("matlab_files")
    @pytest.mark.parametrize("dataset", TREES)
    def test_nothing_is_opened_or_written_where_the_data_are_there_or_the_root_was_given(
        self, tmp_path, monkeypatch, dataset
    ):
        monkeypatch.setattr(f"torchvision.datasets.{dataset}", None)
        TREES[dataset](tmp_path / "there")
        TorchvisionSource(dataset, None, tmp_path / "there").prepare()
        (tmp_path / "given").mkdir()
        source = TorchvisionSource(dataset, tmp_path / "given")
        source.prepare()
        with pytest.raises(DataError, match=rf"{dataset}: not found: .*data\.root={tmp_path}/given must hold"):
            source.listing()
        assert tree(tmp_path / "given") == []

    @pytest.mark.usefixtures("matlab_files")
    @pytest.mark.parametrize("dataset", TREES)
    def test_without_root_torchvision_downloads_into_the_download_root(self, tmp_path, monkeypatch, dataset):
        calls = []

        def download(root: Path, **options: object) -> None:
            calls.append((root, options))
            TREES[dataset](root)

        monkeypatch.setattr(f"torchvision.datasets.{dataset}", download)
        for _ in range(2):
            TorchvisionSource(dataset, None, tmp_path).prepare()
        assert calls == [(tmp_path, {"download": True})]

    @pytest.mark.usefixtures("matlab_files")
    @pytest.mark.parametrize("dataset", TREES)
    @pytest.mark.parametrize("failure", [OSError("no route to host"), RuntimeError("Quota exceeded")])
    def test_a_failed_download_names_addresses_and_places(self, tmp_path, monkeypatch, dataset, failure):
        def download(root: Path, **options: object) -> None:
            raise failure

        monkeypatch.setattr(f"torchvision.datasets.{dataset}", download)
        with pytest.raises(DownloadError) as caught:
            TorchvisionSource(dataset, None, tmp_path, ["https://one.example/1", "https://two.example/2"]).prepare()
        message = str(caught.value)
        assert str(failure) in message
        assert "https://one.example/1, https://two.example/2" in message
        places = {
            "Caltech101": ["caltech101/101_ObjectCategories"],
            "Flowers102": ["flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"],
            "OxfordIIITPet": ["oxford-iiit-pet/images", "oxford-iiit-pet/annotations"],
        }
        assert all(str(tmp_path / place) in message for place in places[dataset])

    def test_offline_nothing_is_asked_of_torchvision(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TLEARN_OFFLINE", "1")
        monkeypatch.setattr("torchvision.datasets.OxfordIIITPet", None)
        with pytest.raises(DownloadError, match="TLEARN_OFFLINE is set"):
            TorchvisionSource("OxfordIIITPet", None, tmp_path, "https://one.example/1").prepare()

    def test_an_unknown_data_set_is_refused(self):
        with pytest.raises(ConfigError, match="CIFAR10 is none of Caltech101, Flowers102, OxfordIIITPet"):
            TorchvisionSource("CIFAR10", None)


@pytest.mark.shared
def test_the_real_pictures_are_listed(shared):
    bees = FolderSource(shared / "data/hymenoptera").listing()
    assert [sum(sample.split == name for sample in bees.samples) for name in ("train", "val", "test")] == [244, 153, 0]
    assert bees.notes == ["train/ants: 1 file ignored: .gif"]
    cats = FolderSource(shared / "data/cat_dog").listing()
    assert [sum(sample.split == name for sample in cats.samples) for name in ("train", "val", "test")] == [800, 0, 300]
    assert {sample.label for sample in cats.samples} == {"cat", "dog"}
