"""The model folder: equal logits after a round trip, and refusals of whatever is damaged or hostile."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tlearn.errors import CheckpointError, OutputError
from tlearn.models import heads
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.digests import PLACEHOLDER, seal_safetensors, with_digest
from tlearn.models.network import TransferNetwork
from tlearn.runs import model as bundle
from tlearn.runs.model import DESCRIPTION, WEIGHTS, load_model, save_model

CLASSES = ["blue", "grün", "a,b"]
MLP = {"kind": "mlp", "hidden": [8, 6], "dropout": 0.5, "activation": "GELU"}


def _save(
    folder: Path, name: str = "shufflenet_v2_x0_5", head: dict[str, Any] | None = None, replace: str = "classifier"
) -> TransferNetwork:
    """Write a model folder with random weights and give its network."""
    head = head or {"kind": "linear"}
    backbone = TorchvisionBackbone(name, None)
    torch.manual_seed(0)
    body = backbone.build(replace)
    arguments = {key: value for key, value in head.items() if key != "kind"}
    network = TransferNetwork(body.module, getattr(heads, head["kind"])(body.num_features, len(CLASSES), **arguments))
    save_model(folder, network, _description(backbone, head, replace))
    return network.eval()


def _description(backbone: TorchvisionBackbone, head: dict[str, Any], replace: str) -> dict[str, Any]:
    return {
        "classes": CLASSES,
        "preprocessing": {**backbone.preprocessing(), "resize": 32, "size": 32},
        "decoding": {"max_pixels": 10_000, "alpha_background": [255, 255, 255], "high_bit_depth": "error"},
        "architecture": backbone.architecture(),
        "replace": replace,
        "head": head,
        "data_root": "/pictures/\udcff",
        "figures": {"val/top1": 0.5},
        "config": {"seed": 0},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Give a model folder that no test changes."""
    folder = tmp_path_factory.mktemp("saved")
    _save(folder)
    return folder


@pytest.fixture
def damaged(tmp_path, saved):
    """Give a function that changes the description of a copy and gives the copy."""

    def change(**values: Any) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(saved, folder, dirs_exist_ok=True)
        description = json.loads((saved / DESCRIPTION).read_text(encoding="utf-8", errors="surrogateescape")) | values
        kept = {key: value for key, value in description.items() if value is not ... and key != "digest"}
        # Whoever means harm can write a digest, too.
        (folder / DESCRIPTION).write_text(json.dumps(with_digest(kept)), encoding="utf-8")
        return folder

    return change


@pytest.mark.parametrize(
    ("name", "head", "replace"),
    [
        ("shufflenet_v2_x0_5", {"kind": "linear"}, "classifier"),
        ("shufflenet_v2_x0_5", MLP, "classifier"),
        ("squeezenet1_1", {"kind": "linear"}, "last"),
    ],
)
def test_a_loaded_model_gives_equal_logits(tmp_path, name, head, replace):
    network = _save(tmp_path / "new" / "model", name, head, replace)
    model = load_model(tmp_path / "new" / "model")
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.network(images), network(images), rtol=1e-5, atol=1e-6)
    assert not model.network.training
    assert model.classes == CLASSES


