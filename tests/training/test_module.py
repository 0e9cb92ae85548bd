"""Figures over a split: exact, whatever the batches."""

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests import small_runs as runs
from tlearn.models.losses import cross_entropy
from tlearn.models.network import TransferNetwork
from tlearn.training.metrics import accuracies
from tlearn.training.module import TransferModule


def _module(classes: int = 7, **more) -> TransferModule:
    torch.manual_seed(0)
    return TransferModule(TransferNetwork(nn.Flatten(), nn.Linear(12, classes)), classes, **more)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 11])
def test_figures_are_means_over_pictures_and_not_over_batches(batch_size):
    images, targets = torch.rand(11, 3, 2, 2), torch.arange(11) % 7
    # The objective has smoothing and weights, and the figures must not
    module = _module(loss=cross_entropy(0.3, [1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0]))
    loader = DataLoader(TensorDataset(images, targets, torch.arange(11)), batch_size)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [figures] = trainer.test(module, loader, verbose=False)
    logits = module(images)
    assert figures["test/loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-6)
    assert figures["test/top1"] == pytest.approx((logits.argmax(1) == targets).float().mean().item(), abs=1e-6)
    among_five = (logits.topk(5).indices == targets[:, None]).any(1).float().mean().item()
    assert figures["test/top5"] == pytest.approx(among_five, abs=1e-6)


@pytest.mark.parametrize("classes", range(2, 11))
def test_top5_exists_only_where_it_can_be_missed(classes):
    assert ("top5" in accuracies(classes)) == (classes > 5)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_loss_and_metrics_are_in_single_precision_whatever_the_network_is_in(precision):
    # 300 images, of which half precision could not count the losses one by one
    images, targets = torch.rand(300, 3, 2, 2), torch.arange(300) % 7
    module = _module(loss=cross_entropy(0.0, [1.0, 1.2345, 1.0, 1.0, 1.0, 1.0, 1.0]))
    logits = []
    module.register_forward_hook(lambda module, inputs, output: logits.append(output))
    loader = DataLoader(TensorDataset(images, targets, torch.arange(300)), 10)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", precision=precision, **quiet)
    [figures] = trainer.test(module, loader, verbose=False)
    assert module.network.head.weight.dtype == trainer.precision_plugin._desired_input_dtype
    assert {one.dtype for one in logits} == {torch.float32}
    assert figures["test/loss"] == pytest.approx(F.cross_entropy(torch.cat(logits), targets).item(), abs=1e-6)
    # Class weights, too
    assert torch.equal(module.loss.weight, torch.tensor([1.0, 1.2345, 1.0, 1.0, 1.0, 1.0, 1.0]))
    assert module.loss(logits[0], targets[:10]).dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_training_in_another_precision_runs(tmp_path, folder_data, precision):
    weights = runs.write_weights(tmp_path / "weights.pth")
    more = (f"trainer.precision={precision}", "features=off", "finetune=full", "data.balance=weights")
    figures = runs.run(tmp_path / "run", folder_data, weights, *more)
    # More digits than half precision has
    assert figures["val/loss"] != torch.tensor(figures["val/loss"]).bfloat16().item()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-true", "bf16-true"])
def test_a_full_batch_fit_in_half_precision_is_refused_before_anything_is_computed(tmp_path, folder_data, precision):
    weights = runs.write_weights(tmp_path / "weights.pth")
    arguments = runs.overrides(folder_data, weights, "module=full_batch", f"trainer.precision={precision}")
    done = runs.program("train", *arguments, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 2
    assert "module=full_batch fits to convergence, which takes 32-true" in done.stderr
    assert "features:" not in done.stdout
