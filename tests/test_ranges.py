"""A range is one: a constructor and the configuration refuse the same values in the same words."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import tlearn
from tests.models.graph.test_pooling import TINY, of_timm
from tlearn.config.valid_values import RULES
from tlearn.data.decode import Decoder
from tlearn.data.sources.base import Sample
from tlearn.data.sources.csv import CsvSource
from tlearn.data.sources.filenames import FilenamesSource
from tlearn.data.sources.folder import FolderSource
from tlearn.data.sources.shapes import ShapesSource
from tlearn.data.split import make_splits
from tlearn.data.transforms import Transform
from tlearn.errors import ConfigError
from tlearn.models.backbones.tiny import SmallBackbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.heads import mlp
from tlearn.models.losses import cross_entropy
from tlearn.models.network import TransferNetwork
from tlearn.ranges import RANGES, either, integer, list_of, number, one_of, optional, require, text
from tlearn.runs.predictions import device_of, predictions_of, results_of
from tlearn.training.full_batch import FullBatchModule
from tlearn.training.last_checkpoint import LastCheckpoint
from tlearn.training.prepare_head import PrepareHead

SAMPLES = [Sample(f"{number}.jpg", "a") for number in range(10)]
SPLIT = [sample._replace(split="test" if number > 7 else "train") for number, sample in enumerate(SAMPLES)]
PREPROCESSING = {"resize": 8, "size": 8, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}


def split_by(fractions: Any) -> object:
    return make_splits(SAMPLES, fractions, 0.2, 0)


def carve(val_fraction: Any) -> object:
    return make_splits(SPLIT, (0.5, 0.25, 0.25), val_fraction, 0)


def full_batch(weight_decays: Any) -> object:
    return FullBatchModule(TransferNetwork(nn.Identity(), nn.Linear(2, 2)), 2, weight_decays=weight_decays)


def transform(name: str) -> Callable[[Any], object]:
    return lambda value: Transform({**PREPROCESSING, name: value})


def draw(split: str) -> Callable[[Any], object]:
    return lambda value: ShapesSource("shapes", None, "nowhere", {"train": 1, "val": 1, "test": 1, split: value})


# Key -> who takes its value
TAKERS: dict[str, list[Callable[[Any], object]]] = {
    "data.max_pixels": [lambda value: Decoder(max_pixels=value)],
    "data.alpha_background": [lambda value: Decoder(alpha_background=value)],
    "data.high_bit_depth": [lambda value: Decoder(high_bit_depth=value)],
    "data.layout": [lambda value: FolderSource("nowhere", layout=value)],
    "data.pattern": [lambda value: FilenamesSource("nowhere", value)],
    "data.unlabelled_test": [lambda value: FolderSource("nowhere", unlabelled_test=value)],
    "data.bit_depth": [lambda value: Decoder(high_bit_depth="scale", bit_depth=value)],
    "data.encoding": [lambda value: CsvSource("nowhere.csv", encoding=value)],
    "topk": [lambda value: next(predictions_of(None, ["a.png"], topk=value))],
    "batch_size": [lambda value: next(results_of(None, ["a.png"], list, list, batch_size=value))],
    "num_workers": [lambda value: next(results_of(None, ["a.png"], list, list, num_workers=value))],
    "device": [device_of],
    "trust": [lambda value: tlearn.load_model("nowhere", trust=value)],
    "data.split.fractions": [split_by],
    "data.split.val_fraction": [carve],
    **{f"data.counts.{split}": [draw(split)] for split in ("train", "val", "test")},
    **{f"transforms.{name}": [transform(name)] for name in (*PREPROCESSING, "fit", "average")},
    "backbone.pooling": [
        lambda value: TorchvisionBackbone("resnet18", None, value),
        lambda value: SmallBackbone(**TINY, pooling=value),
        lambda value: of_timm("test_resnet", value),
    ],
    "head.hidden": [lambda value: mlp(2, 2, hidden=value)],
    "head.dropout": [lambda value: mlp(2, 2, dropout=value)],
    "loss.label_smoothing": [lambda value: cross_entropy(label_smoothing=value)],
    "loss.weight": [lambda value: cross_entropy(weight=value)],
    "module.weight_decays": [full_batch],
    "callbacks.prepare_head.weight_decays": [PrepareHead],
    "callbacks.last.every_seconds": [lambda value: LastCheckpoint(".", value)],
}
WRONG = [
    ("data.max_pixels", 0, "a whole number >= 1"),
    ("data.max_pixels", "all", "a whole number >= 1"),
    ("data.alpha_background", 255, "a list of 3 values"),
    ("data.alpha_background", "red", "a list of 3 values, each a whole number >= 0 and <= 255"),
    ("data.alpha_background", (1, 2), "a list of 3 values"),
    ("data.alpha_background", (1, 2, 256), "a list of 3 values, each a whole number >= 0 and <= 255"),
    ("data.alpha_background", (0.5, 0.5, 0.5), "a list of 3 values, each a whole number >= 0 and <= 255"),
    ("data.high_bit_depth", "clip", "one of error, scale"),
    ("data.layout", "folders", "one of auto, classes, splits, nested"),
    ("data.unlabelled_test", "skip", "one of ignore, error"),
    ("data.pattern", "[a-z]+", "a regular expression with a group (?P<label>...)"),
    ("data.pattern", "(?P<label>[a-z]+", "a regular expression with a group (?P<label>...)"),
    ("data.pattern", 5, "a regular expression with a group (?P<label>...)"),
    ("data.bit_depth", 7, "a whole number >= 8 and <= 16"),
    ("data.bit_depth", 17, "a whole number >= 8 and <= 16"),
    ("data.encoding", "latin-99", "an encoding that Python knows, such as utf-8, cp1252 or cp932"),
    ("data.encoding", "hex", "an encoding that Python knows, such as utf-8, cp1252 or cp932"),
    ("data.split.fractions", [], "a list of 3 values"),
    ("data.split.fractions", [0.5, 0.5], "a list of 3 values"),
    ("data.split.fractions", [1.2, -0.2, 0.0], "a list of 3 values, each a number >= 0 and <= 1"),
    ("data.split.fractions", [math.nan, 0.5, 0.5], "a list of 3 values, each a number >= 0 and <= 1"),
    ("data.split.fractions", [0.5, 0.3, 0.3], "3 values that sum to 1, the first > 0"),
    ("data.split.fractions", [0.0, 0.5, 0.5], "3 values that sum to 1, the first > 0"),
    *(("data.split.val_fraction", value, "a number > 0 and < 1") for value in (0.0, 1.0, -0.1, math.nan)),
    *((f"data.counts.{split}", 0, "a whole number >= 1 and <= 100000") for split in ("train", "val", "test")),
    ("transforms.resize", 7.5, "a whole number >= 1 and <= 16384"),
    ("transforms.size", 0, "a whole number >= 1 and <= 16384"),
    ("transforms.interpolation", "lanczos", "one of nearest, nearest-exact, bilinear, bicubic"),
    ("transforms.mean", [0.5], "a list of 3 values"),
    ("transforms.std", [0.5, 0.5, 0], "a list of 3 values, each a number > 0"),
    ("transforms.fit", "stretch", "one of crop, squash, pad"),
    ("transforms.fit", "resized", "one of crop, squash, pad"),
    ("transforms.average", ["crop", "turn"], "a list of any number of values, each one of crop, flip, squash, pad"),
    ("backbone.pooling", "mean", "one of avg, max, avgmax"),
    ("head.hidden", [8, 0], "a list of any number of values, each a whole number >= 1"),
    ("head.dropout", 1.5, "a number >= 0 and <= 1"),
    ("loss.label_smoothing", 1.5, "a number >= 0 and <= 1"),
    ("loss.weight", [1, -1], "a list of any number of values, each a number >= 0 or null"),
    ("loss.weight", [math.nan], "a list of any number of values, each a number >= 0 or null"),
    ("topk", 0, "a whole number >= 1"),
    ("batch_size", 0, "a whole number >= 1"),
    ("num_workers", -1, "a whole number >= 0 or null"),
    ("device", "gpu", "one of auto, cpu, cuda"),
    ("trust", ["my lab"], "a list of any number of values, each the name of a package, such as mylab"),
    ("callbacks.last.every_seconds", -1, "a number >= 0"),
    ("callbacks.prepare_head.weight_decays", [-1.0], "a list of any number of values, each a number >= 0"),
    ("module.weight_decays", [], "one value or more, from the strongest to the weakest"),
    ("module.weight_decays", [0.1, 1.0], "one value or more, from the strongest to the weakest"),
]


def test_every_shared_range_has_a_taker_and_a_case():
    # The digest of an archive is asked for where it is downloaded.
    assert {*RANGES, *(f"data.counts.{split}" for split in ("train", "val", "test"))} == {*TAKERS, "data.sha256"}
    assert {key for key, _, _ in WRONG} == {*TAKERS}


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_a_constructor_refuses_what_the_configuration_refuses_and_in_its_words(key, value, expected):
    for take in TAKERS[key]:
        with pytest.raises(ConfigError) as caught:
            take(value)
        assert str(caught.value) == f"{key}={value}: expected {expected}"
    with pytest.raises(ConfigError) as caught:
        require(key, value, RULES[key])
    assert str(caught.value).removesuffix(" or null") == f"{key}={value}: expected {expected}".removesuffix(" or null")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (number(0, 1), [0, 1, 0.5], [-1e-9, 1.1, math.nan, math.inf, True, None, "0.5", [0.5]]),
        (number(above=0, below=1), [0.5], [0, 1, 0.0]),
        (number(), [-5, 1e300, 10**400], [math.inf, False]),
        (integer(1, 3), [1, 2, 3], [0, 4, 2.0, True, "2"]),
        (one_of("a", 1), ["a", 1], ["b", True, ["a"], None]),
        (list_of(integer(1), 2), [[1, 2], (1, 2)], [[1], [1, 0], "12", b"12", 12, {1: 2, 2: 3}]),
        (optional(text), [None, "a"], ["", 3]),
        (either(integer(1), one_of("auto")), [3, "auto"], [0, "autos", None]),
        (RANGES["data.sha256"], ["0123abcd", "F" * 64], ["", "f37072f", "not hex digits", "0" * 65, 12345678]),
    ],
)
def test_checks_accept_good_values_and_say_what_others_should_be(check, good, bad):
    assert [check(value) for value in good] == [None] * len(good)
    assert all(check(value) for value in bad)
