"""The split: complete, disjoint, as exact as whole pictures allow, stable when pictures are added."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tlearn.data.sources.base import Sample
from tlearn.data.sources.folder import FolderSource
from tlearn.data.split import (
    NO_TEST,
    TEST_AS_VAL,
    class_list,
    make_splits,
)
from tlearn.errors import ConfigError, DataError

HALVES = [0.5, 0.25, 0.25]


def pictures(label: str, count: int, split: str | None = None) -> list[Sample]:
    return [Sample(f"{split or 'all'}/{label}/{number}.jpg", label, split) for number in range(count)]


def places(samples: list[Sample], fractions: list[float], seed: int) -> dict[str, str]:
    """Give each path its split; one class of two hundred makes sure that val is never empty."""
    splits, _ = make_splits([*samples, *pictures("many", 200)], fractions, 0.2, seed)
    return {sample.path: name for name, chosen in splits.items() for sample in chosen if sample.label != "many"}


@st.composite
def thirds(draw: st.DrawFn) -> list[float]:
    """Draw fractions for train, val and test with a val that two hundred pictures can serve."""
    val = draw(st.floats(0.02, 0.9))
    train = draw(st.floats(0.01, 1 - val))
    return [train, val, max(0.0, 1 - val - train)]


class TestProperties:
    @given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=6), fractions=thirds(), seed=st.integers())
    @settings(deadline=None, max_examples=200)
    def test_every_picture_is_in_exactly_one_split_and_keeps_its_label(self, counts, fractions, seed):
        samples = [sample for number, count in enumerate(counts) for sample in pictures(f"c{number}", count)]
        samples += pictures("many", 200)
        splits, _ = make_splits(samples, fractions, 0.2, seed)
        assert sorted((s.path, s.label) for chosen in splits.values() for s in chosen) == sorted(s[:2] for s in samples)
        for name, chosen in splits.items():
            assert {sample.split for sample in chosen} == {name}
            assert chosen == sorted(chosen)

    @given(count=st.integers(1, 20), fractions=thirds(), seed=st.integers())
    @settings(deadline=None, max_examples=200)
    def test_each_class_is_divided_within_one_picture_of_the_fractions(self, count, fractions, seed):
        found = Counter(places(pictures("c", count), fractions, seed).values())
        if fractions[0] * count < 1:
            assert found["train"] == 1
        else:
            for name, fraction in zip(("train", "val", "test"), fractions, strict=True):
                assert abs(found[name] - fraction * count) < 1 + 1e-9

    # here rounding by largest remainders would take a picture from test and move two
    @example(count=10, fractions=[6 / 14, 6 / 14, 2 / 14], seed=0)
    @given(count=st.integers(1, 20), fractions=thirds(), seed=st.integers())
    @settings(deadline=None, max_examples=200)
    def test_a_picture_more_moves_at_most_one_other_across_each_boundary(self, count, fractions, seed):
        before = places(pictures("c", count), fractions, seed)
        after = places(pictures("c", count + 1), fractions, seed)
        rank = {"train": 0, "val": 1, "test": 2}
        for boundary in (1, 2):
            crossed = [path for path in before if (rank[before[path]] < boundary) != (rank[after[path]] < boundary)]
            assert len(crossed) <= 1

    @given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=4), fractions=thirds(), seed=st.integers())
    @settings(deadline=None, max_examples=50)
    def test_a_class_does_not_depend_on_the_other_classes(self, counts, fractions, seed):
        classes = [pictures(f"c{number}", count) for number, count in enumerate(counts)]
        together = places([sample for members in classes for sample in members], fractions, seed)
        apart: dict[str, str] = {}
        for members in classes:
            apart |= places(members, fractions, seed)
        assert together == apart

    @given(data=st.data(), seed=st.integers())
    @settings(deadline=None, max_examples=50)
    def test_the_order_of_the_input_does_not_matter(self, data, seed):
        samples = pictures("a", 12) + pictures("b", 7)
        shuffled = data.draw(st.permutations(samples))
        assert make_splits(shuffled, HALVES, 0.2, seed) == make_splits(samples, HALVES, 0.2, seed)

    @given(count=st.integers(1, 20), val_fraction=st.floats(0.02, 0.98), seed=st.integers())
    @settings(deadline=None, max_examples=100)
    def test_val_carved_from_train_is_as_exact_and_leaves_test_alone(self, count, val_fraction, seed):
        test = pictures("c", 3, "test")
        train = pictures("c", count, "train") + pictures("many", 200, "train")
        splits, _ = make_splits(train + test, HALVES, val_fraction, seed)
        assert splits["test"] == test
        found = sum(sample.label == "c" for sample in splits["val"])
        assert abs(found - val_fraction * count) < 1 + 1e-9
        assert found < count
        assert len(splits["train"]) + len(splits["val"]) == count + 200


class TestMakeSplits:
    def test_whole_fractions_come_out_exactly(self):
        splits, notes = make_splits(pictures("a", 40) + pictures("b", 20), HALVES, 0.2, 0)
        assert {name: Counter(sample.label for sample in chosen) for name, chosen in splits.items()} == {
            "train": {"a": 20, "b": 10},
            "val": {"a": 10, "b": 5},
            "test": {"a": 10, "b": 5},
        }
        assert list(splits) == ["train", "val", "test"]
        assert notes == []

    def test_the_seed_decides_and_zero_is_a_seed(self):
        splits = [make_splits(pictures("a", 40), HALVES, 0.2, seed)[0]["val"] for seed in (0, 0, 1)]
        assert splits[0] == splits[1]
        assert splits[0] != splits[2]

    def test_the_split_of_a_seed_never_changes(self):
        splits, _ = make_splits(pictures("a", 8), HALVES, 0.2, 42)
        numbers = {name: [int(Path(sample.path).stem) for sample in chosen] for name, chosen in splits.items()}
        assert numbers == {"train": [0, 4, 6, 7], "val": [2, 3], "test": [1, 5]}

    def test_without_a_test_fraction_there_is_no_test_split(self):
        splits, notes = make_splits(pictures("a", 10), [0.8, 0.2, 0], 0.5, 0)
        assert {name: len(chosen) for name, chosen in splits.items()} == {"train": 8, "val": 2}
        assert notes == [NO_TEST]

    def test_classes_of_one_picture_train(self):
        splits, _ = make_splits(pictures("a", 8) + pictures("b", 1) + pictures("c", 1), [0.1, 0.8, 0.1], 0.2, 0)
        assert [sample.label for sample in splits["train"]] == ["a", "b", "c"]

    def test_train_and_val_of_the_layout_stay_and_the_missing_test_is_noted(self):
        samples = pictures("a", 3, "train") + pictures("a", 5, "val")
        splits, notes = make_splits(samples, HALVES, 0.2, 0)
        assert splits == {"train": samples[:3], "val": samples[3:]}
        assert notes == [NO_TEST]

    def test_three_given_splits_stay(self):
        samples = pictures("a", 3, "train") + pictures("a", 1, "val") + pictures("b", 2, "test")
        splits, notes = make_splits(samples, HALVES, 0.2, 0)
        assert splits == {"train": samples[:3], "val": samples[3:4], "test": samples[4:]}
        assert notes == []

    def test_train_alone_gives_val_a_part(self):
        splits, notes = make_splits(pictures("a", 10, "train"), HALVES, 0.2, 0)
        assert {name: len(chosen) for name, chosen in splits.items()} == {"train": 8, "val": 2}
        assert notes == [NO_TEST]

    def test_the_test_pictures_can_be_val_and_all_of_train_then_trains(self):
        samples = pictures("a", 9, "train") + pictures("b", 5, "train") + pictures("a", 3, "test")
        splits, notes = make_splits(samples, HALVES, 0.2, 0, test_as_val=True)
        assert splits == {
            "train": sorted(samples[:14]),
            "val": [sample._replace(split="val") for sample in samples[14:]],
        }
        assert notes == [TEST_AS_VAL]

    @pytest.mark.parametrize("given", [[None], ["train"], ["train", "val"], ["train", "val", "test"], ["train", "dev"]])
    def test_test_pictures_cannot_be_val_where_there_are_none_or_val_has_its_own(self, given):
        samples = [sample for split in given for sample in pictures("a", 4, split)]
        with pytest.raises(ConfigError, match=r"data\.split\.test_as_val=true needs .*: set it to false") as caught:
            make_splits(samples, HALVES, 0.2, 0, test_as_val=True)
        assert all((name or "no split") in str(caught.value) for name in given)

    @pytest.mark.parametrize(
        ("samples", "fractions", "advice"),
        [
            (pictures("a", 1) + pictures("b", 1), HALVES, "no class has two, and the first is for train; add images"),
            (pictures("a", 1, "train") + pictures("b", 1, "train"), HALVES, "no class has two"),
            (pictures("a", 9), [0.8, 0.0, 0.2], "the 7 in train .* raise data.split.fractions.1., or add images"),
            (pictures("a", 2, "train") + pictures("a", 2, "test"), HALVES, "the 2 in .* raise data.split.val_fraction"),
            ([], HALVES, "the 0 in train"),
        ],
    )
    def test_no_picture_for_val_is_an_error_that_says_what_to_do(self, samples, fractions, advice):
        with pytest.raises(DataError, match=f"no image is left for val: {advice}"):
            make_splits(samples, fractions, 0.1, 0)

    @pytest.mark.parametrize("given", [["val", "test"], ["train", "val", None], ["train", "dev"]])
    def test_splits_without_train_or_only_for_some_are_refused(self, given):
        samples = [sample for number, split in enumerate(given) for sample in pictures(f"c{number}", 2, split)]
        with pytest.raises(DataError, match="images are in the splits"):
            make_splits(samples, HALVES, 0.2, 0)

    def test_file_names_that_are_no_text_can_be_split(self):
        samples = [Sample(f"a/\udcff{number}.jpg", "a") for number in range(4)]
        splits, _ = make_splits(samples, HALVES, 0.2, 0)
        assert sum(map(len, splits.values())) == 4


class TestClassList:
    def test_classes_are_those_of_train_in_order(self):
        splits = {"train": pictures("b", 2) + pictures("a", 2), "val": pictures("a", 1) + pictures("b", 1)}
        assert class_list(splits) == (["a", "b"], [])

    def test_allowed_empty_classes_are_among_them(self):
        splits = {"train": pictures("c", 2) + pictures("a", 2), "val": pictures("a", 1) + pictures("c", 1)}
        assert class_list(splits, ["b"]) == (["a", "b", "c"], ["warning: few images: none in train for class b"])

    @pytest.mark.parametrize("name", ["val", "test"])
    def test_a_class_unknown_to_train_is_refused_with_both_lists(self, name):
        splits = {"train": pictures("a", 1) + pictures("b", 1), name: pictures("b", 1) + pictures("zz", 1)}
        with pytest.raises(DataError) as caught:
            class_list(splits)
        assert str(caught.value) == (
            f"{name} has classes that train does not have: zz\nclasses of train: a, b\nclasses of {name}: b, zz"
        )

    def test_long_lists_of_classes_are_capped(self):
        splits = {
            "train": [sample for number in range(99) for sample in pictures(f"a{number}", 1)],
            "val": [sample for number in range(99) for sample in pictures(f"b{number}", 1)],
        }
        with pytest.raises(DataError, match=r"\.\.\. and 79 more") as caught:
            class_list(splits)
        assert len(str(caught.value)) < 600

    def test_classes_of_one_image_and_those_that_val_or_test_lack_are_named_in_one_line(self):
        splits = {"train": pictures("a", 1) + pictures("b", 2) + pictures("c", 1), "val": pictures("b", 1)}
        assert class_list({**splits, "test": pictures("a", 1) + pictures("b", 1)})[1] == [
            "warning: few images: one in train for 2 classes a, c; none in val, hence no metrics there, for "
            "2 classes a, c; none in test, hence no metrics there, for class c"
        ]

    def test_many_classes_of_one_image_are_counted(self):
        train = [sample for number in range(99) for sample in pictures(f"a{number:02}", 1)]
        [note] = class_list({"train": train, "val": train})[1]
        assert note.startswith("warning: few images: one in train for 99 classes a00, a01, ")
        assert note.endswith("a09, ... and 89 more")

    @pytest.mark.parametrize("empty", [[], ["b"]])
    def test_a_single_class_is_refused(self, empty):
        with pytest.raises(DataError, match="only one class found, a, and a classifier needs two: add images"):
            class_list({"train": pictures("a", 3), "val": pictures("a", 1)}, empty)


@pytest.mark.shared
def test_the_real_pictures_are_split(shared):
    splits, notes = make_splits(FolderSource(shared / "data/hymenoptera").listing().samples, HALVES, 0.2, 42)
    assert {name: len(chosen) for name, chosen in splits.items()} == {"train": 244, "val": 153}
    assert notes == [NO_TEST]
    splits, notes = make_splits(FolderSource(shared / "data/cat_dog").listing().samples, HALVES, 0.2, 42)
    assert {name: Counter(sample.label for sample in chosen) for name, chosen in splits.items()} == {
        "train": {"cat": 320, "dog": 320},
        "val": {"cat": 80, "dog": 80},
        "test": {"cat": 150, "dog": 150},
    }
    assert class_list(splits) == (["cat", "dog"], [])
