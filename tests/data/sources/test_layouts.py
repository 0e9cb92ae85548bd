"""Layouts of public data sets as their archives unpack, and what each gives: classes, or a refusal with lines."""

from pathlib import Path

import pytest

from tests.conftest import fill
from tests.data.sources.test_trees import lines, typed, usable
from tlearn.data.sources.folder import FolderSource
from tlearn.data.sources.layout import read
from tlearn.data.sources.reading import LayoutError, Reading
from tlearn.data.sources.tree import Folder
from tlearn.errors import DataError


def of(*tops: str) -> list[str]:
    """Name four images in each folder; `train/{a,b}` stands for two folders."""
    folders = []
    for top in tops:
        before, _, inner = top.partition("{")
        folders += [f"{before}{name}" for name in inner.rstrip("}").split(",")] if inner else [top]
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(4)]


def named(*folders: str) -> list[str]:
    return [f"{folder}{label}.{number}.jpg" for folder in folders for label in ("cat", "dog") for number in range(4)]


READ = {
    "training and validation": (of("training/{a,b}", "validation/{a,b}"), "a b", "train val"),
    "doubled": (of("training_set/training_set/{a,b}", "test_set/test_set/{a,b}"), "a b", "test train"),
    "brain tumours": (of("Training/{glioma,no_tumor}", "Testing/{glioma,no_tumor}"), "glioma no_tumor", "test train"),
    "imagenet": (of("train2017/{n01,n02}", "val2017/{n01,n02}"), "n01 n02", "train val"),
    "sign language": (of("asl_train/asl_train/{A,B}", "asl_test/asl_test"), "A B", "train"),
    "doubled root": ([*of("set/train/{a,b}", "set/val/{a,b}"), "__MACOSX/a/._0.jpg"], "a b", "train val"),
    "chest x-rays": (of("train/{N,P}", "test/{N,P}", "val/{N,P}", "chest_xray/train/{N,P}"), "N P", "test train val"),
    "roboflow": ([*of("train/{a,b}", "valid/{a,b}", "test/{a,b}"), "README.roboflow.txt"], "a b", "test train val"),
    "unlabelled test": (of("train/{a,b}", "test"), "a b", "train"),
    "unlabelled test in a folder": (of("train/{a,b}", "val/{a,b}", "test/unknown"), "a b", "train val"),
    "unlabelled test1": (of("train/{a,b}", "valid/{a,b}", "test1"), "a b", "train val"),
    "flowers": ([*of("daisy", "rose"), "LICENSE.txt"], "daisy rose", ""),
    "pets of one's own": (["Cat/Thumbs.db", *of("Cat", "Dog")], "Cat Dog", ""),
    "a folder in each class": (of("n01/images", "n02/images"), "n01 n02", ""),
    "digits": (of("0", "1", "9"), "0 1 9", ""),
    "masks": (of("with_mask", "without_mask"), "with_mask without_mask", ""),
    "places": (of("train_station", "bus_station", "airport"), "airport bus_station train_station", ""),
    "breeds": ([f"{name}_{n}.jpg" for name in ("c/siam", "c/tabby", "d/pug", "d/lab") for n in "12"], "c d", ""),
    "voc": (of("VOC_trainval/{a,b}", "VOC_test/{a,b}"), "a b", "test train"),
    "of systems": (["a/@eaDir/0.jpg", *of("a", "b", "@eaDir", "$RECYCLE.BIN", "System Volume Information")], "a b", ""),
    "after a crash": (["lost+found/x/core", *of("train/{a,b}", "val/{a,b}", "val/@eaDir")], "a b", "train val"),
    "vehicles": (of("train", "bus", "car"), "bus car train", ""),
}  # fmt: skip

