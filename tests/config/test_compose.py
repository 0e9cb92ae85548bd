"""The shipped configuration tree: every option composes, holds what it may, and names arguments that exist."""

import inspect
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from tlearn.config import rules
from tlearn.config.comments import read_comments
from tlearn.config.compose import compose
from tlearn.config.declared import keys_of, known_keys
from tlearn.config.options import SWITCHES
from tlearn.config.tree import CONF_DIR, compose_unchecked, plain, settings_of
from tlearn.errors import ConfigError

# What searches is of an extra.
HAS_SWEEPER = find_spec("optuna") is not None
FILES = sorted(path for path in CONF_DIR.rglob("*.yaml") if HAS_SWEEPER or path.parent.name != "sweep")
PROGRAMS = [path.stem for path in sorted(CONF_DIR.glob("*.yaml")) if path.stem != "common"]
# What the user must give where an option asks for it
REQUIRED = {
    "data.root": "pictures",
    "data.csv": "labels.csv",
    "data.pattern": r"(?P<label>[a-z]+)\.\d+",
    "finetune.stages": ["layer4"],
    "run": "outputs/run",
    "images": "pictures",
}
# What a program must be told besides
NEEDS = {"predict": ("run=outputs/run",)}
# Options that are for another program than train; the commands in their comments are tested with it.
OF_OTHERS = {"experiment=imagenet_vgg13"}


def _groups() -> dict[str, list[str]]:
    """Return the overrides that choose each option of each group, and of the backbones by name one of each library."""
    usual = read_comments(CONF_DIR / "train.yaml").groups
    groups: dict[str, list[str]] = {"backbone": ["backbone=resnet18", "backbone=timm/resnet18.a1_in1k"]}
    for path in sorted(CONF_DIR.glob("*/**/*.yaml")):
        group, _, name = path.relative_to(CONF_DIR).with_suffix("").as_posix().partition("/")
        assert group in usual, f"{path} lies in a group that train does not have"
        groups.setdefault(group, []).append(f"{group}={name}")
    for group, options in SWITCHES.items():
        groups[group] += [f"{group}={name}" for name in options]
    if not HAS_SWEEPER:
        groups["sweep"] = []
    groups["experiment"] = [option for option in groups["experiment"] if option not in OF_OTHERS]
    return groups


GROUPS = _groups()
# Each option once, one of every group at a time: composing all of them one by one would take long.
ROUNDS = [
    tuple(filter(None, options))
    for options in zip_longest(*(options for group, options in GROUPS.items() if group != "experiment"))
]
# An experiment sets keys of the options that it chooses itself, which others need not have.
ROUNDS += [(option,) for option in GROUPS["experiment"]]


def filled(node: Any, key: str = "") -> Any:
    """Give what is required where nothing is given yet."""
    if isinstance(node, dict):
        return {name: filled(child, f"{key}.{name}".lstrip(".")) for name, child in node.items()}
    return REQUIRED[key] if node == "???" else node


def unchecked(overrides: Sequence[str], program: str = "train") -> DictConfig:
    """Compose for a run folder, without Hydra's own."""
    config = compose_unchecked(overrides, program)
    del config.hydra
    config.paths.output_dir = "run"
    return config


@cache
def composed(overrides: tuple[str, ...], program: str = "train") -> dict[str, Any]:
    """Compose, fill in what the user must give, and resolve."""
    return plain(OmegaConf.create(filled(OmegaConf.to_container(unchecked(overrides, program)))))


