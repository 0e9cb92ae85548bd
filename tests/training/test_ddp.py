"""Several processes and several devices."""

import copy
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import distributed, nn

from tests.forks import Running
from tests.small_runs import overrides, program, run, write_weights
from tlearn.errors import ConfigError
from tlearn.models.network import TransferNetwork
from tlearn.training import data_parallel, ddp
from tlearn.training.ddp import _Launcher, further_processes


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Do on one CPU what torch does on GPUs: copy a module, run the parts in threads, gather; list what was copied."""
    copied = []

    def broadcast(tensors, devices, detach=False):
        return [[tensor.detach().clone() if detach else tensor * 1 for tensor in tensors] for _ in devices]

    # The module, whose name its function has taken
    copying = sys.modules["torch.nn.parallel.replicate"]
    monkeypatch.setattr(copying, "_broadcast_coalesced_reshape", broadcast)
    monkeypatch.setattr(copying, "_get_device_index", lambda device, optional: device)

    def scatter(devices, sizes, dim, tensor):
        return tensor.chunk(len(devices), dim)

    monkeypatch.setattr(sys.modules["torch.nn.parallel.scatter_gather"].Scatter, "apply", scatter)

    def data_parallel_on_cpu(module, images, device_ids, module_kwargs=None):
        copied.append(module)
        inputs, named = nn.parallel.scatter_gather.scatter_kwargs((images,), module_kwargs, device_ids)
        replicas = nn.parallel.replicate(module, device_ids[: len(inputs)])
        graded, computed = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")

        def compute(replica, part, more):
            # As torch.nn.parallel.parallel_apply does it: without a dtype
            with torch.set_grad_enabled(graded), torch.autocast("cpu", enabled=computed):
                return replica(*part, **more)

        with ThreadPoolExecutor(len(device_ids)) as pool:
            return torch.cat(list(pool.map(compute, replicas, inputs, named)))

    monkeypatch.setattr(data_parallel, "data_parallel", data_parallel_on_cpu)
    return copied


def _network(stages: Sequence[str] = ()) -> TransferNetwork:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    body.train()(torch.rand(32, 3, 8, 8))
    return TransferNetwork(body, nn.Linear(8, 4), stages).train()


@pytest.mark.parametrize("stages", [(), ("0",)], ids=["head", "a convolution"])
def test_dp_gives_the_gradients_of_one_device(two_devices, stages):
    one = _network(stages)
    split, images = copy.deepcopy(one), torch.rand(6, 3, 8, 8)
    one(images).square().mean().backward()
    data_parallel.split_over(split, [0, 1])(images).square().mean().backward()
    for (name, left), right in zip(one.named_parameters(), split.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None), name
        assert left.grad is None or torch.allclose(left.grad, right.grad, atol=1e-7), name
    # BatchNorm is frozen: exactly as it was, on each device
    assert all(torch.equal(left, right) for left, right in zip(one.buffers(), split.buffers(), strict=True))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, None], ids=str)
def test_dp_computes_in_the_precision_of_the_trainer(two_devices, kind):
    network, seen = _network(), []
    network.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    images = torch.rand(6, 3, 8, 8)
    with torch.autocast("cpu", kind, enabled=kind is not None):
        logits = data_parallel.split_over(network, [0, 1])(images)
        expected = network(images)
    assert seen == [kind or torch.float32] * 3
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected.float(), atol=1e-2 if kind else 1e-6)


@pytest.mark.parametrize(("count", "devices"), [(1, 2), (5, 4), (9, 8), (10, 8)])
def test_dp_takes_a_batch_that_is_too_small_for_all_devices(two_devices, count, devices):
    network, images = _network(), torch.rand(count, 3, 8, 8)
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            logits = data_parallel.split_over(network, list(range(devices)))(images)
            assert torch.allclose(logits, network(images), atol=1e-6)


def test_dp_copies_the_head_alone_where_the_body_was_computed_once(two_devices):
    network = _network()
    split = data_parallel.split_over(network, [0, 1])
    features = torch.rand(6, 3, 8)
    network.start_after(network.frozen_part(8))
    logits = split(features)
    # The mean over the three versions of each image
    assert torch.allclose(logits, network.head(features.mean(1)), atol=1e-6)
    split(features).sum().backward()
    assert network.head.weight.grad is not None
    assert [len(list(module.parameters())) for module in two_devices] == [2, 2]


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has the GPUs it needs")
def test_dp_says_what_it_needs():
    with pytest.raises(ConfigError, match="at least 2 GPUs"):
        data_parallel.DataParallelStrategy()


@pytest.mark.parametrize("devices", [[], [0, 7], [2]], ids=str)
def test_gpus_that_are_not_there_are_refused(monkeypatch, devices):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"trainer\.strategy\.devices=\[.*: the GPUs of this machine are 0, 1"):
        data_parallel.DataParallelStrategy(devices)


class _Process:
    """A further process, as its launcher knows it."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def wait(self, patience: float | None = None) -> None:
        self.told.append("waited" if patience else "not waited")


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Join a process group of one, and tell what becomes of it."""
    told: list[str] = []
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    destroy = distributed.destroy_process_group
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: [told.append("destroyed"), destroy()])
    yield told
    if distributed.is_initialized():
        destroy()


def _trainer_of(launcher: object) -> Any:
    return SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))


def _launcher(told: list[str]) -> ddp._Launcher:
    launcher = ddp._Launcher.__new__(ddp._Launcher)
    launcher.procs = [_Process(told)]
    return launcher


def test_the_first_process_leaves_the_group_before_it_waits_for_the_others(group):
    with further_processes(_trainer_of(_launcher(group))):
        pass
    assert group == ["destroyed", "waited"]


class _Centred(nn.BatchNorm2d):
    """As a layer of a user's own that trains with its buffers."""


