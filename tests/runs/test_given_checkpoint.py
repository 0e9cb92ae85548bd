"""Files and folders of a run that are given in its place, and checkpoints whose weights its model does not have."""

import json
import shutil

import pytest
import torch

import tlearn
from tests.conftest import COLOURS, draw
from tests.runs.test_comparison import write_run
from tests.small_runs import program, run, write_weights
from tlearn.errors import CheckpointError, ConfigError
from tlearn.runs.comparison import read_runs
from tlearn.runs.evaluated import recorded_images
from tlearn.runs.folder import folder_around
from tlearn.runs.model import load_model
from tlearn.training.checkpoints import CheckpointIO


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train until the last epoch is not the best."""
    root = tmp_path_factory.mktemp("trained")
    for split in ("train", "val", "test"):
        for name, colour in COLOURS.items():
            for number in range(4):
                draw(root / "pictures" / split / name / f"{number}.png", colour, seed=number)
    long = (
        "monitor.metric=val/top1",
        "optimizer.lr=0.05",
        "trainer.max_epochs=6",
        "callbacks.checkpoint.save_top_k=-1",
    )
    metrics = run(root / "run", root / "pictures", write_weights(root / "w.pth"), *long)
    assert metrics["epoch/best"] < metrics["epoch/last"]
    return root / "run"


def checkpoint(folder, epoch):
    [path] = folder.glob(f"checkpoints/epoch{epoch:03d}-*.ckpt")
    return path


@pytest.mark.parametrize(
    "name",
    ["", "model", "model/model.safetensors", "model/model.json", "model/splits.csv", "metrics.json", "checkpoints"],
)
def test_a_file_or_a_folder_of_a_run_stands_for_it(trained, name, capsys, monkeypatch):
    monkeypatch.chdir(trained.parent)
    for given in (trained / name, f"run/{name}"):
        assert load_model(given).folder.absolute() == trained / "model"
    assert recorded_images(trained / name).splits["val"]
    assert ("is of" in capsys.readouterr().out) == (name not in ("", "model"))


def test_the_checkpoint_of_the_best_epoch_is_the_model_and_no_other_is(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    best = checkpoint(trained, metrics["epoch/best"])
    assert tlearn.load_model(best, device="cpu").folder == trained / "model"
    for path in (trained / "checkpoints" / "last.ckpt", checkpoint(trained, metrics["epoch/last"])):
        with pytest.raises(CheckpointError, match=f"weights of epoch {metrics['epoch/last'] + 1} that are not the mod"):
            tlearn.load_model(path)


def test_a_checkpoint_of_another_run_or_none_at_all_is_refused(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    path = copy / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    damages = (
        {"state_dict": {"network.head.more": torch.zeros(1)}},
        {"state_dict": {"network.head.shift": torch.zeros(1)}},
        {"state_dict": 3},
        {"epoch": "first"},
    )
    for damage in damages:
        CheckpointIO(copy).save_checkpoint({**content, **damage}, path)
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            load_model(path)
    path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"last\.ckpt carries no digest"):
        load_model(path)
    alone = shutil.copy(trained / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="holds no model"):
        load_model(alone)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(trained / "checkpoints" / "nothing.ckpt")


def test_programs_take_a_file_of_a_run_and_say_which_run_it_is(trained, tmp_path):
    picture = next((trained.parent / "pictures" / "test").rglob("*.png"))
    given = f"run='{trained}/model/model.json'"
    done = program("predict", given, f"images='{picture}'", "output=-", "num_workers=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"is of {trained / 'model'}" in done.stdout + done.stderr
    done = program("evaluate", f"run='{trained}/checkpoints/last.ckpt'", "trainer=cpu", cwd=tmp_path)
    assert done.returncode == CheckpointError.exit_status
    assert f"run={trained} takes it" in done.stderr
    assert tlearn.Run(trained / "metrics.json").folder == trained


def test_a_comparison_takes_files_of_runs(tmp_path, monkeypatch, capsys):
    for name in ("one", "other"):
        folder = write_run(tmp_path / name, {}, {"val/top1": 0.5})
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    assert [one.folder.name for one in read_runs("*/metrics.json")] == ["one", "other"]
    assert capsys.readouterr().out == ""
    assert [one.folder.name for one in read_runs(["one/checkpoints/last.ckpt", "other/.hydra"])] == ["one", "other"]
    assert capsys.readouterr().out.startswith("one/checkpoints/last.ckpt has the metrics of its run ")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="no such folder"):
        read_runs("notes.txt")


def test_nothing_further_off_is_taken(tmp_path):
    run = write_run(tmp_path / "run", {}, {})
    (run / "mine" / "deep").mkdir(parents=True)
    for name in ("mine/notes.txt", "mine/deep/notes.txt"):
        (run / name).touch()

    def is_run(path):
        return (path / ".hydra").is_dir()

    for name in ("mine", "mine/notes.txt", "mine/deep", "mine/deep/notes.txt", "checkpoints/missing.ckpt"):
        assert folder_around(run / name, is_run) == run / name
    assert folder_around(run / ".hydra" / "config.yaml", is_run) == run
