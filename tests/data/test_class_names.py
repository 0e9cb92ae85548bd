"""Classes that may not be meant: warnings that name them."""

import pytest

from tlearn.data.class_names import doubtful_names


@pytest.mark.parametrize(
    "names",
    [
        ["Cat", "cat"],
        ["0", "0.0"],
        ["01", "1"],
        ["golden retriever", "golden_retriever"],
        ["tabby  cat", "tabby cat"],
        ["cat\u200b", "cat"],
        ["\ufeffcat", "cat"],
        ["K\u00e4fer", "Ka\u0308fer"],
    ],
)
def test_spellings_of_one_class_are_named(names):
    [warning] = doubtful_names(["dog", *names])
    assert warning == f"warning: these classes may be one each: {names[0]!r} and {names[1]!r}"


@pytest.mark.parametrize("name", ["nan", "NaN", "NA", "null", "None", "<NA>", "#N/A"])
def test_what_programs_write_for_a_missing_label_is_named(name):
    assert doubtful_names(["cat", "dog", name]) == [f"warning: is this a class, or a missing label? {name!r}"]


def test_ordinary_classes_need_no_warning():
    assert doubtful_names(["cat", "dog", "cats", "1", "2", "-1", "wire-haired", "n"]) == []
