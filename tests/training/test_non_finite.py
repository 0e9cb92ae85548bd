"""A loss that is not finite ends a training: at once on a CPU, and a step later where the loss arrives late."""

import json
from typing import Any

import pytest
import torch

from tests import small_runs as runs
from tlearn.errors import NonFiniteError
from tlearn.models.device import Arriving
from tlearn.models.network import TransferNetwork
from tlearn.training import non_finite
from tlearn.training.metrics import MeanLoss


class _Late(Arriving):
    is_late = True


@pytest.fixture
def weights(tmp_path):
    return runs.write_weights(tmp_path / "weights.pth")


def _spoil(at: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the logits of one step be infinite, and count the steps."""
    forward, steps = TransferNetwork.forward, []

    def spoilt(self: TransferNetwork, images: torch.Tensor) -> torch.Tensor:
        logits = forward(self, images)
        if self.head.training and torch.is_grad_enabled():
            steps.append(len(steps))
            logits = logits * (torch.inf if len(steps) - 1 == at else 1)
        return logits

    monkeypatch.setattr(TransferNetwork, "forward", spoilt)
    return steps


@pytest.mark.parametrize(("late", "at", "steps"), [(False, 1, 2), (True, 1, 3), (True, 2, 3), (True, 5, 6)])
def test_the_batch_is_named_and_nothing_is_saved_after_it(tmp_path, folder_data, weights, monkeypatch, late, at, steps):
    if late:
        monkeypatch.setattr(non_finite, "Arriving", _Late)
    seen = _spoil(at, monkeypatch)
    more = ("features=off", "trainer.max_epochs=2", "callbacks.prepare_head=null")
    # Three steps an epoch: the third is the last before a validation, the sixth before the end.
    with pytest.raises(NonFiniteError, match=f"train/loss became nan at step {at} "):
        runs.run(tmp_path / "run", folder_data, weights, *more)
    assert len(seen) == steps
    note = json.loads((tmp_path / "run" / "nan_batch.json").read_text())
    assert (note["step"], note["epoch"], len(note["files"])) == (at, at // 3, 8)
    for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        state: Any = torch.load(file, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def test_adam_in_float16_is_told_to_take_another_precision(tmp_path, folder_data, weights):
    more = ("features=off", "trainer.precision=16-true", "optimizer.lr=1e-6")
    with pytest.raises(NonFiniteError, match=r"lower it, or take trainer\.precision=bf16-true "):
        runs.run(tmp_path / "run", folder_data, weights, *more)


def test_the_mean_loss_counts_images_and_keeps_nan():
    mean = MeanLoss()
    mean.update(torch.tensor(1.0), 3)
    mean.update(torch.tensor(2.0), 1)
    assert mean.compute().item() == 1.25
    mean.update(torch.tensor(torch.nan), 1)
    assert mean.compute().isnan()
