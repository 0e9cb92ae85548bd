"""Runs in order of a metric, with seeds taken together, and how their settings and metrics are written."""

import math
from itertools import product

import pytest

from tlearn.runs.ranking import (
    Entry,
    as_precise_as,
    entry_names,
    four_digits,
    metric_words,
    number_ranges,
    ranked,
    setting_text,
    settings_words,
    short_names,
)


def entries(*runs):
    return [Entry(str(number), settings, {"val/top1": value}) for number, (settings, value) in enumerate(runs)]


def test_runs_that_differ_only_in_their_seed_are_one_row_with_mean_and_spread():
    runs = [
        ({"head": head, "seed": seed}, base + seed / 10) for head, base in (("a", 0.1), ("b", 0.3)) for seed in (1, 3)
    ]
    first, second = ranked(entries(*runs), "val/top1")
    assert (first.settings, second.settings) == ({"head": "b"}, {"head": "a"})
    assert [entry.name for entry in first.entries] == ["3", "2"]
    assert first.mean("val/top1") == pytest.approx(0.5)
    # the sample standard deviation of 0.4 and 0.6
    assert first.spread("val/top1") == pytest.approx(math.sqrt(0.02))
    assert first.text("val/top1") == "0.5000 ± 0.1414"
    assert first.words("val/top1") == "head=b: val top-1 0.5000 ± 0.1414 (2 seeds)"


def test_the_mean_decides_and_not_the_luckiest_seed():
    runs = [
        ({"head": "lucky", "seed": 1}, 0.9),
        ({"head": "lucky", "seed": 2}, 0.1),
        ({"head": "even", "seed": 1}, 0.6),
    ]
    assert [group.settings["head"] for group in ranked(entries(*runs), "val/top1")] == ["even", "lucky"]


def test_the_same_seed_once_more_does_not_count_as_another():
    groups = ranked(entries(({"seed": 1}, 0.5), ({"seed": 1}, 0.5), ({"seed": 2}, 0.7)), "val/top1")
    assert [[entry.name for entry in group.entries] for group in groups] == [["2", "0"], ["1"]]
    assert groups[1].spread("val/top1") is None
    assert groups[1].text("val/top1") == "0.5000"


def test_losses_rank_from_the_lowest_and_what_is_no_number_comes_last():
    runs = [Entry(str(n), {"n": n}, {"val/loss": v}) for n, v in enumerate([2.0, math.nan, 1.0, math.inf])]
    groups = ranked([*runs, Entry("4", {"n": 4}, {})], "val/loss")
    assert [group.entries[0].name for group in groups] == ["2", "0", "1", "3", "4"]
    assert [group.is_finite("val/loss") for group in groups] == [True, True, False, False, False]
    assert groups[4].text("val/loss") == ""


def test_one_seed_that_is_not_a_number_has_no_spread():
    [group] = ranked(entries(({"seed": 1}, 0.5), ({"seed": 2}, math.nan)), "val/top1")
    assert math.isnan(group.mean("val/top1"))
    assert group.spread("val/top1") is None


def test_without_a_metric_the_order_stays():
    assert [group.entries[0].name for group in ranked(entries(({"a": 1}, 0.1), ({"a": 2}, 0.2)), None)] == ["0", "1"]


def test_of_many_settings_a_row_shows_those_unlike_most():
    usual = {f"s{number}": 0 for number in range(8)}
    runs = [({**usual, f"s{number}": 1}, number / 10) for number in range(8)]
    groups = ranked(entries(*runs), "val/top1")
    assert [group.settings for group in groups] == [{f"s{number}": 1} for number in reversed(range(8))]
    # and keeps the others with the runs
    assert groups[0].entries[0].settings == {**usual, "s7": 1}


def test_settings_are_named_by_the_end_of_their_keys_as_far_as_that_is_clear():
    names = ["head", "optimizer.lr", "a.size", "b.size", "x.y.z", "w.y.z", "backbone.name", "loss._target_"]
    assert short_names(names) == {
        "head": "head",
        "optimizer.lr": "lr",
        "a.size": "a.size",
        "b.size": "b.size",
        "x.y.z": "x.y.z",
        "w.y.z": "w.y.z",
        "backbone.name": "backbone.name",
        "loss._target_": "loss._target_",
    }


def test_short_names_are_never_two_of_a_kind():
    keys = [".".join(parts) for length in (1, 2, 3) for parts in product("ab", repeat=length)]
    short = short_names(keys)
    assert len(set(short.values())) == len(keys)
    assert all(key.endswith(name) for key, name in short.items())


def test_settings_are_written_in_a_line():
    settings = {"head": "mlp", "optimizer.lr": 0.00123456789, "debug": "null", "missing": None}
    assert settings_words(settings) == "head=mlp, lr=0.001235, debug=null"
    assert settings_words(settings, brief=True) == "mlp, lr=0.001235, debug=null"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.1, "0.1"),
        ("1e-3", "1e-3"),
        ("0.00010007903854383786", "0.0001001"),
        (True, "True"),
        ("[64,128]", "[64,128]"),
        ("/home/someone/projects/plants/pictures", "/home/someo…nts/pictures"),
    ],
)
def test_a_setting_is_short(value, text):
    assert setting_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.9000"),
        (0.00012345, "0.0001234"),
        (12.3456, "12.35"),
        (1234.5678, "1235"),
        (9999.7, "10,000"),
        (5, "5"),
        (263626, "263,626"),
        (23456.7, "23,457"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_a_metric_has_four_digits(value, text):
    assert four_digits(value) == text


def test_a_spread_has_the_decimals_of_its_mean():
    assert as_precise_as("0.9120", 0.0041234) == "0.0041"
    assert as_precise_as("12.35", 0.5) == "0.50"
    assert as_precise_as("1.000e-07", 2e-8) == "2.0e-08"


def test_metrics_have_names_that_can_be_read():
    names = ("val/top1", "test/loss", "time/fit_s", "val/ece_scaled", "test/tta/top5")
    assert [*map(metric_words, names)] == ["val top-1", "test loss", "fit (s)", "val ece scaled", "test tta top-5"]


def test_numbers_in_a_row_are_a_range_and_long_names_are_counted():
    assert number_ranges([5, 0, 2, 1, 9, 8]) == "0-2, 5, 8-9"
    runs = [Entry(f"2026-11-20/10-12-13-4711-ab12cd-{n}", {}, {}) for n in range(3)]
    assert entry_names(runs) == "2026-11-20/10-…3-4711-ab12cd-0 +2"
    assert entry_names(runs[:1]) == "2026-11-20/10-…3-4711-ab12cd-0"
    assert entry_names([Entry("12", {}, {}), Entry("3", {}, {})]) == "3, 12"
