"""Several processes and several devices."""

import copy
import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.small_runs import overrides, process, program, run, write_weights
from tlearn.errors import ConfigError
from tlearn.training import data_parallel


def _fake_data_parallel(network, images, device_ids):
    """Do on one CPU what torch does on GPUs: copy the network, run the parts, gather."""
    parts = images.chunk(len(device_ids))
    assert len(parts) == len(device_ids)
    return torch.cat([network(part) for part in parts])


def test_dp_gives_the_gradients_of_one_device(monkeypatch):
    monkeypatch.setattr(data_parallel, "data_parallel", _fake_data_parallel)
    one = nn.Linear(4, 2)
    split = copy.deepcopy(one)
    images = torch.rand(6, 4)
    one(images).square().mean().backward()
    data_parallel.split_over(split, [0, 1])(images).square().mean().backward()
    assert torch.allclose(one.weight.grad, split.weight.grad)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has the GPUs it needs")
def test_dp_says_what_it_needs():
    with pytest.raises(ConfigError, match="at least 2 GPUs"):
        data_parallel.DataParallelStrategy()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_dp_trains_like_one_gpu(tmp_path, folder_data):
    weights = write_weights(tmp_path / "w.pth")
    one = run(tmp_path / "one", folder_data, weights, "trainer=gpu")
    two = run(tmp_path / "two", folder_data, weights, "trainer=dp")
    assert two["val/loss"] == pytest.approx(one["val/loss"], abs=1e-4)
    keys = [set(load_file(tmp_path / name / "model" / "model.safetensors")) for name in ("one", "two")]
    assert keys[0] == keys[1]


@pytest.mark.slow
def test_ddp_trains_and_leaves_one_exact_run_folder(tmp_path, folder_data):
    weights = write_weights(tmp_path / "w.pth")
    folder = tmp_path / "a run"
    shown = ("report=default", "report.train_pictures=always")
    command = [*overrides(folder_data, weights, "trainer=ddp_cpu", *shown), "finetune=full"]
    command.append(f"hydra.run.dir='{folder}'")
    done = process("train", *command, cwd=tmp_path)
    # Neither process tells that it is one of two.
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().splitlines()[-1] == str(folder)
    figures = json.loads((folder / "metrics.json").read_text())
    assert (folder / "train.log").read_text(encoding="utf-8").count("epoch 1/1 ") == 1
    # One report, of all pictures of both processes
    assert "could not be made" not in (folder / "report.html").read_text(encoding="utf-8")
    with (folder / "report" / "splits.csv").open(encoding="utf-8", newline="") as file:
        counts = {row["split"]: (row["pictures"], float(row["loss"])) for row in csv.DictReader(file)}
    assert {split: count for split, (count, _) in counts.items()} == {"train": "24", "val": "12", "test": "12"}
    assert counts["test"][1] == pytest.approx(figures["test/loss"], abs=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"a run", "pictures", "w.pth"}
    # The weights of the two processes' common network, measured by one process
    arguments = [f"run='{folder}'", "split=val", "trainer=cpu", f"hydra.run.dir={tmp_path / 'one'}"]
    assert program("evaluate", *arguments, cwd=tmp_path).returncode == 0
    one = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert one["val/top1"] == pytest.approx(figures["val/top1"], abs=1e-7)
    assert one["val/loss"] == pytest.approx(figures["val/loss"], abs=1e-6)


@pytest.mark.slow
def test_ddp_runs_every_trial_of_a_sweep(tmp_path, folder_data):
    command = [*overrides(folder_data, write_weights(tmp_path / "w.pth"), "trainer=ddp_cpu"), "seed=1,2"]
    done = process("train", "-m", *command, f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "sweep" / "results.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done", "done"]
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0", "1"]


def test_several_processes_that_no_command_could_start_are_refused(tmp_path, folder_data):
    with pytest.raises(ConfigError, match=r"by the command line or tlearn\.fit alone"):
        run(tmp_path / "run", folder_data, write_weights(tmp_path / "w.pth"), "trainer=ddp_cpu")


def test_gradual_unfreezing_is_refused_under_ddp(tmp_path, folder_data):
    command = overrides(folder_data, write_weights(tmp_path / "w.pth"), "trainer=ddp_cpu", "finetune=gradual")
    done = program("train", *command, cwd=Path(tmp_path))
    assert done.returncode == ConfigError.exit_status
    assert "finetune.unfreeze_epoch" in done.stderr
