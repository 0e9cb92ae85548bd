"""Options without a file: backbones by name, switches, and where a user can choose them."""

from itertools import product
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException

from tests.config.test_command import start  # noqa: F401 - a fixture
from tlearn.config.comments import read_comments
from tlearn.config.compose import compose
from tlearn.config.composing import _PLUGINS, of_composing
from tlearn.config.options import SWITCHES, TORCHVISION, option
from tlearn.config.tree import CONF_DIR, compose_unchecked, plain
from tlearn.errors import ConfigError

TV = "tlearn.models.backbones.torchvision.TorchvisionBackbone"
TIMM = "tlearn.models.backbones.timm.TimmBackbone"
# In a folder of the user's own
FILES = {
    "experiment/mine.yaml": "# @package _global_\ndefaults: [override /backbone: vit_b_16, override /loss: mine]\n",
    "experiment/timms.yaml": "# @package _global_\ndefaults:\n  - override /backbone: timm/resnet18.a1_in1k\n",
    "backbone/resnet18.yaml": "_target_: mine.Backbone\ndepth: 18\n",
    "features/off.yaml": "mode: mine\n",
    "loss/mine.yaml": "kind: mine\n",
    "backbone/more.yaml": "defaults: [regnet_y_400mf, _self_]\nweights: other.pth\n",
}


@pytest.fixture
def own(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path)


def test_the_names_are_those_that_torchvision_lists():
    import torchvision

    assert list(TORCHVISION) == sorted(torchvision.models.list_models(module=torchvision.models))


def test_every_name_of_torchvision_is_a_backbone():
    for name in TORCHVISION:
        assert option(f"backbone/{name}") == {"_target_": TV, "name": name, "weights": "DEFAULT", "pooling": "avg"}


@pytest.mark.parametrize(
    ("option", "target", "name"),
    [
        ("regnet_y_400mf", TV, "regnet_y_400mf"),
        ("timm/resnet18", TIMM, "resnet18"),
        ("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", TIMM, "vit_base_patch16_224.augreg2_in21k_ft_in1k"),
    ],
)
@pytest.mark.parametrize("program", ["train", "predict"])
def test_a_backbone_is_chosen_by_its_name_alone(option, target, name, program):
    backbone = compose_unchecked([f"backbone={option}"], program).backbone
    assert backbone == {"_target_": target, "name": name, "weights": "DEFAULT", "pooling": "avg"}


def test_an_experiment_and_a_folder_of_your_own_choose_them_too(own):
    mine = compose_unchecked(["experiment=mine"], config_dir=own)
    assert (mine.backbone.name, mine.loss.kind) == ("vit_b_16", "mine")
    assert (
        compose_unchecked(["experiment=mine", "backbone=timm/resnet10t"], config_dir=own).backbone.name == "resnet10t"
    )
    assert compose_unchecked(["experiment=timms"], config_dir=own).backbone.name == "resnet18.a1_in1k"
    assert compose_unchecked(["backbone=more"], config_dir=own).backbone == {
        "_target_": TV,
        "name": "regnet_y_400mf",
        "weights": "other.pth",
        "pooling": "avg",
    }


def test_a_file_of_your_own_wins_over_a_name_and_is_taken_as_it_is(own, recwarn):
    assert compose_unchecked(["backbone=resnet18"], config_dir=own).backbone == {
        "_target_": "mine.Backbone",
        "depth": 18,
    }
    assert compose_unchecked(["features=off"], config_dir=own).features == {"mode": "mine"}
    assert compose_unchecked(["backbone=resnet18"]).backbone.name == "resnet18"
    assert [str(warning.message) for warning in recwarn] == []


def test_timm_needs_a_name():
    for wrong in ("timm", "timm/"):
        with pytest.raises(Exception, match="Could not find"):
            compose_unchecked([f"backbone={wrong}"])


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in SWITCHES for option in SWITCHES[group]])
def test_a_switch_changes_what_it_says_and_nothing_else(group, option):
    usual = plain(compose(output_dir="run"))
    changed = plain(compose([f"{group}={option}"], output_dir="run"))
    if group == "report":
        assert changed.pop("report") == {"write": False}
        del usual["report"]
    else:
        [key] = {"features": ["mode"], "trainer": ["accelerator"]}[group]
        assert changed[group].pop(key) == option
        del usual[group][key]
    assert changed == usual


