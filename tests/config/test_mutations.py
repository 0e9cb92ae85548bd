"""Mutated arguments: whatever is typed for a key, what refuses it says so in one line, and soon."""

import random
import signal

import pytest
import torch

from tests.config.test_compose import composed
from tests.config.test_rules import keys
from tests.small_runs import build_without_images
from tlearn.config.compose import compose
from tlearn.config.messages import explain
from tlearn.errors import TlearnError

VALUES = (
    *("null", "true", "x", "''", "[]", "[1,2]", "[x]", "{}", "{a: 1}", "..", "../../x", "1e38", "1e300", "-1", "0"),
    *("1", "1.5", "4294967296", "99999999999999999999", "nan", "inf", "'1'", "${seed}", "${nothing}", "???"),
)
# One run of each kind that was a trace or a wait without an end
KNOWN = (
    *("finetune=[1,2]", "head=[1,2]", "paths=1", "~loss._target_", "backbone.preprocessing=1", "backbone.arguments=1"),
    *("data.counts.test=4294967296", "transforms.resize=99999999"),
    *("trainer.accumulate_grad_batches=99999999999999999999", "callbacks.last.every_seconds=x"),
    *("~finetune.later_stages", "~trainer.check_val_every_n_epoch", "+backbone.preprocessing.resize.more=1"),
    *("callbacks.checkpoint.filename=1", "callbacks.checkpoint.filename=../../x", "callbacks.checkpoint.dirpath=1"),
)


@pytest.fixture(autouse=True)
def soon():
    """End a test that hangs; nothing is measured here."""

    def late(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def answer(overrides: list[str], folder) -> str | None:
    """Compose and build what needs no images; return what was refused with, or None."""
    try:
        config = compose(["backbone=tiny", "trainer=cpu", "logger=csv", *overrides], output_dir=folder)
        build_without_images(config, folder)
    except TlearnError as error:
        return str(error)
    except Exception as error:
        status, message = explain(error)
        if message is None or status == 1:
            raise AssertionError(overrides) from error
        return message
    return None


@pytest.mark.parametrize("override", KNOWN)
def test_what_was_a_trace_is_a_line(tmp_path, override):
    told = answer([override], tmp_path)
    assert told
    assert len(told.splitlines()) < 8


def test_any_value_of_any_key_is_taken_or_refused_in_words(tmp_path):
    draw = random.Random(0)
    known = [key for key, _ in keys(composed(())) if not key.startswith(("hydra", "extra"))]
    for _ in range(25):
        key = draw.choice(known)
        override = draw.choice([f"{key}={draw.choice(VALUES)}", f"~{key}", f"+{key}.more={draw.choice(VALUES)}"])
        answer([override], tmp_path)


def test_torch_says_in_these_words_that_a_number_is_too_large():
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(1).add_(torch.ones(1), alpha=1e39)
    assert explain(caught.value) == (2, "a number is too large for float32: lower optimizer.lr, or what else is given")
