"""What a resume is told holds for the next one, and what names a run beside its folder."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.small_runs import overrides, program, write_weights
from tlearn.config.compose import compose
from tlearn.config.relaunch import restored_arguments, resume_command, resumed_run
from tlearn.config.stored_code import check_stored_code
from tlearn.config.stored_run import check_resume
from tlearn.errors import CheckpointError, ConfigError, quoted


@pytest.fixture(autouse=True)
def _keep_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stopped(tmp_path):
    """Give a function that writes what Hydra leaves of a run."""

    def write(*arguments: str) -> Path:
        folder = tmp_path / "run"
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(list(arguments)), folder / ".hydra" / "overrides.yaml")
        runtime = {"cwd": str(tmp_path), "config_sources": []}
        OmegaConf.save({"hydra": {"runtime": runtime}}, folder / ".hydra" / "hydra.yaml")
        return folder

    return write


@pytest.mark.parametrize(
    ("stored", "given", "expected"),
    [
        (["seed=3", "head=mlp"], ["seed=4"], ["head=mlp", "seed=4"]),
        (["+extra.note=1"], ["extra.note=2"], ["+extra.note=1", "extra.note=2"]),
        (["+extra.note=1", "extra.note=2"], ["extra.note=3"], ["+extra.note=1", "extra.note=3"]),
        (["+extra.note=1", "extra.note=2"], ["~extra.note"], ["+extra.note=1", "extra.note=2", "~extra.note"]),
        (["+extra.note=1", "~extra.note"], ["+extra.note=4"], ["+extra.note=4"]),
        (["+extra.note=1", "~extra.note"], ["~extra.note"], ["+extra.note=1", "~extra.note"]),
        (["callbacks.early_stopping=null"], ["callbacks.early_stopping.patience=3"], ["callbacks.early_stopping.pa"]),
        (["~callbacks.early_stopping"], ["callbacks.early_stopping.patience=3"], ["callbacks.early_stopping.pa"]),
        (["callbacks.early_stopping.patience=3"], ["callbacks.early_stopping=null"], ["callbacks.ea", "callbacks.ea"]),
        (["logger=tensorboard", "logger.tensorboard.version=v"], ["logger=csv"], ["logger=csv"]),
        (["trainer=cpu", "trainer.max_epochs=2"], ["trainer=ddp_cpu"], ["trainer.max_epochs=2", "trainer=ddp_cpu"]),
    ],
    ids=str,
)
def test_given_overrides_win_and_the_whole_can_be_given_again(stopped, stored, given, expected):
    run = stopped(*stored)
    merged = restored_arguments([f"resume={run}", *given])[:-3]
    assert len(merged) == len(expected)
    assert all(one.startswith(begin) for one, begin in zip(merged, expected, strict=True))
    compose(merged)
    # As further processes do, whichever of both is stored by then
    assert restored_arguments([*merged, f"resume={run}"])[:-3] == merged
    stopped(*merged)
    assert restored_arguments([*merged, f"resume={run}"])[:-3] == merged
    assert restored_arguments([f"resume={run}"])[:-3] == merged


def test_paths_given_beside_resume_are_of_here(stopped, tmp_path, monkeypatch):
    run = stopped("data=folder", "data.root=pictures")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    restored = restored_arguments([f"resume={run}", "data.root='my [new] ones'"])
    assert compose(restored[:-2]).data.root == str(tmp_path / "elsewhere" / "my [new] ones")
    assert compose(restored_arguments([f"resume={run}"])[:-2]).data.root == str(tmp_path / "pictures")
    # A stranger's folder could hold modules that every further process would import, and a git configuration.
    assert Path.cwd() == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    "place",
    [
        "callbacks.checkpoint.dirpath=/tmp/x",
        "callbacks.checkpoint={dirpath: /tmp/x}",
        "logger.tensorboard.save_dir=/tmp/x",
        "trainer.default_root_dir=/tmp/x",
        "paths.output_dir=/tmp/x",
        "paths={output_dir: /tmp/x}",
        "++callbacks.checkpoint.filename=../../x",
    ],
)
def test_a_place_to_write_to_must_be_given_again(stopped, place):
    run = stopped("seed=3", place)
    with pytest.raises(ConfigError, match="must be given again"):
        restored_arguments([f"resume={run}"])
    assert place in restored_arguments([f"resume={run}", place])


HIDDEN = [
    ["+extra.n=decode", "+extra.g=get", """+callbacks.evil='${oc.${extra.n}:"{_tar${extra.g}_: torch.hub.load}"}'"""],
    ["+extra.n=decode", "+extra.g=get", """head.build='${oc.${extra.n}:"{_tar${extra.g}_: torch.load, f: x}"}'"""],
    ["+extra.n=decode", "+extra.g=get", """+logger.x='${oc.${extra.n}:"{_tar${extra.g}_: tlearn.download.fetch}"}'"""],
]


@pytest.mark.parametrize("stored", HIDDEN, ids=["callback", "head", "logger"])
def test_code_that_a_stored_run_hides_is_refused_unless_it_is_typed(stopped, tmp_path, stored):
    assert not [one for one in stored if "_target_" in one]
    done = program("train", f"resume={stopped(*stored)}", cwd=tmp_path)
    assert done.returncode == CheckpointError.exit_status, done.stderr
    assert "names code that no option of tlearn does (" in done.stderr


def test_code_that_is_typed_again_or_stands_in_a_folder_of_options_given_again_counts(tmp_path):
    config = {"resume": "run", "a": [{"_target_": "mylab.heads.Cosine"}], "b": {"_target_": "torch.optim.SGD"}}
    with pytest.raises(CheckpointError, match=r"\(mylab\.heads\.Cosine\)"):
        check_stored_code(config, ["+x=mylab.heads.Cosines"], None)
    check_stored_code(config, ["+head.build={_target_:mylab.heads.Cosine}"], None)
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "cosine.yaml").write_text("build:\n  _target_: mylab.heads.Cosine\n")
    check_stored_code(config, [], str(tmp_path))


@pytest.mark.parametrize("backbone", ["regnet_y_400mf", "timm/resnet10t", "tiny"])
def test_no_option_of_tlearn_is_foreign(backbone):
    config = compose([f"backbone={backbone}", "data=shapes", "scheduler=onecycle", "metrics=full", "head=mlp"])
    check_stored_code(OmegaConf.to_container(config), [], None)


@pytest.mark.parametrize("content", ["seed: [1", "- 1", "x: \x01", "a: ${b"])
def test_a_stored_configuration_that_is_damaged_is_named(stopped, content):
    run = stopped("seed=3")
    (run / ".hydra" / "config.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"\.hydra/config\.yaml cannot be read"):
        check_resume({}, run)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    assert str(run) in resume_command(run)


def test_trust_is_never_taken_from_a_run(stopped):
    assert "trust=[mine]" not in restored_arguments([f"resume={stopped('seed=3', 'trust=[mine]')}"])


def test_own_code_that_a_resume_removes_need_not_be_given_again(stopped):
    mine = "+callbacks.mine={_target_:mylab.Mine}"
    assert restored_arguments([f"resume={stopped(mine)}", "~callbacks.mine"])[:2] == [mine, "~callbacks.mine"]
    assert restored_arguments([f"resume={stopped(mine, '~callbacks.mine')}"])[:2] == [mine, "~callbacks.mine"]
    for stored, given in (
        (["~callbacks.mine", mine], []),
        ([mine, "~callbacks.mine", f"+{mine}"], []),
        ([mine, "~callbacks.mine"], ["callbacks.mine.size=3"]),
    ):
        with pytest.raises(ConfigError, match="must be given again"):
            restored_arguments([f"resume={stopped(*stored)}", *given])


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "model/model.json", "metrics.json", "model", ".hydra"])
def test_a_file_of_a_run_stands_for_it(stopped, name):
    run = stopped("seed=3")
    path = run / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix in (".ckpt", ".json"):
        path.touch()
    else:
        path.mkdir(exist_ok=True)
    assert restored_arguments([f"resume={os.path.relpath(path)}"])[1] == f"resume='{run}'"


def test_another_checkpoint_than_the_last_is_refused_with_what_goes_on(stopped):
    run = stopped("seed=3")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "epoch003-step000012.ckpt").touch()
    with pytest.raises(ConfigError, match=rf"last checkpoint alone, with resume={run}$"):
        restored_arguments(["resume=run/checkpoints/epoch003-step000012.ckpt"])
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        restored_arguments(["resume=run/checkpoints/missing.ckpt"])


@pytest.mark.slow
def test_what_a_resume_was_told_holds_for_the_next(tmp_path, folder_data):
    folder = tmp_path / "run"
    stored = OmegaConf.load

    def train(*arguments: str) -> str:
        done = program("train", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def last() -> int:
        return json.loads((folder / "metrics.json").read_text())["epoch/last"] + 1

    first = overrides(folder_data, write_weights(tmp_path / "w.pth"), "callbacks.early_stopping=null", "logger=csv")
    train(*first, f"hydra.run.dir='{folder}'")
    said = train("resume=run", "trainer.max_epochs=2", "logger=tensorboard")
    assert f"{folder} goes on after epoch 1" in said
    assert "trainer.max_epochs: 1 -> 2" in said
    assert last() == 2
    train("resume=run/checkpoints/last.ckpt", "trainer.max_epochs=3", "callbacks.early_stopping.patience=9")
    said = train("resume=run")
    assert " -> " not in said
    assert last() == 3
    hidden = folder / ".hydra"
    config = stored(hidden / "config.yaml")
    assert (config.trainer.max_epochs, config.callbacks.early_stopping.patience, config.resume) == (3, 9, None)
    assert "tensorboard" in config.logger
    told = list(stored(hidden / "overrides.yaml"))
    assert told.count("trainer.max_epochs=3") == 1
    assert compose(told).trainer.max_epochs == 3
    assert list(stored(hidden / "started" / "overrides.yaml")) == first
    assert stored(hidden / "started" / "config.yaml").trainer.max_epochs == 1
    # What is refused is not kept.
    refused = program("train", "resume=run", "trainer.max_epochs=1", cwd=tmp_path)
    assert refused.returncode == ConfigError.exit_status
    assert refused.stderr == ("tlearn: error: trainer.max_epochs=1: the run has trained for 3 epochs; give 3 or more\n")
    assert stored(hidden / "overrides.yaml") == told


@pytest.mark.parametrize("name", ["a b", "it's", "back\\slash", "back\\", "back\\'s", "${seed}"])
def test_a_folder_of_any_name_is_resumed(tmp_path, name):
    assert resumed_run([f"resume={quoted(tmp_path / name)}"]) == tmp_path / name
