"""What a configuration may hold: every shipped key has a rule, and a wrong value is named before anything starts."""

import copy
import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.config.test_compose import ROUNDS, composed, unchecked
from tlearn.config import rules
from tlearn.config.compose import compose
from tlearn.config.declared import known_keys
from tlearn.config.tree import plain
from tlearn.errors import ConfigError

# Arguments of a target that only its constructor can judge, and places for anything
UNRULED = ("extra", "callbacks.", "logger", "scheduler.from_run", "scheduler.build", "transforms.train")
# References to other keys, whose rules they share
REFERENCES = ("data.source.", "head.build.", "callbacks.checkpoint.mode")


def keys(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key and its value, groups too."""
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")


@cache
def leaves() -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Give every key of every option with its value and the options that hold it."""
    found: dict[str, tuple[Any, tuple[str, ...]]] = {}
    for overrides in reversed(ROUNDS):
        found |= {key: (value, overrides) for key, value in keys(composed(overrides)) if not isinstance(value, dict)}
    return {key: place for key, place in found.items() if not key.startswith(REFERENCES)}


def changed(overrides: tuple[str, ...], key: str, value: Any) -> dict[str, Any]:
    """Give a configuration in which one value is another."""
    config = copy.deepcopy(composed(overrides))
    *groups, last = key.split(".")
    node = config
    for group in groups:
        node = node[group]
    node[last] = value
    return config


def refused(key: str, value: Any) -> bool:
    """Tell whether a value is refused, and by its name."""
    message = None
    try:
        rules.check(changed(leaves()[key][1], key, value), known_keys("train"))
    except ConfigError as error:
        message = str(error)
    assert message is None or message.startswith(f"{key}={value}: expected ")
    return message is not None


def accepted(found: list[str], *junk: Any) -> list[tuple[str, Any]]:
    """List what of the junk passes, which is nothing if every key has a rule."""
    return [(key, value) for key in found for value in junk if not refused(key, value)]


def of_kind(*kinds: type) -> list[str]:
    return sorted(key for key, (value, _) in leaves().items() if type(value) in kinds)


def test_a_number_must_be_a_finite_number_in_its_range():
    numbers = of_kind(int, float)
    assert {"seed", "optimizer.lr", "data.batch_size", "callbacks.early_stopping.patience"} <= set(numbers)
    assert accepted(numbers, "abc", "", math.nan, math.inf, ["x"], {}) == []
    assert accepted(numbers, -7) == [("callbacks.early_stopping.min_delta", -7)]
    assert accepted(numbers, True) == []


def test_a_whole_number_must_be_one():
    whole = of_kind(int)
    assert len(whole) > 15
    assert accepted(whole, 2.5) == []


def test_a_switch_must_be_true_or_false():
    switches = of_kind(bool)
    assert {"finetune.pretrained", "trainer.use_distributed_sampler", "optimizer._partial_"} <= set(switches)
    assert accepted(switches, "abc", "true", -1, 2.5, []) == []


def test_every_other_key_refuses_what_makes_no_sense_there():
    others = [key for key in of_kind(str, list, type(None)) if not key.startswith(UNRULED)]
    assert len(others) > 30
    assert accepted(others, True, math.nan, [{}]) == []


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("data.balance", ["none", "sampler", "weights"]),
        ("data.on_bad_image", ["error", "skip"]),
        ("data.high_bit_depth", ["error", "scale"]),
        ("head.replace", ["classifier", "last"]),
        ("scheduler.interval", ["step", "epoch"]),
        ("finetune.stages", ["all", [], ["layer3", "layer4"]]),
    ],
)
def test_a_choice_must_be_one_of_its_choices(key, choices):
    assert refused(key, "abc")
    assert refused(key, 3)
    assert not any(refused(key, choice) for choice in choices)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("data.num_workers", 0),
        ("data.split.fractions", [0.7, 0.3, 0]),
        ("head.hidden", []),
        ("head.dropout", 0),
        ("optimizer.weight_decay", 0),
        ("loss.weight", [0.5, 2]),
        ("transforms.mean", [0, 0.5, 1.0]),
        ("trainer.devices", "auto"),
        ("trainer.devices", -1),
        ("trainer.devices", [0, 1]),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.precision", 16),
        ("trainer.max_epochs", -1),
        ("trainer.num_sanity_val_steps", -1),
        ("trainer.val_check_interval", 100),
        ("trainer.fast_dev_run", 3),
        ("trainer.gradient_clip_val", 1),
        ("callbacks.checkpoint.save_top_k", -1),
        ("callbacks.early_stopping.min_delta", -0.1),
    ],
)
def test_unusual_values_that_mean_something_are_accepted(key, value):
    assert not refused(key, value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", -1, "a whole number >= 0 and <= 4294967295"),
        ("seed", 2**32, "a whole number >= 0 and <= 4294967295"),
        ("optimizer.lr", 0, "a number > 0"),
        ("data.batch_size", 0, "a whole number >= 1"),
        ("data.split.fractions", [0.5, 0.5], "a list of 3 values"),
        ("data.split.fractions", [0.5, 0.5, 2], "a list of 3 values, each a number >= 0 and <= 1"),
        ("loss.label_smoothing", 1.5, "a number >= 0 and <= 1"),
        ("monitor.mode", "up", "one of auto, min, max"),
        ("resume", True, "a path or null"),
        ("data.root", 2024, "a path (write ./2024 for a file of that name) or null"),
        ("trainer.max_epochs", 0, "a whole number >= 1 or one of -1"),
    ],
)
def test_the_message_names_key_value_and_what_was_expected(key, value, expected):
    with pytest.raises(ConfigError) as caught:
        rules.check(changed(leaves()[key][1], key, value), known_keys("train"))
    assert str(caught.value).startswith(f"{key}={value}: expected ")
    assert expected in str(caught.value)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("_target_"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@cache
def every_key() -> list[str]:
    return sorted({key for key, _ in keys(composed(ROUNDS[0]))})


@settings(deadline=None, max_examples=200)
@given(key=st.deferred(lambda: st.sampled_from(every_key())), junk=JUNK)
@example(key="seed", junk=10**400)
@example(key="optimizer.lr", junk=10**400)
@example(key="trainer.devices", junk=-(10**400))
@example(key="transforms", junk={"train": 3})
@example(key="transforms.train", junk=[{"_target_": 3}, None])
def test_no_value_anywhere_makes_the_check_itself_fail(key, junk):
    message = key
    try:
        rules.check(changed(ROUNDS[0], key, junk), known_keys("train"))
    except ConfigError as error:
        message = str(error)
    assert key.partition(".")[0] in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("extra.note", 1),
        ("extra.deep", {"notes": [1, 2]}),
        ("trainer.limit_train_batches", 2),
        ("optimizer.amsgrad", True),
        ("callbacks.early_stopping", None),
        ("callbacks.mine", {"_target_": "mine.Callback", "every": 3}),
    ],
)
def test_notes_arguments_of_a_target_and_callbacks_of_your_own_are_welcome(key, value):
    rules.check(changed(ROUNDS[0], key, value), known_keys("train"))