REFUSED = {
    "dogs against cats": (
        named("train/") + of("test1"),
        [r"data=filenames data.pattern='(?P<label>[a-z]+)\.\d+' data.root=ROOT/train", "data.layout=classes"],
    ),
    "dogs against cats, doubled": (
        named("train/train/") + of("test1/test1"),
        [r"data=filenames data.pattern='(?P<label>[a-z]+)\.\d+' data.root=ROOT/train/train", "data.layout=classes"],
    ),
    "flat": (named(""), [r"data=filenames data.pattern='(?P<label>[a-z]+)\.\d+' data.root=ROOT"]),
    "flat splits": (
        named("train/", "val/") + of("test"),
        [
            r"data=filenames data.pattern='^(?!(train|val)/)|^(?P<split>train|val)/(?:.*/)?(?P<label>[a-z]+)\.\d+' "
            "data.root=ROOT",
            "data.layout=classes",
        ],
    ),
    "flat splits that share a word": (
        named("my_train/", "my_val/"),
        [
            r"data=filenames data.pattern='^(?!(my_train|my_val)/)|^(?P<split>my_train|my_val)/"
            r"(?:.*/)?(?P<label>[a-z]+)\.\d+' data.root=ROOT",
            "data.layout=classes",
        ],
    ),
    "flat splits of unknown names": (
        named("entrainement/", "essai/"),
        [
            r"data=filenames data.pattern='(?P<label>[a-z]+)\.\d+' data.root=ROOT/entrainement",
            r"data=filenames data.pattern='(?P<label>[a-z]+)\.\d+' data.root=ROOT/essai",
            "data.layout=classes",
        ],
    ),
    "flat splits of unknown names, one doubled and one with a stray image": (
        [*named("entrainement/entrainement/", "essai/"), "essai/sheet.jpg"],
        [
            r"data=filenames data.pattern='(?P<label>[a-z]+)\.\d+' data.root=ROOT/entrainement/entrainement",
            "data.layout=classes",
        ],
    ),
    "a train and a test folder of unknown names": (
        [*named("entrainement/entrainement/"), *of("final")],
        [
            r"data=filenames data.pattern='(?P<label>[a-z]+)\.\d+' data.root=ROOT/entrainement/entrainement",
            "data.layout=classes",
        ],
    ),
    "oxford pets": (
        [f"{top}/{name}_{n}.jpg" for top in ("images", "annotations/trimaps") for name in ("Ab", "a_b") for n in "12"],
        ["data=filenames data.pattern='(?P<label>.+)_\\d+' data.root=ROOT/images", "data.layout=classes"],
    ),
    "intel": (
        of("seg_train/seg_train/{ice,sea}", "seg_test/seg_test/{ice,sea}", "seg_pred/seg_pred"),
        ["data.layout=splits", "data.layout=classes"],
    ),
    "fruits": (
        of("fruits/Training/{fig,nut}", "fruits/Test/{fig,nut}", "fruits/test-multiple_fruits"),
        ["data.layout=splits data.root=ROOT/fruits", "data.layout=classes data.root=ROOT/fruits"],
    ),
    "plant village": (
        of("color/{fig,nut}", "grayscale/{fig,nut}", "segmented/{fig,nut}"),
        ["data.layout=nested", "data.root=ROOT/color", "data.layout=classes"],
    ),
    "folds": (of("fold1/{a,b}", "fold2/{a,b}", "fold10/{a,b}"), ["data.layout=nested", "data.layout=classes"]),
    "groups of classes": (of("bird/{hen,owl}", "mammal/{cat,dog}"), ["data.layout=nested", "data.layout=classes"]),
    "one class a site": (of("siteA/cat", "siteB/dog"), ["data.layout=nested", "data.layout=classes"]),
    "one class a year": (of("2019/{0}", "2020/{0}", "2021/{1}"), ["data.layout=nested", "data.layout=classes"]),
    "groups in splits": (
        of("train/bird/{hen,owl}", "train/mammal/{cat,dog}", "val/bird/{hen,owl}"),
        ["data.layout=splits", "data.layout=nested"],
    ),
    "a folder around the classes of splits": (of("train/images/{a,b}", "val/images/{a,b}"), ["data.layout=nested"]),
    "food": (["meta/classes.txt", *of("images/{pie,soup}")], ["data.root=ROOT/images"]),
    "birds": (["parts/parts.txt", "images.txt", *of("images/{001.Albatross,002.Auklet}")], ["data.root=ROOT/images"]),
    "stanford dogs": (["Annotation/n1-pug/n1_1", *of("Images/{n1-pug,n2-lab}")], ["data.root=ROOT/Images"]),
    "tiny imagenet": (
        ["val/val_annotations.txt", *of("train/n01/images", "train/n02/images", "val/images", "test/images")],
        ["data.root=ROOT/train", "data.layout=classes"],
    ),
    "caltech": (of("256_ObjectCategories/{001.ak47,002.flag}"), ["data.root=ROOT/256_ObjectCategories"]),
    "eurosat": (of("2750/{Forest,River}"), ["data.root=ROOT/2750"]),
    "an odd name": (of("archive (1), new/{a,b}"), ["\"data.root='ROOT/archive (1), new'\""]),
    "pet images": (["readme[1].txt", *of("PetImages/{Cat,Dog}")], ["data.root=ROOT/PetImages"]),
    "state farm": (["driver_imgs_list.csv", *of("imgs/train/{c0,c1}", "imgs/test")], ["data.root=ROOT/imgs"]),
    "classes beside test": (
        of("cat", "dog", "test"),
        ["data=filenames data.pattern='^test/|^(?P<label>[^/]+)/' data.root=ROOT", "data.layout=classes"],
    ),
    "splits in each class": (
        of("cat/{test,train}", "dog/{test,train}"),
        [
            r"data=filenames data.pattern='^(?P<label>[^/]+)/(?P<split>test|train)/' data.root=ROOT",
            "data.layout=classes",
        ],
    ),
    "splits in each class, spelled and deeper": (
        of("pets/cat/{my_training,my_val.2}", "pets/dog/{my_training,my_test/images}"),
        [
            r"data=filenames data.pattern='^(?P<label>[^/]+)/(?P<split>my_test|my_training|my_val\.2)/' "
            "data.root=ROOT/pets",
            "data.layout=classes data.root=ROOT/pets",
        ],
    ),
    "splits in one class only": (of("cat/{train,test}", "dog"), ["data.layout=classes"]),
    "splits in each class and images beside": (
        [*of("cat/{train,val}", "dog/{train,val}"), "dog/more.jpg"],
        ["data.layout=classes"],
    ),
    "splits and others in each class": (
        of("cat/{set_train,set_val,set_extra}", "dog/{set_train,set_val}"),
        ["data.layout=classes"],
    ),
    "a class without train": (of("cat/{train,val}", "dog/{val}"), ["data.layout=classes"]),
    "splits without classes": (of("part1", "part2"), ["data.layout=classes"]),
    "labelled and not": (
        of("labeled/{a,b}", "unlabeled"),
        ["data.root=ROOT/labeled", "data.layout=nested", "data.layout=classes"],
    ),
    "splits in names of classes": (
        of("big cat_train", "dog_train", "dog_test"),
        [
            r"data=filenames data.pattern='^(?P<label>[^/]+?)[\W_]+(?P<split>test|train)/' data.root=ROOT",
            "data.layout=classes",
        ],
    ),
    "names of classes behind splits": (
        of("Train - cat", "Train - dog", "Validation - dog"),
        [
            r"data=filenames data.pattern='^(?P<split>Train|Validation)[\W_]+(?P<label>[^/]+)/' data.root=ROOT",
            "data.layout=classes",
        ],
    ),
    "a class that no train has": (of("train_cat", "val_cat", "val_dog"), ["data.layout=classes"]),
    "sports": (of("training", "running", "walking"), ["data.layout=classes"]),
    "two folders for train": (
        of("train1/{a,b}", "train2/{a,b}", "test/{a,b}"),
        ["data.root=ROOT/train1", "data.root=ROOT/train2", "data.layout=classes"],
    ),
    "a class that train lacks": (of("train/{a,b}", "val/{a,c}"), ["data.root=ROOT/train", "data.layout=classes"]),
    "stray images in groups": (
        [*of("x/{a,b}", "y/{a,c}"), "x/stray.jpg", "y/stray.jpg"],
        ["data.layout=nested", "data.root=ROOT/x", "data.layout=classes"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_has_one_reading_is_read(tmp_path, name):
    files, classes, splits = READ[name]
    listing = FolderSource(fill(tmp_path / "set", *files)).listing()
    assert {sample.label for sample in listing.samples} == set(classes.split())
    assert {sample.split for sample in listing.samples} == (set(splits.split()) or {None})
    usable(listing)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_several_is_refused_and_each_line_works(tmp_path, name):
    files, expected = REFUSED[name]
    root = fill(tmp_path / "set", *files)
    with pytest.raises(DataError) as caught:
        FolderSource(root).listing()
    told = lines(str(caught.value))
    # the likeliest last
    assert [line.replace(str(root), "ROOT") for line in reversed(told)] == expected
    for line in told:
        usable(typed(line, root))


def test_a_table_beside_images_without_labels_is_named(tmp_path):
    root = fill(tmp_path, "labels.csv", "notes.txt", *of("train", "test"))
    (root / "labels.csv").write_text("path,label\n0.jpg,cat\n1.jpg,dog\n")
    with pytest.raises(DataError) as caught:
        FolderSource(root).listing()
    classes, table = lines(str(caught.value))
    assert (classes, table) == ("data.layout=classes", f"data=csv data.csv={root}/labels.csv data.root={root}/train")
    assert {sample.label for sample in typed(table, root).samples} == {"cat", "dog"}


def test_a_line_names_a_folder_that_looks_like_a_number_as_text(tmp_path, monkeypatch):
    monkeypatch.chdir(fill(tmp_path, *of("2750/{Forest,River}")))
    with pytest.raises(DataError) as caught:
        FolderSource(".").listing()
    [line] = lines(str(caught.value))
    assert line == "\"data.root='2750'\""
    assert len(typed(line, tmp_path).samples) == 8


def test_a_reading_of_other_names_is_said(tmp_path):
    root = fill(tmp_path, *of("training_set/training_set/{a,b}", "validation/{a,b}"), "training_set/stray.jpg")
    assert FolderSource(root).listing().notes == [
        "read as train: training_set/training_set/, val: validation/",
        "ignored 1 image in no class folder",
    ]


class TestUnlabelledTest:
    def test_it_is_left_alone_and_the_line_that_classifies_it_is_said(self, tmp_path):
        root = fill(tmp_path / "my set", *of("train/{a,b}", "test"))
        [note] = FolderSource(root).listing().notes
        assert note.startswith("test/: 4 images without classes left alone")
        assert note.endswith(f"python -m tlearn.predict run=RUN_FOLDER \"images='{root / 'test'}'\"")

    def test_it_is_refused_where_that_is_asked_for(self, tmp_path):
        root = fill(tmp_path, *of("train/{a,b}", "test"))
        with pytest.raises(DataError, match="test/ holds 4 images and no classes") as caught:
            FolderSource(root, unlabelled_test="error").listing()
        assert lines(str(caught.value)) == ["data.unlabelled_test=ignore"]


class TestChosenLayouts:
    def test_classes_are_the_folders_whatever_their_names(self, tmp_path):
        fill(tmp_path, *of("train/{a,b}", "val/{a,b}"))
        assert {sample.label for sample in FolderSource(tmp_path, layout="classes").listing().samples} == {
            "train",
            "val",
        }

    def test_splits_leave_other_folders_alone_and_say_so(self, tmp_path):
        listing = FolderSource(
            fill(tmp_path, *of("training/{a,b}", "eval/{a,b}", "more/{a,b}")), layout="splits"
        ).listing()
        assert {sample.split for sample in listing.samples} == {"train", "val"}
        assert "ignored folders beside the splits: more" in listing.notes

    def test_nested_classes_of_one_name_are_one_class_and_strays_are_counted(self, tmp_path):
        fill(tmp_path, *of("x/{a,b}", "y/deep/{a,c}"), "x/stray.jpg", "stray.jpg", "x/a/.hidden.jpg")
        listing = FolderSource(tmp_path, layout="nested").listing()
        assert {sample.label for sample in listing.samples} == {"a", "b", "c"}
        assert len(listing.samples) == 16
        assert listing.notes == ["ignored 2 images in no class folder", "ignored 1 hidden entry"]

    @pytest.mark.parametrize("layout", ["splits", "nested"])
    def test_a_layout_that_is_not_there_is_refused(self, tmp_path, layout):
        with pytest.raises(DataError):
            FolderSource(fill(tmp_path, "1.jpg", "2.jpg"), layout=layout).listing()


def test_a_layout_is_read_from_the_listing_alone():
    images = Folder(images=("1.jpg", "2.jpg"))
    classes = Folder(folders={"a": images, "b": images})
    assert read(Folder(folders={"dev": classes, "train": classes})) == Reading({"val": "dev", "train": "train"})
    with pytest.raises(LayoutError, match="fold1/, fold2/ look like splits or folds"):
        read(Folder(folders={"fold1": classes, "fold2": classes}))


def test_an_unreadable_folder_beside_the_splits_is_no_obstacle(tmp_path, obedient):
    root: Path = fill(tmp_path, *of("train/{a,b}", "val/{a,b}", "private"))
    (root / "private").chmod(0)
    assert FolderSource(root).listing().notes == ["ignored folders beside the splits: private"]
    (root / "private").chmod(0o700)