def test_no_switch_hides_a_file_or_is_hidden_by_one():
    for group, options in SWITCHES.items():
        assert {path.stem for path in (CONF_DIR / group).glob("*.yaml")} & set(options) == set()


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ([], "min"),
        (["monitor.metric=val/top1"], "max"),
        (["monitor.metric=val/top1", "monitor.mode=max"], "max"),
        (["experiment=shapes_scratch"], "max"),
    ],
)
def test_callbacks_and_schedule_follow_the_direction_of_the_metric(arguments, mode):
    config = plain(compose([*arguments, "scheduler=plateau"], output_dir="run"))
    assert config["callbacks"]["checkpoint"]["mode"] == mode
    assert config["callbacks"]["early_stopping"]["mode"] == mode
    assert config["scheduler"]["build"]["mode"] == mode


def test_a_direction_against_the_metric_is_refused():
    with pytest.raises(ConfigError, match=r"monitor\.mode=max: val/loss is best at its minimum, so min"):
        compose(["monitor.mode=max"])


def test_comments_of_a_file_belong_to_their_keys(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "# What it is.\n# more of it\ndefaults:\n  - base\n  - _self_\n  # which one\n  - group: option\n\n"
        "# first line\n# second line\nkey: 1\nnode:\n  # below\n  inner: 2\nplain: 3  # why\nitems:\n"
        "  # of none\n  - a: 1\n",
        encoding="utf-8",
    )
    found = read_comments(tmp_path / "a.yaml")
    assert found.header == ["What it is.", "more of it"]
    assert (found.groups, found.parents) == ({"group": "which one"}, ["base"])
    assert found.keys == {"key": "first line", "node.inner": "below"}


# Of each group the first, wherever it is chosen
_CHOSEN = {path.rpartition("/")[0]: path for path in sorted(_PLUGINS, reverse=True)}.values()


@pytest.mark.parametrize(
    ("path", "place"),
    [
        *((path, "typed") for path in sorted(_PLUGINS)),
        *product(_CHOSEN, ("an experiment", "an option of its own", "a default of one")),
    ],
)
def test_a_plugin_that_is_not_installed_is_named_with_its_package(start, monkeypatch, path, place):  # noqa: F811
    package = _PLUGINS[path]
    group, _, name = path.rpartition("/")
    Plugins.instance()
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"][group.partition("/")[2]], f"{name}.yaml", raising=False)
    files = {
        "an experiment": ("experiment/mine.yaml", f"# @package _global_\ndefaults: [override /{group}: {name}]\n"),
        "an option of its own": (f"{group}/mine.yaml", f"defaults: [{name}, _self_]\n"),
        "a default of one": ("experiment/mine.yaml", "# @package _global_\ndefaults: [/extra/deep: mine]\n"),
    }
    if place in files:
        file, text = files[place]
        (own := Path("own") / file).parent.mkdir(parents=True)
        own.write_text(text, encoding="utf-8")
        deep = Path("own/extra/deep/mine.yaml")
        deep.parent.mkdir(parents=True)
        deep.write_text(f"# @package _global_\ndefaults: [override /{group}: {name}]\n", encoding="utf-8")
    chosen = f"{group}=mine" if place == "an option of its own" else "experiment=mine"
    typed = [path.replace(f"/{name}", f"={name}")] if place == "typed" else ["--config-dir", "own", chosen]
    for flags in ([], ["-m"]):
        ended = start(*flags, *typed, "seed=1")
        assert ended.status == 2
        told = f"tlearn: error: {group}={name} is of a package that is not installed: pip install {package}\n"
        assert ended.err == told


def test_an_experiment_of_ones_own_has_the_last_word_on_what_all_programs_have(tmp_path):
    (tmp_path / "experiment").mkdir()
    settings = "{quiet: true, extra: {a: 1}, hydra: {sweep: {dir: swept}}}"
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{settings}\n", encoding="utf-8")
    config = compose_unchecked(["experiment=mine"], config_dir=tmp_path)
    assert (config.quiet, config.extra, config.hydra.sweep.dir) == (True, {"a": 1}, "swept")


def test_hydra_1_4_is_named_where_it_overrides_no_model_of_timm():
    told = "Invalid Defaults List override '/backbone/timm: resnet10t'.\nNo earlier Group Default for 'backbone/timm'"
    status, line = of_composing(ConfigCompositionException(f"In 'experiment/mine': {told}"), None)
    assert status == 2
    assert line.endswith("leave it out there, and type backbone=timm/resnet10t")