@pytest.mark.parametrize("key", ["lr2", "data.bs", "monitor.patience", "finetune.layers", "head.size"])
def test_a_key_that_nothing_reads_is_refused(key):
    with pytest.raises(ConfigError, match=rf"^unknown key {key}\b.*extra\.\)$"):
        rules.check(changed(ROUNDS[0], key, 1), known_keys("train"))


@pytest.mark.parametrize(
    ("node", "meant"),
    [
        ("modul", "module"),
        ("model", "module"),
        ("metric", "metrics.NAME"),
        ("metrics", "metrics.NAME"),
        ("data.sourcee", "data.source"),
        ("data", "data.source"),
        ("datamodule", "data.source"),
        ("data.counts", "data.source"),
        ("network", "backbone"),
        ("backbones", "backbone"),
        ("head", "head.build"),
        ("head.buil", "head.build"),
        ("losses", "loss"),
        ("optimiser", "optimizer"),
        ("schedule", "scheduler"),
        ("transforms", "transforms.train"),
        ("transforms.val", "transforms.train"),
        ("callback", "callbacks.NAME"),
        ("callbacks", "callbacks.NAME"),
        ("logger", "logger.NAME"),
        ("finetune", ""),
        ("features", ""),
        ("monitor", ""),
        ("report", ""),
        ("paths", ""),
        ("data.split", ""),
    ],
)
def test_a_target_where_nothing_is_built_is_refused_with_the_place_that_was_meant(node, meant):
    config = unchecked([f"+{node}._target_=mylab.parts.Thing"])
    words = f"; did you mean {meant}?" if meant else "; own code goes to backbone, data.source, head.build, "
    with pytest.raises(ConfigError) as caught:
        rules.check(plain(config), known_keys("train"))
    message = f"nothing is built at {node}, so {node}._target_=mylab.parts.Thing would be ignored"
    assert str(caught.value).startswith(message + words)


