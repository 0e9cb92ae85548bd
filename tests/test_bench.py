"""Timing a network's steps: numbers for each device, and the network itself on request."""

import json

import pytest
import torch

from tests.small_runs import BACKBONE, program
from tlearn.training import timing
from tlearn.training.timing import devices


def _bench(tmp_path, *arguments: str, backbone=BACKBONE):
    small = ("size=32", "data.batch_size=4", "batches=2", "warmup=0", "device=cpu")
    return program(
        "bench", f"backbone={backbone}", *small, *arguments, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path
    )


@pytest.mark.parametrize("finetune", ["frozen", "full", "scratch"])
def test_every_part_of_a_step_is_timed(tmp_path, finetune):
    done = _bench(tmp_path, f"finetune={finetune}", "num_classes=7")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    parts = {name: found[f"cpu/{name}_s"] for name in ("forward", "backward", "step", "total")}
    assert min(parts.values()) > 0
    assert max(parts["forward"], parts["backward"], parts["step"]) < parts["total"]
    assert found["cpu/images_per_s"] == pytest.approx(4 / parts["total"])
    assert found["params/trainable"] == (found["params/total"] if finetune != "frozen" else 1024 * 7 + 7)
    assert "images [4, 3, 32, 32] -> features [4, 1024] -> logits [4, 7]" in done.stdout
    assert f"{found['cpu/images_per_s']:.1f}" in done.stdout
    assert done.stdout.splitlines()[-1] == str(tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["cpus"] > 0
    # As it was timed, and not as torch is by default
    assert environment["tf32"] == {"convolutions": False, "products": False}


@pytest.mark.parametrize(
    ("show", "shown", "hidden"),
    [("head", "Dropout", "Conv2d"), ("body", "Conv2d", "Dropout"), ("network", "(head): Sequential", "CPU")],
)
def test_a_network_is_printed_instead(tmp_path, show, shown, hidden):
    done = _bench(tmp_path, f"show={show}", "head=mlp")
    assert shown in done.stdout
    assert hidden not in done.stdout
    assert "-> logits [4, 10]" in done.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()).keys() == {"params/total", "params/trainable"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["optimizer=none"], "choose optimizer=adam"),
        (["finetune=gradual"], "time finetune=frozen for the epochs before it"),
        (
            ["finetune=full", "data.batch_size=1"],
            "data.batch_size=1 and images of 32 pixels: Expected more than 1 value",
        ),
        (["show=tail"], "expected one of body, head, network"),
        (["size=0"], "size=0"),
    ],
)
def test_what_cannot_be_timed_is_refused(tmp_path, arguments, reason):
    done = _bench(tmp_path, *arguments)
    assert done.returncode == 2
    assert reason in done.stderr


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path):
    done = _bench(tmp_path, "size=100", backbone="vit_b_16")
    assert done.returncode == 2
    assert "images of 100 x 100 pixels do not suit this backbone" in done.stderr


def test_no_weights_are_loaded_and_the_size_is_that_of_the_weights(tmp_path):
    # Weights that come with no installation: they would be downloaded.
    done = _bench(tmp_path, "size=null", "show=head", backbone="mobilenet_v3_small")
    assert done.returncode == 0, done.stderr
    assert "images [4, 3, 224, 224]" in done.stdout


def test_one_gpu_of_each_kind_is_timed(monkeypatch):
    names = ["A", "B", "A"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    gpus = {torch.device("cuda", 0): "A", torch.device("cuda", 1): "B"}
    assert devices("cuda") == gpus
    assert devices() == {torch.device("cpu"): f"CPU, {torch.get_num_threads()} threads", **gpus}
    assert list(devices("cpu")) == [torch.device("cpu")]


def test_a_batch_that_is_too_large_says_so(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(timing, "_step", full)
    done = _bench(tmp_path)
    assert done.returncode == 8
    assert "data.batch_size=4 does not fit into the memory of cpu: lower it" in done.stderr


def test_the_memory_of_a_process_stays_empty_where_the_system_does_not_tell_it(tmp_path, monkeypatch):
    def timed(network, optimizer, shapes, device, *_):
        times = dict.fromkeys(("forward_s", "backward_s", "step_s", "total_s", "images_per_s"), 0.5)
        return times if device.type == "cpu" else {**times, "peak_memory_gb": 1.25}

    monkeypatch.setattr(timing, "devices", lambda _: {torch.device("cpu"): "CPU", torch.device("cuda"): "A GPU"})
    monkeypatch.setattr(timing, "time_steps", timed)
    done = _bench(tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines() if "GPU" in line or "GB" in line] == ["GB", "1.2500"]
