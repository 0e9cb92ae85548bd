"""The benchmark for a GPU still fits the code that it measures: on the CPU, where most of its rows run in small."""

import importlib
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.conftest import REPOSITORY, draw
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.features.extract import Reader

PREPROCESSING = {"resize": 36, "size": 32, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.2] * 3}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("gpu")


@pytest.fixture
def small_body(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Transform(PREPROCESSING)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    monkeypatch.setattr(gpu, "network_of", lambda name: (body, Reader(Decoder(), fixed, fixed)))
    monkeypatch.setattr(gpu, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu, "GPU", False)


@pytest.mark.usefixtures("small_body")
def test_a_body_is_measured_from_files_and_alone(gpu, tmp_path):
    files = [draw(tmp_path / f"{number}.jpg", (number, 90, 200), (40, 50), number) for number in range(5)]
    found = gpu.extraction("body", "fp32", files, 1e9)
    assert found["share of the lower limit"] == found["pictures/s"] / found["body alone"] > 0
    assert gpu.likeness("body", "fp32", files) == {"relative difference": 0.0, "cosine": pytest.approx(1.0)}
    assert gpu.training_rate("body", 2) > 0


def test_a_row_that_fails_stops_nothing_and_is_named_at_the_end(gpu, tmp_path):
    table = gpu.Table(1e9, tmp_path / "rows.json")
    table.measure("fails", lambda: {}["missing"])
    table.measure("ends as a bug", lambda: "status 1: KeyError")
    table.measure("16-mixed: refused", lambda: "status 2: choose 32-true")
    table.measure("refused", lambda: "status 2: choose 32-true")
    table.measure("killed: refused", lambda: "status -9: ")
    table.measure("measured", lambda: 2.5)
    assert table.failed == ["fails", "ends as a bug", "refused", "killed: refused"]
    assert '"measured": 2.5' in (tmp_path / "rows.json").read_text(encoding="utf-8")