@pytest.mark.parametrize(
    ("asked", "own", "sends"),
    [
        ({}, False, False),
        ({"broadcast_buffers": True}, False, True),
        ({}, True, True),
        ({"broadcast_buffers": False}, True, False),
    ],
)
def test_a_step_sends_buffers_where_own_layers_have_some_or_it_is_asked_to(group, monkeypatch, asked, own, sends):
    sent: list[int] = []
    monkeypatch.setattr(distributed, "_broadcast_coalesced", lambda group, tensors, *_: sent.append(len(tensors)))
    place = {"parallel_devices": [torch.device("cpu")], "cluster_environment": LightningEnvironment()}
    strategy = ddp.DDPStrategy(**place, **asked)
    strategy.model = LightningModule()
    strategy.model.network = nn.Sequential(_Centred(3) if own else nn.Identity(), _network())
    monkeypatch.setattr(strategy.model, "forward", strategy.model.network.forward)
    strategy.configure_ddp()
    wrapped = strategy.model
    # Once all have the same parameters and buffers
    sent.clear()
    wrapped(torch.rand(4, 3, 8, 8))
    assert sent == ([6 if own else 3] if sends else [])


def test_a_further_process_leaves_the_group_at_the_end_of_the_block(group):
    with further_processes(_trainer_of(None)):
        assert group == []
    assert group == ["destroyed"]


@pytest.mark.parametrize("launches", [True, False])
def test_a_process_that_failed_aborts_the_group(group, monkeypatch, launches):
    told = group
    monkeypatch.setattr(distributed.ProcessGroup, "abort", lambda self: told.append("aborted"), raising=False)
    launcher = _launcher(told) if launches else None
    with pytest.raises(ValueError, match="failed"), further_processes(_trainer_of(launcher)):
        raise ValueError("failed")
    assert told == [*(["not waited"] if launches else []), "aborted", "destroyed"]


def test_a_group_of_torchrun_goes_on_with_the_next_run(group, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with further_processes(_trainer_of(None)):
        pass
    assert group == []
    assert distributed.is_initialized()


def divert_errors(file: Path) -> None:
    """Write what this process says of errors, and what it starts, into a file."""
    os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), 2)


