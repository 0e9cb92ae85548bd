"""What a step of several processes is, as the first lines of a run say it."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from tlearn.errors import ConfigError
from tlearn.models.network import TransferNetwork
from tlearn.training.global_batch import step_notes
from tlearn.training.module import TransferModule


def notes(
    body: nn.Module, head: nn.Module, processes: int = 2, device: str = "cpu", synced: bool = False, **more: Any
) -> list[str]:
    stages = more.pop("stages", ())
    trainer: Any = SimpleNamespace(
        world_size=processes,
        accumulate_grad_batches=more.pop("accumulate", 1),
        strategy=SimpleNamespace(root_device=torch.device(device)),
    )
    module = TransferModule(TransferNetwork(body, head, stages), 2, **more)
    return step_notes(trainer, module, 32, 100, 0.003, synced)


def _body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten())


def test_one_process_says_nothing():
    assert notes(_body(), nn.Linear(2, 2), processes=1, stages="all") == []


@pytest.mark.parametrize("kind", ["frozen", "no chance", "unused"])
def test_what_computes_with_each_image_alone_differs_in_nothing(kind):
    body = nn.Sequential(nn.Conv2d(3, 2, 1), nn.LayerNorm(2), nn.Dropout(0.0)) if kind == "no chance" else _body()
    stages = {"frozen": (), "no chance": "all", "unused": "0"}[kind]
    [line] = notes(body, nn.Linear(2, 2), stages=stages, accumulate=4)
    factors = "2 processes x data.batch_size=32 x trainer.accumulate_grad_batches=4"
    assert line.startswith(f"{factors}: 256 images a step, or all 100; ")
    assert "optimizer.lr stays 0.003" in line


class DropPath(nn.Module):
    drop_prob = 0.1


@pytest.mark.parametrize(
    ("body", "head", "more", "names"),
    [
        (_body(), nn.Linear(2, 2), {"stages": "all"}, "BatchNorm and dropout in what trains"),
        (_body(), nn.Linear(2, 2), {"later_stages": "all"}, "BatchNorm and dropout in what trains"),
        (nn.Flatten(), nn.Sequential(nn.Dropout(0.2), nn.Linear(2, 2)), {}, "dropout in what trains"),
        (nn.Flatten(), nn.Sequential(StochasticDepth(0.2, "row"), nn.Linear(2, 2)), {}, "dropout in what trains"),
        (nn.Flatten(), nn.Sequential(DropPath(), nn.Linear(2, 2)), {}, "dropout in what trains"),
        (nn.Flatten(), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), {}, "BatchNorm in what trains"),
        (nn.Flatten(), nn.Linear(2, 2), {"loss": nn.CrossEntropyLoss(torch.ones(2))}, "class weights in"),
        (nn.Flatten(), nn.Linear(2, 2), {"mix": lambda images, targets: None}, "mixed images in"),
    ],
)
def test_what_computes_with_the_images_of_a_process_is_named(body, head, more, names):
    _, line = notes(body, head, **more)
    assert line.startswith(names)
    assert "one process with data.batch_size=64" in line
    assert "sync_batchnorm" not in line


def test_the_statistics_of_batch_norm_are_shared_on_gpus_alone():
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    _, line = notes(nn.Flatten(), normed, device="cuda:0")
    assert line.endswith("+trainer.sync_batchnorm=true shares the statistics of BatchNorm")
    assert len(notes(nn.Flatten(), normed, device="cuda:0", synced=True)) == 1
    for processes in (1, 2):
        with pytest.raises(ConfigError, match="on GPUs alone: leave it out"):
            notes(nn.Flatten(), normed, processes, synced=True)


class ActivatedNorm(nn.BatchNorm1d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


class ActivatedSharedNorm(nn.SyncBatchNorm):
    pass


@pytest.mark.parametrize("processes", [1, 2])
def test_norms_that_do_more_are_not_replaced_by_plain_ones(processes):
    activated = nn.Sequential(nn.Linear(2, 2), ActivatedNorm(2))
    with pytest.raises(ConfigError, match="in the place of ActivatedNorm"):
        notes(nn.Flatten(), activated, processes, device="cuda:0", synced=True)
    # Nor is that advised.
    assert "sync_batchnorm" not in "".join(notes(nn.Flatten(), activated, processes, device="cuda:0"))
    # Frozen ones would be replaced, too.
    with pytest.raises(ConfigError, match="in the place of ActivatedNorm"):
        notes(activated, nn.Linear(2, 2), processes, device="cuda:0", synced=True)
    with pytest.raises(ConfigError, match="in the place of ActivatedSharedNorm"):
        notes(ActivatedSharedNorm(2), nn.Linear(2, 2), processes, device="cuda:0", synced=True)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(activated)).eval()
    values = torch.randn(8, 2)
    assert not torch.allclose(converted(values), activated.eval()(values), atol=1e-3)
