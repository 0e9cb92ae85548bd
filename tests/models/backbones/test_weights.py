import os
import pickle
import random
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tlearn.errors import CheckpointError, ConfigError
from tlearn.models.backbones.weights import load_body, read_state_dict, weights_path


class Attack:
    """What runs code where a pickle is trusted."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


STATE = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.zeros(2)}


def body():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(3, 2))


def load(state, path=Path("file.pth"), module=None):
    module = module or body()
    load_body(module, OrderedDict(state), removed={"1"}, path=path, name="tiny")
    return module


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["bare", "state_dict", "model", "parallel", "both"],
)
def test_the_usual_wrappings_of_a_state_dict_are_read(tmp_path, wrap):
    torch.save(wrap(STATE), tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth")
    assert list(state) == list(STATE)
    assert torch.equal(state["0.weight"], STATE["0.weight"])


def test_safetensors_are_read_and_become_trainable(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    module = load(read_state_dict(tmp_path / "w.safetensors"))
    before = (tmp_path / "w.safetensors").read_bytes()
    module.requires_grad_()
    module(torch.ones(1, 3)).sum().backward()
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    assert not torch.equal(module[0].weight, STATE["0.weight"])
    assert (tmp_path / "w.safetensors").read_bytes() == before


def test_versions_of_layers_survive_the_removal_of_a_prefix(tmp_path):
    torch.save(nn.DataParallel(nn.Sequential(nn.BatchNorm1d(2))).state_dict(), tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth")._metadata["0"]["version"] == 2


def test_two_state_dicts_in_one_file_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1), "module.conv.weight": torch.ones(1)}, path := tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"conv\.weight and module\.conv\.weight are both there"):
        read_state_dict(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("save", ["torch", "legacy", "pickle"])
def test_a_file_with_code_is_refused_and_nothing_runs(tmp_path, save, protocol):
    path, canary = tmp_path / "w.pth", tmp_path / "canary"
    content = {**STATE, "0.extra": Attack(canary)}
    if save == "pickle":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=save == "torch")
    with pytest.raises(CheckpointError, match=f"{path} refused: "):
        read_state_dict(path)
    assert not canary.exists()


def test_a_whole_network_in_a_file_is_refused_with_what_to_save_instead(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"refused: .*torch.nn.modules.linear.Linear.* save model.state_dict\(\)"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>\n<html>", b"PK\3\4", b"\x80\x02", bytes(100)])
def test_what_is_no_file_of_weights_is_refused_with_its_path(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{tmp_path / name} is damaged or not a weights file"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("content", [[torch.zeros(1)], torch.zeros(1), {}, {"epoch": 3}, {0: torch.zeros(1)}, 7])
def test_what_holds_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("tensor", [torch.zeros(2, device="meta"), torch.zeros(2, 2).to_sparse()])
def test_tensors_without_plain_memory_are_refused(tmp_path, tensor):
    torch.save({"0.weight": tensor}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"0\.weight are not plain tensors"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["torch", "legacy", "safetensors"])
def test_cut_and_damaged_files_are_refused_or_read_and_nothing_else(tmp_path, kind):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "torch")
    whole, draw = path.read_bytes(), random.Random(0)
    for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            read_state_dict(path)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(damaged)
        with suppress(CheckpointError):
            read_state_dict(path)


def test_loaded_tensors_share_no_memory_and_have_full_precision():
    line = torch.arange(3.0)
    state = {"0.weight": line.expand(2, 3), "0.bias": line[:2].half()}
    module = load(state)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        module[0].weight[0].add_(1)
    assert torch.equal(module[0].weight[1], line)
    assert torch.equal(line, torch.arange(3.0))


def test_keys_of_the_removed_classifier_are_left_out_and_others_are_not():
    load(STATE | {"1.weight": torch.zeros(9)})
    with pytest.raises(CheckpointError, match=r"is not a tiny state dict.*\n  2\.weight is unexpected"):
        load(STATE | {"2.weight": torch.zeros(9)})


def test_odd_versions_in_a_file_are_refused():
    class Versioned(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
            assert local_metadata["version"] < 2
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    state = OrderedDict(STATE)
    state._metadata = {"0": {"version": "x"}}
    with pytest.raises(CheckpointError, match="is not a tiny state dict"):
        load_body(nn.Sequential(Versioned(3, 2)), state, removed=(), path=Path("w.pth"), name="tiny")


def test_tensors_that_no_state_dict_holds_are_never_left_without_memory():
    module = body()
    module.register_buffer("computed", torch.zeros(1, device="meta"), persistent=False)
    with pytest.raises(RuntimeError, match="computed"):
        load(STATE, module=module)


@pytest.mark.parametrize("versions", [5, {5: {}}])
def test_damaged_versions_of_layers_are_refused(tmp_path, versions):
    state = OrderedDict(a=torch.zeros(2))
    state._metadata = versions
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="versions of its layers"):
        read_state_dict(tmp_path / "w.pth")


def test_only_a_file_ending_makes_a_path(tmp_path, monkeypatch):
    assert weights_path(None) is None
    assert weights_path("IMAGENET1K_V1") is None
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pt").touch()
    assert weights_path("~/w.pt") == tmp_path / "w.pt"
    with pytest.raises(CheckpointError, match=f"no weights file {tmp_path}/none.pth"):
        weights_path(str(tmp_path / "none.pth"))
    for name in ("a" * 300, "~nobody-of-this-name/w"):
        with pytest.raises(CheckpointError, match="no weights file"):
            weights_path(f"{name}.pth")
    for given in ("labels.csv", "new/none.ckpt", "~/w", "./IMAGENET1K_V1", str(tmp_path)):
        with pytest.raises(ConfigError, match=rf"^backbone.weights={given}: files of weights end in .pth, "):
            weights_path(given)