@pytest.mark.slow
def test_ddp_trains_every_trial_of_a_sweep_and_leaves_exact_run_folders(tmp_path, folder_data):
    weights, sweep = write_weights(tmp_path / "w.pth"), tmp_path / "a sweep"
    alone = run(tmp_path / "alone", folder_data, weights, "optimizer=sgd", "seed=1")
    shown = ("report=default", "report.train_pictures=always")
    several = ["trainer=ddp_cpu", "data.batch_size=4", "optimizer=sgd", "seed=1", "finetune=frozen,full", *shown]
    command = [*overrides(folder_data, weights, *several), f"hydra.sweep.dir='{sweep}'"]
    (errors := tmp_path / "errors.txt").touch()
    started = Running("train", "-m", *command, cwd=tmp_path, prepare=partial(divert_errors, errors))
    assert started.end() == 0, errors.read_text(encoding="utf-8")
    # Neither process tells that it is one of two, or that Lightning calls what torch has since deprecated.
    assert errors.read_text(encoding="utf-8") == ""
    printed = started.said()
    assert printed.strip().splitlines()[-1] == str(sweep / "results.csv")
    assert printed.count("2 processes x data.batch_size=4: 8 images a step; optimizer.lr stays ") == 2
    # shufflenet's, where all of it trains
    assert printed.count("BatchNorm in what trains ") == 1
    # Features are computed by one of them.
    assert printed.count("images in") <= 1
    with (sweep / "results.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done", "done"]
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1"]
    assert {path.name for path in tmp_path.iterdir()} == {"a sweep", "alone", "errors.txt", "pictures", "w.pth"}
    frozen, full = (json.loads((sweep / name / "metrics.json").read_text()) for name in ("0", "1"))
    for name in ("val/loss", "val/top1", "test/loss", "test/top1", "epoch/best", "params/trainable"):
        assert frozen[name] == pytest.approx(alone[name], abs=1e-4), name
    folder = sweep / "1"
    assert (folder / "train.log").read_text(encoding="utf-8").count("epoch 1/1 ") == 1
    # One report, of all pictures of both processes
    assert "could not be made" not in (folder / "report.html").read_text(encoding="utf-8")
    with (folder / "report" / "splits.csv").open(encoding="utf-8", newline="") as file:
        counts = {row["split"]: (row["pictures"], float(row["loss"])) for row in csv.DictReader(file)}
    assert {split: count for split, (count, _) in counts.items()} == {"train": "24", "val": "12", "test": "12"}
    assert counts["test"][1] == pytest.approx(full["test/loss"], abs=1e-5)
    # The weights of the two processes' common network, measured by one process
    arguments = [f"run='{folder}'", "split=val", "trainer=cpu", "report=off", f"hydra.run.dir={tmp_path / 'one'}"]
    assert program("evaluate", *arguments, cwd=tmp_path).returncode == 0
    one = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert one["val/top1"] == pytest.approx(full["val/top1"], abs=1e-7)
    assert one["val/loss"] == pytest.approx(full["val/loss"], abs=1e-6)


def test_several_processes_that_no_command_could_start_are_refused(tmp_path, folder_data):
    with pytest.raises(ConfigError, match=r"by the command line or tlearn\.fit alone"):
        run(tmp_path / "run", folder_data, write_weights(tmp_path / "w.pth"), "trainer=ddp_cpu")


@pytest.mark.parametrize(("command", "advice"), [("train resume=x", "go on with: train resume=x"), (None, "start it")])
def test_a_further_process_that_is_killed_is_named(capsys, command, advice):
    launcher = _Launcher(LightningEnvironment(), 3, 1)
    launcher.resuming = lambda: command
    launcher.procs = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    launcher.procs[1].kill()
    launcher._watch(2, launcher.procs[1])
    line = "process 2 of the run was killed (signal 9), as the system does where memory runs out: all end; "
    assert f"tlearn: {line}{advice}" in capsys.readouterr().err
    # Not one that this process has killed, nor one that has failed, which has said why itself.
    launcher.ended = launcher.procs[1:]
    launcher._watch(2, launcher.procs[1])
    launcher.procs[0].communicate(b"")
    launcher._watch(1, launcher.procs[0])
    assert not capsys.readouterr().err
