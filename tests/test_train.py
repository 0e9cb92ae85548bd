"""Whole trainings: what a run leaves, what it may change, and what it must refuse."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tlearn
from tests.small_runs import BACKBONE, overrides, program, run, write_weights
from tlearn.config.compose import compose
from tlearn.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from tlearn.train import train

TIMES = ("time/fit_s", "time/total_s")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights.pth")


def _body(run_folder: Path) -> dict[str, torch.Tensor]:
    state = load_file(run_folder / "model" / "model.safetensors")
    return {key.removeprefix("body."): value for key, value in state.items() if key.startswith("body.")}


def _changed(run_folder: Path, weights: Path) -> set[str]:
    """Name the tensors of the body that are not bit for bit those of the weights file."""
    before, after = torch.load(weights, weights_only=True), _body(run_folder)
    assert after
    return {key for key in after if not torch.equal(after[key], before[key])}


def test_a_run_folder_explains_itself(tmp_path, folder_data, weights, capsys):
    figures = train(compose(overrides(folder_data, weights, "quiet=true"), output_dir=tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8")).items() >= figures.items()
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert {
        "metrics.json",
        "splits.csv",
        "environment.json",
        "metrics.csv",
        "checkpoints",
        "model",
        "tensorboard",
        "train.log",
    } <= found
    assert not any(name.startswith(".") for name in found)
    assert {"val/top1", "val/loss", "test/top1", "test/loss", "train/loss"} - figures.keys() == {"train/loss"}
    assert "val/top5" not in figures, "with three classes, it would always be one"
    assert all(isinstance(value, int | float) for value in figures.values())
    assert figures["params/trainable"] == 1024 * 3 + 3
    assert figures["epoch/best"] == figures["epoch/last"] == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    # What was not printed is in the log.
    assert capsys.readouterr().out == f"{tmp_path / 'run'}\n"
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8").splitlines()
    counts = "data: folder, 3 classes; images: train 24, val 12, test 12"
    for start in (counts, f"network: {BACKBONE}; ", "epoch 1/1  loss ", "test top-1 ", str(tmp_path / "run")):
        assert any(line.split(" ", 2)[2].startswith(f"INFO    {start}") for line in log), start
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["tlearn"] == tlearn.__version__
    assert environment["packages"]["torch"].startswith(torch.__version__.split("+")[0])


def test_more_than_five_classes_have_a_top5(tmp_path, weights, draw_split):
    seven = draw_split(tmp_path / "seven", 8, tuple("abcdefg"))
    figures = run(tmp_path / "run", seven, weights, "data.split.fractions=[0.5,0.25,0.25]")
    assert figures["val/top1"] <= figures["val/top5"] <= 1


def test_a_frozen_body_stays_bit_for_bit(tmp_path, folder_data, weights):
    more = ("optimizer=sgd", "optimizer.weight_decay=0.1", "transforms=light", "transforms.size=32")
    run(tmp_path / "run", folder_data, weights, *more)
    assert _changed(tmp_path / "run", weights) == set()


def test_partial_changes_the_named_stage_only(tmp_path, folder_data, weights):
    run(tmp_path / "run", folder_data, weights, "finetune=partial", "finetune.stages=[conv5]")
    changed = _changed(tmp_path / "run", weights)
    assert {"conv5.0.weight", "conv5.1.weight", "conv5.1.running_mean"} <= changed
    assert all(key.startswith("conv5.") for key in changed)


def test_full_changes_weights_and_batch_statistics(tmp_path, folder_data, weights):
    run(tmp_path / "run", folder_data, weights, "finetune=full")
    assert {"conv1.0.weight", "conv1.1.running_var"} <= _changed(tmp_path / "run", weights)


def test_gradual_leaves_the_body_alone_until_its_epoch(tmp_path, folder_data, weights):
    gradual = ("finetune=gradual", "finetune.unfreeze_epoch=1", "callbacks.early_stopping=null")
    run(tmp_path / "before", folder_data, weights, *gradual)
    assert _changed(tmp_path / "before", weights) == set()
    run(tmp_path / "after", folder_data, weights, *gradual, "trainer.max_epochs=2")
    last = torch.load(tmp_path / "after" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    before = torch.load(weights, weights_only=True)
    for key in ("conv1.0.weight", "conv1.1.running_var"):
        assert not torch.equal(last[f"network.body.{key}"], before[key])


def test_scratch_ignores_the_weights(tmp_path, folder_data, weights):
    run(tmp_path / "run", folder_data, weights, "finetune=scratch", "optimizer.lr=1e-9")
    before = torch.load(weights, weights_only=True)
    assert not torch.allclose(_body(tmp_path / "run")["conv1.0.weight"], before["conv1.0.weight"], atol=1e-3)


def test_equal_seeds_give_equal_figures_and_others_another_split(tmp_path, draw_split, weights):
    data = draw_split(tmp_path / "one folder per class", 12)
    augmented = ("transforms=standard", "transforms.size=32", "head=mlp", "trainer.max_epochs=2")
    runs = [
        run(tmp_path / name, data, weights, *augmented, f"seed={seed}") for name, seed in (("a", 1), ("b", 1), ("c", 0))
    ]
    first, second, other = ({key: value for key, value in one.items() if key not in TIMES} for one in runs)
    assert first == second
    assert other["val/loss"] != first["val/loss"]
    manifests = [(tmp_path / name / "splits.csv").read_bytes() for name in "abc"]
    assert manifests[0] == manifests[1] != manifests[2]


def test_figures_do_not_depend_on_the_number_of_workers(tmp_path, folder_data, weights):
    augmented = ("transforms=standard", "transforms.size=32")
    figures = [run(tmp_path / str(n), folder_data, weights, *augmented, f"data.num_workers={n}") for n in (0, 2)]
    assert figures[0]["val/loss"] == figures[1]["val/loss"]


def test_checkpoints_are_plain_data_without_frozen_weights(tmp_path, folder_data, weights):
    radam = ("optimizer._target_=torch.optim.RAdam", "+optimizer.betas=[0.8,0.99]")
    run(tmp_path / "run", folder_data, weights, *radam)
    files = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert files == ["epoch000-step000003.ckpt", "last.ckpt"]
    for name in files:
        checkpoint = torch.load(tmp_path / "run" / "checkpoints" / name, weights_only=True)
        # A resumed run goes on with the same standardised features; the model has a plain layer.
        kept = {f"network.head.{name}" for name in ("weight", "bias", "shift", "scale")}
        assert set(checkpoint["state_dict"]) == kept
        assert list(checkpoint["optimizer_states"][0]["param_groups"][0]["betas"]) == [0.8, 0.99]


@pytest.mark.slow
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path, folder_data, weights):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    long = ("transforms=light", "transforms.size=32", "optimizer.lr=0.01")
    command = [*overrides(folder_data, weights, *long), f"hydra.run.dir='{stopped}'"]
    assert program("train", *command, cwd=tmp_path).returncode == 0
    resumed = program("train", f"resume={stopped}", "trainer.max_epochs=3", cwd=tmp_path.parent)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip().splitlines()[-1] == str(stopped)
    after = json.loads((stopped / "metrics.json").read_text())
    assert after["epoch/last"] == 2
    assert _logged_epochs(stopped) == ["0", "1", "2"]
    expected = run(whole, folder_data, weights, *long, "trainer.max_epochs=3")
    assert after["val/loss"] == pytest.approx(expected["val/loss"], abs=1e-6)
    head = [load_file(folder / "model" / "model.safetensors")["head.weight"] for folder in (stopped, whole)]
    assert torch.equal(*head)


def _logged_epochs(folder: Path) -> list[str]:
    with (folder / "metrics.csv").open() as file:
        return [row["epoch"] for row in csv.DictReader(file) if row["val/loss"]]


@pytest.mark.slow
def test_a_resumed_run_keeps_its_configuration_and_its_pictures(tmp_path, folder_data, weights):
    folder = tmp_path / "run"
    command = [*overrides(folder_data, weights), f"hydra.run.dir='{folder}'"]
    assert program("train", *command, cwd=tmp_path).returncode == 0
    changed = program("train", f"resume={folder}", "optimizer.lr=0.5", cwd=tmp_path)
    assert changed.returncode == ConfigError.exit_status
    assert "optimizer.lr: 0.003 -> 0.5" in changed.stderr
    write_weights(weights, seed=1)
    other_body = program("train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path)
    assert other_body.returncode == CheckpointError.exit_status
    assert "frozen weights" in other_body.stderr
    picture = next((folder_data / "train" / "red").iterdir())
    whole = picture.read_bytes()
    # The density of a JPEG's pixels, which none of them depends on
    picture.write_bytes(whole[:15] + bytes([whole[15] ^ 1]) + whole[16:])
    edited = program("train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path)
    assert edited.returncode == DataError.exit_status
    assert f"other content: train/red/{picture.name}" in edited.stderr
    picture.write_bytes(whole + b"more")
    edited = program("train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path)
    assert edited.returncode == DataError.exit_status
    picture.unlink()
    fewer = program("train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path)
    assert fewer.returncode == DataError.exit_status


def test_a_head_that_a_model_folder_cannot_name_is_refused_before_training(tmp_path, folder_data, weights):
    with pytest.raises(ConfigError, match=r"^head\.build: torch\.hub\.load cannot be a head"):
        run(tmp_path / "run", folder_data, weights, "head.build._target_=torch.hub.load")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_folder_with_a_run_is_not_written_over_nor_its_schedule_made_longer(tmp_path, folder_data, weights):
    folder = tmp_path / "run"
    command = [*overrides(folder_data, weights, "scheduler=cosine"), f"hydra.run.dir='{folder}'"]
    assert program("train", *command, cwd=tmp_path).returncode == 0
    before = (folder / "metrics.json").read_bytes()
    again = program("train", *command, "seed=7", cwd=tmp_path)
    assert again.returncode == 4
    assert "already holds a run" in again.stderr
    longer = program("train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path)
    assert longer.returncode == ConfigError.exit_status
    assert "trainer.max_epochs: 1 -> 2" in longer.stderr
    assert (folder / "metrics.json").read_bytes() == before


def test_training_that_explodes_is_refused(tmp_path, folder_data, weights):
    more = ("optimizer=sgd", "optimizer.lr=1e9", "callbacks.prepare_head=null")
    with pytest.raises(NonFiniteError, match=r"the best val/loss is .*1,000 times.*optimizer\.lr"):
        run(tmp_path / "run", folder_data, weights, *more)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_training_that_becomes_nan_stops_and_names_the_batch(tmp_path, folder_data, weights):
    # From a fit, there is hardly a gradient.
    more = ("optimizer=sgd", "optimizer.lr=1e38", "trainer.max_epochs=3", "callbacks.prepare_head=null")
    with pytest.raises(NonFiniteError, match=r"optimizer\.lr"):
        run(tmp_path / "run", folder_data, weights, *more)
    note = json.loads((tmp_path / "run" / "nan_batch.json").read_text())
    assert note["files"]
    assert all(Path(file).is_file() for file in note["files"])
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_without_a_test_split_no_test_figures_are_given(tmp_path, draw_split, weights, capsys):
    for split in ("train", "val"):
        draw_split(tmp_path / "data" / split, 6)
    figures = run(tmp_path / "run", tmp_path / "data", weights)
    assert not any(key.startswith("test/") for key in figures)
    assert "no test split" in capsys.readouterr().out


@pytest.mark.slow
def test_unreadable_pictures_are_all_named_before_training(tmp_path, folder_data, weights):
    for number in range(3):
        (folder_data / "train" / "red" / f"bad_{number}.jpg").write_bytes(b"<!DOCTYPE html>")
    done = program("train", *overrides(folder_data, weights), f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == DataError.exit_status
    assert "Traceback" not in done.stderr
    assert all(f"bad_{number}.jpg" in done.stderr for number in range(3))
    assert len(json.loads((tmp_path / "run" / "data_report.json").read_text())["unreadable"]) == 3
    figures = run(tmp_path / "skipped", folder_data, weights, "data.on_bad_image=skip")
    assert figures["val/top1"] >= 0
    assert len(json.loads((tmp_path / "skipped" / "data_report.json").read_text())["unreadable"]) == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["loss.weight=[1,2]"], "loss.weight has 2 values for the 3 classes"),
        (["finetune=partial", "finetune.stages=[conv9]"], "conv9"),
        (["finetune=gradual", "finetune.later_stages=[conv9]"], "conv9"),
        (["backbone=vit_b_16", "backbone.weights=null"], "images of 32 x 32 pixels"),
        (["+optimizer.nonsense=1"], "nonsense"),
        (["module=full_batch", "finetune=full"], "finetune=frozen"),
        (["module=full_batch", "optimizer=adamw"], "optimizer=none"),
        (["module=full_batch", "scheduler.warmup_steps=3"], "scheduler=none"),
        (["module=full_batch", "transforms.mixup_alpha=0.2"], "mixup_alpha"),
        (["optimizer=none"], "optimizer=adam"),
        (["module._target_=torch.nn.Linear"], "not a subclass of tlearn.training.module.TransferModule"),
        (["+module.rate=3"], "unknown key module.rate"),
        (["+module.monitor=val/top1"], "module.monitor cannot be given"),
        (["trainer=gpu"], "trainer.accelerator=gpu: there is no GPU that this torch can use; choose trainer=cpu"),
        (["trainer.accelerator=cuda"], "there is no GPU that this torch can use; choose trainer=cpu"),
        (["trainer=dp"], "there is no GPU that this torch can use; choose trainer=cpu"),
        (["trainer.precision=16-mixed"], "choose bf16-mixed"),
        (["trainer.devices=2"], "trainer=ddp_cpu"),
        (["finetune=full", "data.batch_size=1"], "BatchNorm"),
        (["trainer.max_epochs=-1", "scheduler=cosine"], "trainer.max_epochs"),
        (["monitor.metric=val/top5"], "val/top5"),
        (["scheduler=onecycle", "scheduler.warmup_steps=3"], "warm-up"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="some of these are right on a machine with a GPU")
def test_wrong_combinations_end_with_a_plain_message(tmp_path, folder_data, weights, more, words):
    from tlearn.config.messages import explain

    with pytest.raises(Exception) as caught:  # noqa: PT011 - explain() tells which it must be
        run(tmp_path / "run", folder_data, weights, *more)
    status, message = explain(caught.value)
    assert status == ConfigError.exit_status
    assert any(word in message for word in words.split("|"))


# Each column a run, each row every option of a group
_OPTIONS = [
    *zip(
        [f"transforms={name}" for name in ("none", "light", "standard", "strong", "trivial", "randaug")],
        [f"optimizer={name}" for name in ("adam", "adamw", "sgd")] * 2,
        [f"scheduler={name}" for name in ("none", "cosine", "onecycle", "plateau", "step", "none")],
        [f"logger={name}" for name in ("default", "csv", "tensorboard")] * 2,
        [f"data.balance={name}" for name in ("sampler", "weights")] * 3,
        [f"head={name}" for name in ("linear", "linear", "linear", "mlp", "mlp", "mlp")],
        strict=True,
    ),
    ("module=full_batch",),
]


@pytest.mark.parametrize("options", _OPTIONS, ids=" ".join)
def test_every_option_trains(tmp_path, folder_data, weights, options):
    figures = run(tmp_path / "run", folder_data, weights, *options, "transforms.size=32")
    assert 0 <= figures["val/top1"] <= 1


@pytest.mark.parametrize("mix", ["transforms.mixup_alpha=1", "transforms.cutmix_alpha=0.5"])
def test_mixed_batches_train(tmp_path, folder_data, weights, mix):
    assert run(tmp_path / "run", folder_data, weights, mix)["val/loss"] > 0


def test_a_separable_task_is_learned(tmp_path, draw_split):
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        draw_split(tmp_path / "data" / split, 12, first=first)
    # Without BatchNorm, so that random frozen layers give usable features
    easy = ("backbone=squeezenet1_1", "transforms.size=64", "trainer.max_epochs=15")
    figures = run(tmp_path / "run", tmp_path / "data", "null", *easy)
    assert figures["test/top1"] == 1.0


@pytest.mark.slow
def test_a_sweep_runs_all_trials_and_shows_a_table(tmp_path, folder_data, weights):
    command = [
        *overrides(folder_data, weights),
        "head=linear,mlp",
        "seed=1,2",
        f"hydra.sweep.dir='{tmp_path / 'sweep'}'",
    ]
    done = program("train", "-m", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "sweep" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done"] * 4
    for row in rows:
        figures = json.loads((Path(row["folder"]) / "metrics.json").read_text())
        assert float(row["val/loss"]) == pytest.approx(figures["val/loss"], rel=1e-5)
    assert "best: head=" in done.stdout