def nodes(config: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part of a configuration that names a target, and its key."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield key, config
        for name, child in config.items():
            yield from nodes(child, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list):
        for child in config:
            yield from nodes(child, key)


def parameters(target: Any) -> set[str]:
    """Name what a target can be given, also through **kwargs of its parents' constructors."""
    found: set[str] = set()
    for one in inspect.getmro(target) if inspect.isclass(target) else (target,):
        signature = inspect.signature(one.__init__ if inspect.isclass(one) else one)
        kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
        found |= {name for name, kind in kinds.items() if kind is not inspect.Parameter.VAR_POSITIONAL}
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
    return found


def test_every_group_of_train_has_options():
    assert GROUPS.keys() == read_comments(CONF_DIR / "train.yaml").groups.keys()
    assert sum(map(len, ROUNDS)) == sum(map(len, GROUPS.values())) > 50


@pytest.mark.parametrize("overrides", ROUNDS, ids=lambda overrides: overrides[0])
def test_every_option_composes_and_holds_what_it_may(overrides):
    rules.check(composed(overrides), known_keys("train"))


def test_a_mistyped_program_is_named():
    with pytest.raises(ConfigError, match=r"^program=evalute: expected .*; did you mean evaluate\?$"):
        compose([], "evalute")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_composes_and_holds_what_it_may(program):
    rules.check(composed(NEEDS.get(program, ()), program), known_keys(program))


COMMANDS = sorted(
    {
        (program, tuple(shlex.split(arguments)))
        for path in FILES
        for program, arguments in re.findall(
            r"python -m tlearn\.(\w+)((?: [\w.@+~]+=(?:'[^']*'|[^\s()']+))*)", path.read_text(encoding="utf-8")
        )
    }
)


def test_every_file_opens_with_a_comment_of_its_own():
    """And so no key takes it for what is said of the key."""
    wrong = [path for path in FILES if not re.match(r"(# .*\n)+(\n|defaults:)", path.read_text(encoding="utf-8"))]
    assert wrong == []


def test_every_option_for_another_program_has_a_command_for_it():
    options = {option for program, arguments in COMMANDS if program != "train" for option in arguments}
    assert options >= OF_OTHERS


def test_every_command_in_a_comment_is_a_valid_one():
    assert len(COMMANDS) > 30
    composed_above = {("train", (option,)) for options in GROUPS.values() for option in options}
    for program, arguments in set(COMMANDS) - composed_above:
        rules.check(composed(arguments, program), known_keys(program))


TARGETS = sorted(
    {
        "tlearn.models.backbones.torchvision.TorchvisionBackbone",
        "tlearn.models.backbones.timm.TimmBackbone",
        *(
            match
            for path in FILES
            for match in re.findall(r"^\W*_target_: *(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        ),
    }
)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_exists(name):
    assert callable(get_object(name))


def test_every_argument_is_a_parameter_of_its_target():
    seen = set()
    for overrides in ROUNDS:
        for key, node in nodes(composed(overrides)):
            seen.add(node["_target_"])
            given = {name for name in node if name not in ("_target_", "_partial_")}
            # WandbLogger hands these to wandb.init.
            given -= {"mode", "settings"} if key == "logger.wandb" else set()
            assert given <= parameters(get_object(node["_target_"])), (key, overrides)
    assert seen == set(TARGETS)


def test_every_argument_that_only_the_run_knows_is_a_parameter_of_its_scheduler():
    asked = {}
    for overrides in ROUNDS:
        scheduler = composed(overrides)["scheduler"]
        if scheduler["from_run"]:
            target = get_object(scheduler["build"]["_target_"])
            asked[target.__name__] = set(scheduler["from_run"])
            assert asked[target.__name__] <= parameters(target)
    assert asked.keys() >= {"OneCycleLR", "CosineAnnealingLR"}


def test_no_checkpoint_has_an_equals_sign_in_its_name():
    from hydra.utils import instantiate

    for node in composed(())["callbacks"].values():
        if node["_target_"].endswith("ModelCheckpoint"):
            name = instantiate(node).format_checkpoint_name({"epoch": 1, "step": 18})
            assert name.endswith(".ckpt")
            assert "=" not in name


def test_the_tree_is_an_absolute_folder():
    assert CONF_DIR.is_absolute()
    assert (CONF_DIR / "train.yaml").is_file()


def test_compose_takes_overrides_and_a_run_folder(tmp_path):
    config = compose(["optimizer.lr=1e-3", "seed=0", "+extra.note=mine"], output_dir=tmp_path / "run")
    assert config.optimizer.lr == 0.001
    assert config.seed == 0
    assert config.extra.note == "mine"
    assert plain(config)["trainer"]["default_root_dir"] == str(tmp_path / "run")


def test_compose_takes_a_regular_expression_without_quotes():
    pattern = r"(?P<label>[a-z]+)\.\d+"
    for given in (pattern, f"'{pattern}'"):
        assert compose(["data=filenames", "data.root=d", f"data.pattern={given}"]).data.pattern == pattern


@pytest.mark.parametrize("name", ["my options", "a=b", "a,b", "it's"])
def test_compose_finds_options_of_a_folder_of_your_own(tmp_path, name):
    folder = tmp_path / name / "optimizer"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults: [adam]\nlr: 5\n", encoding="utf-8")
    config = compose(["optimizer=mine"], config_dir=str(folder.parent))
    assert config.optimizer == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 5, "weight_decay": 0.0}


def test_plain_data_has_no_references_and_no_missing_values():
    resolved = plain(compose(["monitor.metric=val/top1"], output_dir="run"))
    assert type(resolved["trainer"]) is dict
    assert resolved["callbacks"]["early_stopping"]["monitor"] == "val/top1"
    with pytest.raises(MissingMandatoryValue, match=r"data\.root"):
        plain(unchecked(["data=folder"]))


def test_caches_and_data_follow_the_environment(monkeypatch):
    monkeypatch.setenv("TLEARN_CACHE", "/somewhere/cache")
    monkeypatch.setenv("TLEARN_DATA", "/somewhere/data")
    config = compose(["data=hymenoptera"])
    assert config.paths.cache == "/somewhere/cache"
    assert config.data.download_root == "/somewhere/data"
    monkeypatch.delenv("TLEARN_CACHE")
    assert compose().paths.cache == "~/.cache/tlearn"


def test_runs_started_in_the_same_second_get_folders_of_their_own():
    configs = [compose_unchecked() for _ in range(2)]
    folders = [config.hydra.run.dir for config in configs]
    assert len({folder.rpartition("-")[2] for folder in folders}) == 2
    assert folders[0] == configs[0].hydra.run.dir


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["monitor.mode=max"], "monitor.mode=max: val/loss is best at its minimum, so min"),
        (["data.balance=wieghts"], "data.balance=wieghts: expected one of none, sampler, weights"),
        (["+lr=0.5"], "unknown key lr; did you mean optimizer.lr=0.5?"),
        (["backbone=resnet81"], "unknown option backbone=resnet81; did you mean backbone=resnet18"),
        (["data=folder"], "data.root is required"),
        (["head.hidden=["], "cannot read the argument head.hidden=["),
        (["~seed"], "seed is missing: it can be changed, not removed"),
        (["features.views=4"], "features.views=4 needs augmentation"),
        ("seed=1", "overrides='seed=1': expected a list of texts"),
        ({"seed": 1}, "overrides={'seed': 1}: expected a list of texts"),
        ([{"seed": 1}], "{'seed': 1} among the overrides: expected a list of texts"),
        (3, "overrides=3: expected a list of texts"),
        (["-m", "seed=1,2"], "run a sweep as a loop, with one fit for each value"),
        (["hydra.mode=MULTIRUN"], "run a sweep as a loop"),
        (["--config-dir", "."], "give the folder as config_dir="),
        (["--help"], "--help is for the command line"),
    ],
    ids=str,
)
def test_what_the_command_line_refuses_is_refused_in_its_words(overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert message in str(caught.value)


def test_programs_and_folders_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="program=trian: expected train, evaluate, predict, explore, compare"):
        compose([], "trian")
    with pytest.raises(ConfigError, match=r"config_dir=.*none: there is no such folder"):
        compose([], config_dir=tmp_path / "none")


