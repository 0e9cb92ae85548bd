"""What names of folders and files mean."""

import pytest

from tlearn.data.sources.names import label_pattern, looks_like_split, split_of, splits_of


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAIN training training_set train-images train2017 trainset TrainingData 01_train"),
        ("val", "val valid validation VALID dev eval val_set valid-images valset val2017 dev_set Evaluation_1"),
        ("test", "test Testing holdout hold-out hold_out_set HoldOut test1 test_set testset test-images"),
        (None, "valley invalid testes trains training_wheels express_train trainval train_val seg_train pred cats 0"),
    ],
)
def test_splits_are_known_in_any_usual_spelling_and_only_so(split, names):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_words_that_all_folders_share_do_not_count():
    assert splits_of(["seg_train", "seg_test", "seg_pred"]) == {
        "seg_train": "train",
        "seg_test": "test",
        "seg_pred": None,
    }
    assert splits_of(["express_train", "crash_test"]) == {"express_train": None, "crash_test": None}


@pytest.mark.parametrize(
    ("names", "train"),
    [("trainval test", "trainval"), ("TrainVal Test", "TrainVal"), ("voc_train_val voc_test", "voc_train_val")]
    + [(names, None) for names in ("trainval train test", "trainval val test", "trainvalley test")],
)
def test_train_and_val_in_one_is_train_beside_test_alone(names, train):
    found = splits_of(names.split())
    assert [name for name, split in found.items() if split == "train" and name != "train"] == ([train] if train else [])


def test_folds_and_what_lies_beside_splits_look_like_splits():
    names = ["fold1", "fold_10", "cv-3", "part2", "data_batch_1", "unlabeled", "seg_pred", "PublicTest", "trainval"]
    assert all(map(looks_like_split, names))
    assert not any(map(looks_like_split, ["cat", "valley", "0", "2019", "partridge", "scv", "n01443537"]))


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.JPEG"], r"(?P<label>[a-z]+)\.\d+"),
        (["Cat_0.jpg", "Cat_1.jpg", "dog_0.jpg", "dog_1.jpg"], r"(?P<label>[A-Za-z]+)_\d+"),
        (["Maine_Coon_0.jpg", "Maine_Coon_1.jpg", "pug_0.jpg", "pug_1.jpg"], r"(?P<label>.+)_\d+"),
        (["cat (1).jpg", "cat (2).jpg", "dog (1).jpg", "dog (2).jpg"], r"(?P<label>[a-z]+) \(\d+\)"),
        (["cat1.jpg", "cat2.jpg", "dog1.jpg", "dog2.jpg"], r"(?P<label>[a-z]+)\d+"),
        (["0_frog.png", "1_frog.png", "2_cat.png", "3_cat.png"], r"\d+_(?P<label>[a-z]+)"),
        # no label, one label, a label of each image's own, a camera's names
        (["1.jpg", "2.jpg", "3.jpg", "4.jpg"], None),
        (["cat.1.jpg", "cat.2.jpg"], None),
        (["a.1.jpg", "b.2.jpg", "c.3.jpg", "d.4.jpg"], None),
        (["IMG_1.jpg", "IMG_2.jpg", "DSC_1.jpg", "DSC_2.jpg"], None),
        (["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg", "notes.jpg"], None),
    ],
)
def test_labels_in_file_names_are_found_where_all_have_one(names, pattern):
    assert label_pattern(names) == pattern
