"""Outputs of several processes: all in the first of them, in order, and exact for every number of images."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from tests import forks
from tlearn.data.datamodule import SplitDataModule
from tlearn.data.prepare import ImageSet
from tlearn.data.sampling import EvaluationSampler
from tlearn.errors import DataError
from tlearn.models.device import Arriving
from tlearn.models.network import TransferNetwork
from tlearn.training import collect_outputs, gather
from tlearn.training.collect_outputs import Collector
from tlearn.training.ddp import DDPStrategy
from tlearn.training.measure import measure_split

CLASSES = list("abcdefg")
COUNTS = range(1, 41)


class Drawn(SplitDataModule):
    """Random images [3, 2, 2] in batches of three."""

    def __init__(self, count: int) -> None:
        draws = torch.Generator().manual_seed(count)
        self.images = torch.randn(count, 3, 2, 2, generator=draws)
        self.targets = torch.randint(len(CLASSES), (count,), generator=draws)
        image_set = ImageSet(Path("nowhere"), {"test": []}, CLASSES)
        paths = [f"{number}.png" for number in range(count)]
        super().__init__(image_set, {"test": _Paths(paths)}, 3)

    def _evaluation(self, split: str) -> DataLoader:
        rows = list(zip(self.images, self.targets, range(len(self.targets)), strict=True))
        sampler = EvaluationSampler(len(rows), *self._place())
        return DataLoader(rows, batch_size=self.batch_size, sampler=sampler)  # type: ignore[arg-type]


class _Paths(SimpleNamespace):
    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(paths=paths)

    def __len__(self) -> int:
        return len(self.paths)


def _network() -> TransferNetwork:
    torch.manual_seed(0)
    return TransferNetwork(nn.Flatten(), nn.Linear(12, len(CLASSES))).eval()


def _measured(environment: dict[str, str], rows_in_block: int | None, folder: Path) -> None:
    """Evaluate each number of images, and keep what this process has of them."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    world, rank = int(environment["WORLD_SIZE"]), environment["RANK"]
    if rows_in_block:
        # Of logits; fewer of features
        gather._BLOCK_BYTES = rows_in_block * world * 4 * len(CLASSES)
    strategy: Any = {"strategy": DDPStrategy(process_group_backend="gloo")} if world > 1 else {}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", devices=world, use_distributed_sampler=False, **strategy, **quiet)
    found: dict[int, Any] = {}
    for count in COUNTS:
        try:
            metrics, outputs, views = measure_split(
                trainer, _network(), Drawn(count), "val", "flip" if count % 2 else "none", features=True
            )
        except DataError as error:
            found[count] = str(error)
            continue
        assert outputs is None or not (outputs.logits.is_inference() or outputs.features.is_inference())
        rows = outputs and {"paths": outputs.paths, "targets": outputs.targets, "features": outputs.features}
        found[count] = metrics, rows and {**rows, "logits": outputs.logits}, views
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.parametrize(("world", "rows_in_block"), [(1, None), (2, None), (3, 2)], ids=str)
@pytest.mark.slow
def test_outputs_of_all_processes_are_in_the_first_and_exact(tmp_path, world, rows_in_block):
    told = [(one, rows_in_block, tmp_path) for one in forks.ranks(world)]
    processes = [forks.server().Process(target=_measured, args=one) for one in told]
    for one in processes:
        one.start()
    for one in processes:
        one.join(100)
    assert [one.exitcode for one in processes] == [0] * world
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(world)]
    for count in COUNTS:
        if count < world:
            assert all(f"too few for {world} processes" in found[count] for found in ranks)
            continue
        data, network = Drawn(count), _network()
        _, outputs, views = ranks[0][count]
        with torch.no_grad():
            logits = network(data.images)
        assert outputs["paths"] == data.datasets["test"].paths
        assert torch.equal(outputs["targets"], data.targets)
        assert torch.equal(outputs["features"], data.images.flatten(1))
        assert torch.allclose(outputs["logits"], logits, atol=1e-6, rtol=0)
        assert (views is None) == (count % 2 == 0)
        assert views is None or torch.equal(views[:, 0], outputs["logits"])
        hits, loss = (logits.argmax(1) == data.targets).float(), nn.functional.cross_entropy(logits, data.targets)
        expected = {"loss": float(loss), "top1": float(hits.mean())}
        for rank, found in enumerate(ranks):
            assert {name: found[count][0][f"val/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)
            assert rank == 0 or found[count][1:] == (None, None)


def test_no_batch_of_an_evaluation_waits_for_its_outputs(monkeypatch):
    came: list[int] = []

    class Noted(Arriving):
        def get(self) -> torch.Tensor:
            came.append(int(super().get()[0]))
            return super().get()

    monkeypatch.setattr(collect_outputs, "Arriving", Noted)
    collector = Collector()
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    for number in range(3):
        collector.on_test_batch_end(trainer, None, {"indices": torch.tensor([number])})  # type: ignore[arg-type]
        assert came == list(range(number))
    collector.on_test_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert came == [0, 1, 2]
    assert torch.equal(collector._whole["indices"], torch.arange(3))