def test_a_composed_configuration_has_the_folder_of_a_new_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = compose(("seed=3",))
    assert config.seed == 3
    assert config.paths.output_dir.startswith(f"{tmp_path}/outputs/train/")
    assert compose(["hydra.run.dir=mine"]).paths.output_dir == str(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_is_composed_inside_another_program_of_hydra(tmp_path):
    (tmp_path / "other.yaml").write_text("a: 1\n", encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose(["seed=3"]).seed == 3
        assert hydra_compose("other").a == 1


@pytest.mark.parametrize("key", ["data.batch_size", "data.split.fractions", "finetune.stages", "head.replace"])
def test_a_value_that_was_removed_is_named_where_it_is_read(key):
    settings = settings_of(compose([f"~{key}"]))
    *nodes, last = key.split(".")
    for name in nodes:
        settings = settings[name]
    assert settings.get(last) is None
    with pytest.raises(ConfigError, match=f"^{key} is missing: it can be changed, not removed$") as error:
        settings[last]
    # Templates and others ask a dictionary for what it may not have.
    assert isinstance(error.value, KeyError)


def test_what_is_built_stays_a_bare_dictionary_for_libraries():
    settings = settings_of(compose())
    assert [type(node) for node in (settings["optimizer"], settings["head"]["build"])] == [dict, dict]


@pytest.mark.parametrize("program", PROGRAMS)
def test_keys_known_without_composing_are_those_of_the_configuration(program):
    config = OmegaConf.to_container(compose_unchecked(program=program), resolve=False)
    assert set(known_keys(program)) == {key for key, _ in keys_of(config) if key.partition(".")[0] != "hydra"}


def test_a_home_folder_in_an_option_file_is_refused_with_what_to_type(tmp_path):
    folder = tmp_path / "run_place"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nhydra: {run: {dir: ~/runs/one}}\n", encoding="utf-8")
    whole = os.path.expanduser("~/runs/one")
    with pytest.raises(ConfigError, match=f"hydra.run.dir=~/runs/one: ~ is .*; give hydra.run.dir={whole}"):
        compose(["+run_place=mine"], config_dir=tmp_path)
    # Where it is not used
    compose(["+run_place=mine"], config_dir=tmp_path, output_dir=tmp_path / "two")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("callbacks=[default,typo]", "unknown option callbacks=typo\noptions of callbacks: default"),
        ("logger=[csv,wandbb]", "unknown option logger=wandbb; did you mean logger=wandb?"),
        ("backbone=[resnet18,vgg16]", "expected one option; a sweep tries several: -m backbone=resnet18,vgg16"),
        ("head=[linear, mlp]", "expected one option; a sweep tries several: -m head=linear,mlp"),
        ("transforms.train={a:1}", "transforms.train={a:1}: expected a list, transforms.train=[...]"),
        ("data.split=[1,2]", "data.split=[1,2]: expected keys below it, data.split.KEY=VALUE"),
    ],
)
def test_several_options_and_values_of_another_kind_are_explained(argument, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose([argument])
