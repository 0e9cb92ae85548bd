"""Settings found before training: used, said, kept and not found again; everything else stays as it was."""

import csv
import json
from functools import partial
from typing import ClassVar

import pytest
import torch
from lightning import Trainer
from safetensors.torch import load_file

from tests.small_runs import overrides, program, run, write_weights
from tlearn.config import build
from tlearn.config.compose import compose
from tlearn.config.settle import IMAGENET, settled
from tlearn.config.trainer import training_trainer
from tlearn.config.tree import plain
from tlearn.config.tuning import tuning
from tlearn.errors import ConfigError, NonFiniteError
from tlearn.runs.folder import RunFolder
from tlearn.training import tune
from tlearn.training.module import TransferModule
from tlearn.training.tune import BatchSize, LearningRate


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path / "weights.pth")


def test_a_run_with_the_found_rate_is_the_run_with_that_rate_typed(tmp_path, folder_data, weights, capsys):
    more = ("finetune=full", "transforms=light", "scheduler=cosine", "trainer.max_epochs=2")
    found = run(tmp_path / "tuned", folder_data, weights, "tune=lr", "tune.steps=30", *more)
    rate = found["tune/optimizer.lr"]
    assert f"tune: optimizer.lr={rate:g}, by " in capsys.readouterr().out
    run(tmp_path / "typed", folder_data, weights, f"optimizer.lr={rate}", *more)
    heads = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("tuned", "typed")]
    assert all(torch.equal(tensor, heads[1][key]) for key, tensor in heads[0].items())
    model = json.loads((tmp_path / "tuned" / "model" / "model.json").read_text(encoding="utf-8"))
    assert model["config"]["optimizer"]["lr"] == rate
    assert (tmp_path / "tuned" / "report" / "learning_rate.png").is_file()
    with (tmp_path / "tuned" / "metrics.csv").open(encoding="utf-8") as file:
        assert {float(row["step"]) for row in csv.DictReader(file)} <= set(range(7))


@pytest.mark.slow
def test_a_resumed_run_keeps_the_rate_that_was_found(tmp_path, folder_data, weights, monkeypatch):
    folder = tmp_path / "run"
    command = [*overrides(folder_data, weights, "tune=lr", "tune.steps=30"), f"hydra.run.dir='{folder}'"]
    assert program("train", *command, cwd=tmp_path).returncode == 0
    monkeypatch.setattr(LearningRate, "find", lambda *_: pytest.fail("tuned again"))
    resumed = program("train", f"resume={folder}", "trainer.max_epochs=2", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    kept = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    assert json.loads((folder / "metrics.json").read_text())["tune/optimizer.lr"] == kept["optimizer.lr"]
    for rate in ("optimizer.lr=1", "++optimizer.lr=1"):
        given = program("train", *overrides(folder_data, weights, "tune=lr", rate), cwd=tmp_path)
        assert "tune=lr finds optimizer.lr, which is given, too" in given.stderr


def test_a_loss_that_is_never_finite_finds_no_rate(tmp_path, monkeypatch):
    def explode(*_):
        raise NonFiniteError("train/loss became nan at step 0")

    monkeypatch.setattr(tune, "_try", explode)
    with pytest.raises(NonFiniteError, match="first step is not finite: leave tune out"):
        LearningRate().find(None, None, None, tmp_path)


def test_the_rates_of_head_and_body_keep_their_ratio(tmp_path, folder_data, weights, monkeypatch):
    seen = []
    step = torch.optim.Adam.step

    def recorded(self, *args, **kwargs):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    run(
        tmp_path / "run",
        folder_data,
        weights,
        "tune=lr",
        "tune.steps=30",
        "finetune=full",
        "finetune.body_lr_scale=0.25",
    )
    assert seen[0] == pytest.approx([1e-6, 0.25e-6])
    assert all(body == pytest.approx(head / 4) for head, body in seen)


class _Memory(TransferModule):
    """A module on a device that takes so many images at once."""

    most = 8
    error: Exception = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    sizes: ClassVar[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch[1]))
        if len(batch[1]) > self.most:
            raise self.error
        return super().training_step(batch, batch_idx)


def _parts(tmp_path, folder_data, weights, most: int, *more: str):
    config = compose(overrides(folder_data, weights, "finetune=full", *more), output_dir=tmp_path)
    backbone = build.backbone(plain(config))
    settings = settled(config, backbone.preprocessing())
    images = build.image_set(settings, RunFolder(tmp_path))
    network = build.network(settings, backbone, 3, 32)
    module = _Memory(network, 3, optimizer=partial(torch.optim.SGD, lr=0.01))
    module.most = most
    new = partial(Trainer, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    return module, build.datamodule(settings, images), partial(new, max_epochs=-1, limit_val_batches=0)


@pytest.mark.parametrize(
    ("most", "start", "found", "words"),
    [
        (8, 2, 8, "(16 do not fit)"),
        (8, 16, 8, "(16 do not fit)"),
        (100, 6, 24, "(no more images)"),
    ],
)
def test_the_largest_size_that_fits_is_found_from_either_side(
    tmp_path, folder_data, weights, capsys, most, start, found, words
):
    module, data, trainer = _parts(tmp_path, folder_data, weights, most, f"data.batch_size={start}")
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    random = torch.get_rng_state()
    assert BatchSize().find(module, data, trainer, tmp_path) == found
    assert f"tune: data.batch_size={found} {words}" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, module.state_dict()[key]) for key, tensor in before.items())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        MemoryError(),
    ],
    ids=str,
)
def test_a_size_does_not_fit_however_that_is_said(tmp_path, folder_data, weights, monkeypatch, error):
    module, data, trainer = _parts(tmp_path, folder_data, weights, 8, "data.batch_size=16")
    monkeypatch.setattr(_Memory, "error", error)
    assert BatchSize().find(module, data, trainer, tmp_path) == 8


def test_an_error_that_is_none_of_memory_is_not_taken_for_one(tmp_path, folder_data, weights, monkeypatch):
    module, data, trainer = _parts(tmp_path, folder_data, weights, 8)
    monkeypatch.setattr(_Memory, "training_step", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match="shapes"):
        BatchSize().find(module, data, trainer, tmp_path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["tune=batch_size"], "on a CPU, that would end the process"),
        (["tune=lr", "trainer.fast_dev_run=true"], "tune needs more than single batches"),
        (["tune=lr", "debug=overfit"], "tune needs more than single batches"),
        (["tune=lr", "tune.max_lr=1e-9"], "0 < min_lr < max_lr"),
        (["tune=lr", "module=full_batch"], "does not train with optimizer.lr"),
    ],
)
def test_what_tune_cannot_do_is_refused(tmp_path, folder_data, weights, more, words):
    with pytest.raises(Exception, match=words):
        run(tmp_path / "run", folder_data, weights, *more)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_several_processes_are_refused(tmp_path):
    settings = settled(compose(["tune=lr", "trainer=ddp_cpu"], output_dir=tmp_path), IMAGENET)
    module = TransferModule(torch.nn.Linear(1, 1), 2)
    with pytest.raises(ConfigError, match=r"tune finds optimizer.lr on one device: choose trainer=auto"):
        tuning(settings, training_trainer(settings, tmp_path), module)


def test_cached_features_of_a_frozen_body_need_no_size(tmp_path, folder_data, weights):
    module, data, trainer = _parts(tmp_path, folder_data, weights, 8)
    module.network.stages = ()

    class Cached:
        datasets, batch_size = data.datasets, 8

    with pytest.raises(ConfigError, match=r"takes hardly any memory: set data.batch_size"):
        BatchSize().find(module, Cached(), trainer, tmp_path)