class TiedHead(nn.Module):
    """A head of one's own whose layers share a weight, with a buffer in double precision."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.layer, self.same = nn.Linear(in_features, num_classes), nn.Linear(in_features, num_classes)
        self.same.weight = self.layer.weight
        self.register_buffer("prior", torch.full((num_classes,), 0.3, dtype=torch.double))

    def forward(self, features: Tensor) -> Tensor:
        return (self.layer(features) + self.same(features) + self.prior).float()


def test_tied_weights_and_doubles_of_an_own_head_come_back(tmp_path, saved):
    model = load_model(saved)
    model.network.head = TiedHead(1024, len(CLASSES)).eval()
    save_model(tmp_path, model.network, {**model.description, "head": {"_target_": f"{__name__}.TiedHead"}})
    again, images = load_model(tmp_path, trust=["tests"]).network, torch.rand(2, 3, 32, 32)
    assert again.head.prior.dtype == torch.double
    with torch.no_grad():
        torch.testing.assert_close(again(images), model.network(images))


def test_every_value_of_the_description_comes_back(saved):
    description = load_model(saved).description
    assert description["data_root"] == "/pictures/\udcff"
    assert description["config"] == {"seed": 0}
    assert "grün" in (saved / DESCRIPTION).read_text(encoding="utf-8", errors="surrogateescape")


def test_the_decoder_is_that_of_the_training(saved):
    assert load_model(saved).decoder.max_pixels == 10_000


def test_a_run_folder_gives_its_model_and_a_copy_is_enough(tmp_path, saved):
    shutil.copytree(saved, tmp_path / "run" / "model")
    assert load_model(tmp_path / "run").folder == tmp_path / "run" / "model"
    assert load_model(str(tmp_path / "run" / "model")).folder == tmp_path / "run" / "model"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_are_as_readable_as_the_umask_says_and_nothing_else_is_left(tmp_path, saved, mask, mode):
    model = load_model(saved)
    before = os.umask(mask)
    try:
        save_model(tmp_path, model.network, model.description)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {WEIGHTS: mode, DESCRIPTION: mode}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_stored_as_single(tmp_path, saved, dtype):
    model = load_model(saved)
    save_model(tmp_path, model.network.to(dtype), model.description)
    kinds = {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS).values()}
    assert kinds == {torch.float32, torch.int64}


@pytest.mark.parametrize("taken", [WEIGHTS, DESCRIPTION])
def test_a_model_folder_that_cannot_be_written_is_an_output_error_and_keeps_no_temporary_file(tmp_path, saved, taken):
    model = load_model(saved)
    # a full folder, in whose place no file can be put
    (tmp_path / taken / "mine").mkdir(parents=True)
    with pytest.raises(OutputError, match=f"cannot write {tmp_path / taken}: it is a folder"):
        save_model(tmp_path, model.network, model.description)
    assert {path.name for path in tmp_path.iterdir()} <= {WEIGHTS, DESCRIPTION}


def test_a_model_folder_below_a_file_is_an_output_error(tmp_path, saved):
    model = load_model(saved)
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file/"):
        save_model(tmp_path / "file", model.network, model.description)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no model"):
        load_model(tmp_path)


SHUFFLENET = {"library": "torchvision", "name": "shufflenet_v2_x0_5", "weights": None, "variant": "IMAGENET1K_V1"}
PREPROCESSING = {"resize": 32, "size": 32, "interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.mark.parametrize(
    "values",
    [
        {"format": 3},
        {"format": None},
        {"classes": ...},
        {"classes": []},
        {"classes": {"a": 1, "b": 2, "c": 3}},
        {"classes": "abc"},
        {"classes": [1, 2, 3]},
        {"classes": ["only", "two"]},
        {"architecture": ...},
        {"architecture": "resnet18"},
        {"architecture": {**SHUFFLENET, "library": "os"}},
        {"architecture": {**SHUFFLENET, "library": ["torchvision"]}},
        {"architecture": {**SHUFFLENET, "name": "os.system"}},
        {"architecture": {**SHUFFLENET, "name": 5}},
        {"architecture": {**SHUFFLENET, "name": "resnet18"}},
        {"architecture": {**SHUFFLENET, "weights": "/etc/passwd"}},
        {"architecture": {**SHUFFLENET, "variant": ["IMAGENET1K_V1"]}},
        {"architecture": {**SHUFFLENET, "library": "timm", "name": "hf-hub:some/model"}},
        {"replace": ["last"]},
        {"replace": "everything"},
        {"head": ...},
        {"head": []},
        {"head": {"kind": "os.system"}},
        {"head": {"kind": "linear", "_target_": "os.system"}},
        {"head": {"_target_": "os.system"}},
        {"head": {"_target_": "posix.system"}},
        {"head": {"_target_": "torch.hub.load"}},
        {"head": {"_target_": ["tlearn.models.heads.linear"]}},
        {"head": {"_target_": "torch.nn.functional.torch.hub.load"}},
        {"head": {"_target_": "torch.nn.Module"}},
        {"head": {"_target_": "mine.heads.Head"}},
        {"head": {"_target_": "tlearn.models.heads.mlp", "activation": {"_target_": "os.system", "command": "true"}}},
        {"architecture": {"_target_": "os.system"}},
        {"architecture": {"_target_": "tlearn.models.backbones.torchvision.TorchvisionBackbone", **SHUFFLENET}},
        {"architecture": {"_target_": "mine.nets.Net"}},
        {"head": {"kind": "linear", "in_features": 3}},
        {"head": {"kind": "mlp", "hidden": "wide"}},
        {"head": {"kind": "mlp", "hidden": [10**30]}},
        {"head": {"kind": "mlp", "dropout": "much"}},
        {"head": {"kind": "mlp", "activation": "__class__"}},
        {"head": {"kind": "mlp", "activation": ["ReLU"]}},
        {"decoding": ...},
        {"decoding": {"max_pixels": -1}},
        {"decoding": {"path": "/etc/passwd"}},
        {"preprocessing": ...},
        {"preprocessing": {**PREPROCESSING, "interpolation": "os.system"}},
        {"preprocessing": {**PREPROCESSING, "size": None}},
        {"preprocessing": {**PREPROCESSING, "mean": 5}},
        {"data_root": 7},
    ],
    ids=str,
)
def test_a_description_that_cannot_be_used_is_refused(damaged, values):
    folder = damaged(**values)
    with pytest.raises(CheckpointError, match=str(folder)):
        load_model(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "3", '"format"', '{"format": 1', "{}", "\x00", "[" * 200_000, '{"format":' * 200_000],
    ids=["empty", "list", "null", "number", "text", "cut", "nothing", "zero byte", "deep list", "deep objects"],
)
def test_what_is_no_description_is_refused(damaged, text):
    folder = damaged()
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(folder)


def test_bytes_that_are_no_text_are_refused(damaged):
    folder = damaged()
    (folder / DESCRIPTION).write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(folder)


def test_a_huge_description_is_refused_before_it_is_read(damaged, monkeypatch):
    folder = damaged()
    os.truncate(folder / DESCRIPTION, 200 * 2**20)
    monkeypatch.setattr(bundle.json, "loads", lambda text: pytest.fail("parsed"))
    with pytest.raises(CheckpointError, match="209,715,200 bytes"):
        load_model(folder)


def test_nothing_that_a_description_names_is_run(damaged, tmp_path):
    canary = tmp_path / "canary"
    payload = {"_target_": "os.system", "_args_": [f"touch '{canary}'"], "command": f"touch '{canary}'"}
    load_model(damaged(config=payload, figures=payload))
    for key in ("architecture", "head", "decoding", "preprocessing", "classes", "replace"):
        with pytest.raises(CheckpointError):
            load_model(damaged(**{key: payload}))
    assert not canary.exists()


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 5_000, -1])
def test_cut_weights_are_refused(damaged, keep):
    folder = damaged()
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} (is damaged|carries no digest)"):
        load_model(folder)


def test_a_header_that_claims_more_than_the_file_is_refused(damaged):
    folder = damaged()
    (folder / WEIGHTS).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="carries no digest"):
        load_model(folder)


def test_missing_weights_are_refused(damaged):
    folder = damaged()
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(folder)


def _drop(state):
    del state["head.bias"]


def _add(state):
    state["head.more"] = torch.zeros(1)


def _widen(state):
    state["head.weight"] = torch.zeros(4, 4)


def _halve(state):
    state["head.weight"] = state["head.weight"].half()


def _round(state):
    state["head.weight"] = state["head.weight"].to(torch.int64)


@pytest.mark.parametrize("change", [_drop, _add, _widen, _halve, _round])
def test_weights_of_another_network_are_refused(damaged, change):
    folder = damaged()
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"digest": PLACEHOLDER})
    seal_safetensors(folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(folder)
