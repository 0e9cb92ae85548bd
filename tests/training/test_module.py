"""Figures over a split: exact, whatever the batches."""

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

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
