"""torchvision's data sets: splits, class names, downloads, and what users are told."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.conftest import fill, tree
from tlearn.data.sources import torchvision
from tlearn.data.sources.base import Sample
from tlearn.data.sources.torchvision import TorchvisionSource
from tlearn.errors import ConfigError, DataError, DownloadError

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
        monkeypatch.setattr(torchvision, "CALTECH_IMAGES", 2)
        listing = TorchvisionSource("Caltech101", caltech(tmp_path)).listing()
        assert listing.root == tmp_path / "caltech101/101_ObjectCategories"
        assert listing.samples == [
            Sample("accordion/image_0001.jpg", "accordion"),
            Sample("airplanes/image_0001.jpg", "airplanes"),
        ]
        assert listing.notes == []

    def test_a_part_of_caltech_is_noted_where_given_and_refused_where_downloaded(self, tmp_path):
        caltech(tmp_path)
        assert "holds 2 of 8677 images" in TorchvisionSource("Caltech101", tmp_path).listing().notes[0]
        with pytest.raises(DownloadError, match=f"2 of 8677 images; remove {tmp_path}/caltech101"):
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
        with pytest.raises(DataError, match=r"1 of 3 images are missing .*images/Abyssinian_3.jpg"):
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
        with pytest.raises(ConfigError, match="=CIFAR10: expected one of Caltech101, Flowers102, OxfordIIITPet"):
            TorchvisionSource("CIFAR10", None)
