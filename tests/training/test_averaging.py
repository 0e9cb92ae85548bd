"""Averages of weights: what is validated, saved, evaluated and kept is the average, of what trains alone."""

import csv

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import load_file
from torch import nn

from tests.small_runs import overrides, program, run, write_weights
from tlearn.errors import ConfigError
from tlearn.models.network import TransferNetwork
from tlearn.training.averaging import ExactAverage
from tlearn.training.checkpoints import CheckpointIO
from tlearn.training.module import TransferModule

EMA = ("+callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging", "+callbacks.ema.decay=0.8")


def _checkpoint(folder, name: str = "epoch*.ckpt"):
    return CheckpointIO(folder).load_checkpoint(next((folder / "checkpoints").glob(name)))


@pytest.mark.parametrize("tuning", ["frozen", "full"])
def test_the_average_is_validated_saved_evaluated_and_kept(tmp_path, folder_data, tuning):
    weights = write_weights(tmp_path / "weights.pth")
    more = (f"finetune={tuning}", "optimizer.lr=0.01", "trainer.max_epochs=2")
    found = run(tmp_path / "run", folder_data, weights, *EMA, *more)
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss"]]
    assert found["val/loss"] == pytest.approx(float(rows[found["epoch/best"]]["val/loss"]), abs=1e-6)
    best, model = _checkpoint(tmp_path / "run"), load_file(tmp_path / "run" / "model" / "model.safetensors")
    averaged, trained = best["state_dict"], best["current_model_state"]
    assert averaged.keys() == trained.keys()
    assert any(key.startswith("network.body") for key in averaged) == (tuning == "full")
    assert not torch.equal(averaged["network.head.weight"], trained["network.head.weight"])
    if tuning == "frozen":
        # The model has a plain layer.
        shift, scale = (averaged.pop(f"network.head.{name}") for name in ("shift", "scale"))
        averaged["network.head.weight"] = averaged["network.head.weight"] * scale
        averaged["network.head.bias"] = averaged["network.head.bias"] - averaged["network.head.weight"] @ shift
    for key, tensor in averaged.items():
        torch.testing.assert_close(tensor, model[key.removeprefix("network.")])


@pytest.mark.slow
def test_a_resumed_average_ends_like_an_uninterrupted_one(tmp_path, folder_data):
    weights, folder = write_weights(tmp_path / "weights.pth"), tmp_path / "stopped"
    command = [*overrides(folder_data, weights, *EMA, "trainer.max_epochs=2"), f"hydra.run.dir='{folder}'"]
    assert program("train", *command, cwd=tmp_path).returncode == 0
    again = (f"resume={folder}", "trainer.max_epochs=4", *EMA[:1])
    resumed = program("train", *again, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    run(tmp_path / "whole", folder_data, weights, *EMA, "trainer.max_epochs=4")
    stopped, whole = (_checkpoint(one, "last.ckpt") for one in (folder, tmp_path / "whole"))
    for state in ("state_dict", "current_model_state", "averaging_state"):
        assert all(torch.equal(tensor, whole[state][key]) for key, tensor in stopped[state].items())


class _Counting(nn.Module):
    """A body with a frozen layer, one that trains, and indices, of which a decay of 0.9 changes a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 50), nn.Linear(50, 3)
        self.register_buffer("indices", torch.arange(400))


def test_frozen_and_integer_tensors_stay_exact():
    averaging = EMAWeightAveraging(decay=0.9)
    network = TransferNetwork(_Counting(), nn.Linear(3, 2), ["second"])
    module, exact = TransferModule(network, 2), ExactAverage(averaging)
    averaging.setup(None, module, "fit")
    average = averaging._average_model
    for _ in range(20):
        with torch.no_grad():
            network.head.weight += 1
        average.update_parameters(module)
    copied = average.module.network
    assert not torch.equal(copied.body.indices, network.body.indices), "torch keeps integers exact by itself now"
    exact.on_validation_start(None, module)
    assert torch.equal(copied.body.indices, network.body.indices)
    assert torch.equal(copied.body.first.weight, network.body.first.weight)
    assert not torch.equal(copied.head.weight, network.head.weight)


def test_fits_of_different_weight_decays_are_not_averaged():
    class Fits(TransferModule):
        full_batch = True

    module: LightningModule = Fits(TransferNetwork(nn.Linear(3, 3), nn.Linear(3, 2)), 2)
    with pytest.raises(ConfigError, match="EMAWeightAveraging would average the fits of different weight decays"):
        ExactAverage(EMAWeightAveraging()).on_fit_start(None, module)
