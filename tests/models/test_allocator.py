"""Memory that is freed between two layers stays with the process while a body runs on the CPU."""

import platform
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tlearn
from tests import small_runs as runs
from tlearn.models.allocator import keep_memory
from tlearn.models.network import TransferNetwork

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")


def _is_kept(mib: int = 64) -> bool:
    """Return whether a block of `mib` MiB that is freed stays with the process: one mapped for itself would be gone."""
    place = torch.empty(mib * 2**20, dtype=torch.uint8).data_ptr()
    maps = (line.split("-", 1) for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(first, 16) <= place < int(rest.split()[0], 16) for first, rest in maps)


def test_memory_is_kept_during_the_block_and_on_the_cpu_alone():
    with keep_memory(torch.device("cpu")):
        assert _is_kept()
        first = torch.arange(3_000_000).sum().item()
    # More than any hole that the block left between what still lives, where a block would stay however it is set
    assert not _is_kept(768)
    assert torch.arange(3_000_000).sum().item() == first
    with keep_memory(torch.device("meta")):
        assert not _is_kept(768)


def test_memory_is_kept_by_training_on_the_fly_evaluation_and_prediction(tmp_path, folder_data, monkeypatch):
    seen: list[bool] = []
    compute = TransferNetwork.features

    def features(network: TransferNetwork, images: Tensor) -> Tensor:
        # One image finds the shapes.
        if len(images) > 1:
            seen.append(_is_kept())
        return compute(network, images)

    monkeypatch.setattr(TransferNetwork, "features", features)
    weights = runs.write_weights(tmp_path / "weights.pth")
    folder = tmp_path / "run"
    runs.run(folder, folder_data, weights, "features=off", "report=off", "trainer.max_epochs=1")
    trained = len(seen)
    assert trained >= 3
    place = f"hydra.run.dir={tmp_path / 'again'}"
    evaluated = runs.program("evaluate", f"run={folder}", "report.write=false", "trainer=cpu", place, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert len(seen) > trained
    evaluated = len(seen)
    tlearn.load_model(folder).predict(sorted(folder_data.rglob("*.jpg")))
    assert len(seen) > evaluated
    assert all(seen)