@pytest.mark.parametrize(
    ("program", "given", "refused"),
    [
        ("evaluate", ["run=r"], "optimizer"),
        ("evaluate", ["run=r"], "head.build"),
        ("predict", ["run=r", "images=i"], "trainer"),
        ("explore", [], "callbacks.mine"),
        ("compare", [], "loss"),
    ],
)
def test_a_target_of_another_program_is_refused(program, given, refused):
    config = unchecked([*given, f"+{refused}._target_=mylab.parts.Thing"], program)
    with pytest.raises(ConfigError, match=f"^nothing is built at {refused}, so"):
        rules.check(plain(config), known_keys(program))


@pytest.mark.parametrize(
    ("program", "given"),
    [("predict", ["backbone=vgg13", "images=i"]), ("evaluate", ["run=r", "metrics=default"]), ("explore", [])],
)
def test_a_group_that_is_empty_by_default_is_built_where_it_is_chosen(program, given):
    rules.check(plain(compose(given, program, output_dir=".")), known_keys(program))


@pytest.mark.parametrize("node", ["backbone", "loss", "optimizer", "head.build", "data.source", "trainer.plugins"])
def test_a_target_in_its_place_is_accepted_with_any_argument(node):
    given = [f"++{node}._target_=own.code", f"+{node}.other={{_target_: a.b, c: 1}}"]
    rules.check(plain(unchecked(given)), known_keys("train"))


@pytest.mark.parametrize(
    "key",
    [
        "backbone.more",
        "head.build.more",
        "loss.more",
        "optimizer.more",
        "scheduler.more",
        "module.more",
        "trainer.more",
        "data.source.more",
        "callbacks.early_stopping.more",
        "transforms.train.0.more",
    ],
)
def test_a_key_that_a_target_does_not_take_is_refused_before_anything_is_built(key):
    config = plain(unchecked(["transforms=light", f"+{key}=1"] if "transforms" not in key else ["transforms=light"]))
    if "transforms" in key:
        config["transforms"]["train"][0]["more"] = 1
    with pytest.raises(rules.UnknownKeyError, match=rf"^unknown key {re.escape(key)} "):
        rules.check(config, known_keys("train"))


@pytest.mark.parametrize(
    "key",
    ["backbone._targt_", "optimizer._partail_", "head.build._recursive", "callbacks.mine._tagret_", "metrics.f1._arg_"],
)
def test_a_mistyped_key_of_hydra_is_refused(key):
    with pytest.raises(ConfigError, match=f"^unknown key {key}; did you mean _"):
        rules.check(plain(unchecked([f"+{key}=x"])), known_keys("train"))


@pytest.mark.parametrize(
    ("key", "meant"), [("callbacks.early_stoping", "early_stopping"), ("logger.tensorbord", "tensorboard")]
)
def test_a_callback_or_logger_without_a_target_is_refused(key, meant):
    with pytest.raises(ConfigError, match=rf"^{key} has no _target_; did you mean .*{meant}"):
        rules.check(plain(unchecked([f"+{key}.patience=3"])), known_keys("train"))


@pytest.mark.parametrize("value", ["${head.scale}", "${..scale}", "'x ${head.scale}'", "[1,'${head.scale}']"])
def test_a_key_of_your_own_is_read_where_a_value_refers_to_it(value):
    own = ["head.build._target_=mylab.Cosine", f"+head.build.scale={value}"]
    config = unchecked(["+head.scale=3", *own])
    referred = rules.references(plain(config, resolve=False))
    rules.check(plain(config), known_keys("train"), referred)
    with pytest.raises(ConfigError, match=r"^unknown key head\.scale"):
        rules.check(plain(config), known_keys("train"))
    config = unchecked(["+head.scal=3", "+head.scale=1", *own])
    with pytest.raises(ConfigError, match=r"^unknown key head\.scal "):
        rules.check(plain(config), known_keys("train"), referred)


def test_a_reference_to_a_group_of_ours_opens_no_other_key_of_it():
    config = unchecked(["+data.counts.trian=3"])
    with pytest.raises(ConfigError, match=r"^unknown key data\.counts\.trian"):
        rules.check(plain(config), known_keys("train"), rules.references(plain(config, resolve=False)))


@pytest.mark.parametrize("trust", ["[mylab.heads]", "mylab", "[3]", "['']"])
def test_trust_is_a_list_of_packages(trust):
    with pytest.raises(ConfigError, match=r"^trust=.*: expected a list"):
        rules.check(plain(unchecked([f"trust={trust}", "resume=r"])), known_keys("train"))


def test_trust_without_a_stored_run_is_refused():
    with pytest.raises(ConfigError, match="none is opened here"):
        rules.check(plain(unchecked(["trust=[mylab]"])), known_keys("train"))
    config = unchecked(["trust=[mylab]", "backbone=vgg13", "images=i"], "predict")
    with pytest.raises(ConfigError, match="none is opened here"):
        rules.check(plain(config), known_keys("predict"))
    rules.check(plain(unchecked(["trust=[mylab]", "resume=r"])), known_keys("train"))
    rules.check(plain(unchecked(["trust=[mylab]", "run=r"], "evaluate")), known_keys("evaluate"))


@pytest.mark.parametrize("key", ["seed", "optimizer", "callbacks"])
def test_what_every_run_needs_cannot_be_removed(key):
    config = {name: value for name, value in composed(ROUNDS[0]).items() if name != key}
    with pytest.raises(ConfigError, match=f"^{key} is missing"):
        rules.check(config, known_keys("train"))


@pytest.mark.parametrize("key", ["features.on_write_error", "features.mode", "features.limit_gb", "paths.cache"])
def test_keys_that_are_always_read_cannot_be_removed_either(key):
    config, (group, _, name) = composed(ROUNDS[0]), key.partition(".")
    config = {**config, group: {one: value for one, value in config[group].items() if one != name}}
    with pytest.raises(ConfigError, match=f"^{key} is missing"):
        rules.check(config, known_keys("train"))


@pytest.mark.parametrize("steps", [3, "abc", None, [3], [{"degrees": 15}]])
def test_augmentation_must_be_a_list_of_targets(steps):
    with pytest.raises(ConfigError, match=r"^transforms\.train: expected a list of steps, each with a _target_"):
        rules.check(changed(ROUNDS[0], "transforms.train", steps), known_keys("train"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["monitor.metric=val/f1"],
        ["monitor.metric=test/top1"],
        ["monitor.metric=val/top5", "metrics.top5=null"],
        ["monitor.mode=max"],
        ["finetune.unfreeze_epoch=3"],
        ["finetune=gradual", "finetune.unfreeze_epoch=null"],
    ],
)
def test_values_that_are_wrong_together_are_refused(arguments):
    with pytest.raises(ConfigError):
        compose(arguments)


@pytest.mark.parametrize(
    "arguments",
    [["monitor.metric=val/top1"], ["monitor.metric=val/top1", "monitor.mode=max"], ["finetune=gradual"]],
)
def test_values_that_belong_together_are_accepted(arguments):
    compose(arguments)


@pytest.mark.parametrize(
    ("group", "option", "key"),
    [
        ("scheduler", {"build": {"_target_": "mylab.halving", "_partial_": True}}, "_target_"),
        ("transforms", {"train": [{"_target_": "mylab.Darken"}]}, "resize"),
    ],
)
def test_an_own_option_that_builds_on_nothing_is_told_what_it_begins_with(group, option, key):
    config = plain(compose([], output_dir="."))
    config[group] = option
    with pytest.raises(ConfigError, match=rf"{group}.{key} is missing: .* begins with defaults: \[none, _self_\]"):
        rules.check(config, known_keys("train"))
