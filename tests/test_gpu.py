"""What has a stand-in for a GPU elsewhere, on one that is there: python -m pytest -m gpu tests/test_gpu.py."""

import gc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from safetensors.torch import load_file
from torch import distributed, nn

from tests import small_runs as runs
from tests.conftest import draw
from tlearn import interface
from tlearn.data.datamodule import Pixels
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.errors import BadImageError, NonFiniteError, OutOfMemoryError
from tlearn.features import extract
from tlearn.features.extract import Extractor, Reader
from tlearn.machine import has_tf32
from tlearn.models.backbones.timm import TimmBackbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.device import Arriving, FittingParts, float32
from tlearn.models.graph.fold import fold
from tlearn.models.network import TransferNetwork
from tlearn.training import last_checkpoint, signals
from tlearn.training.collect_outputs import Collector
from tlearn.training.data_parallel import split_over
from tlearn.training.ddp import further_processes
from tlearn.training.last_checkpoint import LastCheckpoint
from tlearn.training.module import TransferModule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]
GPU = torch.device("cuda", 0)
PREPROCESSING = {"resize": 72, "size": 64, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.2] * 3}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_weights(tmp_path_factory.mktemp("weights") / "weights.pth")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    return [draw(folder / f"{number}.jpg", (number, 90, 200), (90, 80), number) for number in range(150)]


@pytest.fixture(scope="module")
def body() -> nn.Module:
    torch.manual_seed(0)
    built = TorchvisionBackbone("resnet18", None).build().module
    built.train()(torch.rand(8, 3, 64, 64))
    return built.eval().requires_grad_(False)


@pytest.fixture
def reader() -> Reader:
    fixed = Transform(PREPROCESSING)
    return Reader(Decoder(), fixed, fixed)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


def test_features_are_those_of_the_cpu_unless_tf32_is_asked_for(body, reader, files):
    items = [(file, None) for file in files]
    found = {}
    for name, device, tf32 in (("cpu", torch.device("cpu"), False), ("exact", GPU, False), ("tf32", GPU, True)):
        with float32(tf32):
            found[name] = torch.cat(list(Extractor(body, reader, devices=[device], workers=2)(items)))
    assert found["exact"].device.type == "cpu"
    assert _difference(found["exact"], found["cpu"]) < 1e-5
    if has_tf32(GPU):
        assert 1e-5 < _difference(found["tf32"], found["cpu"]) < 1e-2


def test_several_gpus_compute_batches_in_turn(body, reader, files, monkeypatch):
    monkeypatch.setattr(extract, "_GPU_BATCH", 16)
    items = [(file, None) for file in files]
    with float32():
        one, several = (
            torch.cat(list(Extractor(body, reader, devices=devices, workers=0)(items)))
            for devices in ([GPU], [GPU, torch.device("cuda", torch.cuda.device_count() - 1)])
        )
    assert torch.equal(one, several)


def test_extraction_leaves_no_memory_taken_and_changes_no_random_number(body, reader, files):
    before, numbers = torch.cuda.memory_allocated(GPU), torch.get_rng_state()
    gc.disable()
    try:
        assert sum(map(len, Extractor(body, reader, devices=[GPU], workers=0)([(file, None) for file in files]))) == 150
        # Mean and deviation stay; the body has 45 MB.
        assert torch.cuda.memory_allocated(GPU) - before < 2**20
        assert torch.equal(torch.get_rng_state(), numbers)
    finally:
        gc.enable()


def test_a_body_that_asks_a_buffer_for_its_device_is_computed_on_the_gpu():
    pytest.importorskip("timm")
    body = TimmBackbone("vit_small_patch16_dinov3", None).build().module
    images = torch.rand(2, 3, 64, 64)
    with float32(), torch.no_grad():
        assert _difference(fold(body).to(GPU)(images.to(GPU)).cpu(), fold(body)(images)) < 1e-4


def test_products_are_exact_too():
    values = torch.rand(512, 512, device=GPU)
    with float32():
        assert _difference((values @ values).cpu(), values.double().cpu() @ values.double().cpu()) < 1e-6


def test_an_image_that_cannot_be_read_costs_no_batch_before_it(body, reader, files, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    got = []
    with pytest.raises(BadImageError, match=r"bad\.jpg"):
        got.extend(Extractor(body, reader, devices=[GPU], workers=0)([(file, None) for file in [*files[:130], bad]]))
    assert sum(map(len, got)) == 130 // extract._GPU_BATCH * extract._GPU_BATCH


def test_a_copy_arrives_without_a_wait_for_what_was_asked_since():
    values = torch.rand(1000, 1000, device=GPU)
    arriving = Arriving(values)
    values.zero_()
    assert arriving.is_late
    assert arriving.get().sum() > 0
    assert not arriving.get().is_pinned()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Leave 100 MiB on the GPU."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(GPU) + 100 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_what_does_not_fit_is_computed_in_parts(little_memory):
    fitting, calls = FittingParts(), []

    def compute(rows: torch.Tensor) -> torch.Tensor:
        calls.append(len(rows))
        # 16 MiB a row
        return rows.to(GPU).repeat(1, 4 * 2**20).sum(1).cpu()

    for _ in range(3):
        assert torch.equal(fitting(compute, torch.ones(16, 1)), torch.full((16,), 4.0 * 2**20))
    most = fitting.most
    assert most is not None
    assert most < 16
    # No size was tried twice that did not fit
    assert len([count for count in calls if count > most]) <= 3
    with pytest.raises(OutOfMemoryError):
        fitting(lambda rows: torch.empty(2**28, device=GPU), torch.ones(2, 1))


def test_a_run_and_its_evaluation_have_the_metrics_of_the_cpu(tmp_path, folder_data, weights):
    metrics = {}
    for name, more in {
        "cpu": ("trainer=cpu",),
        "gpu": ("trainer=gpu",),
        "images": ("trainer=gpu", "features=off", "data.num_workers=2"),
    }.items():
        metrics[name] = runs.run(tmp_path / name, folder_data, weights, *more)
        assert metrics[name]["val/loss"] == pytest.approx(metrics["cpu"]["val/loss"], abs=1e-4)
    found = [interface.Run(tmp_path / "gpu").model(device).logits(folder_data / "test") for device in ("cpu", "cuda")]
    assert torch.allclose(*found, atol=1e-3)


def test_trials_of_a_sweep_of_heads_have_the_metrics_of_the_cpu(tmp_path, folder_data, weights):
    metrics = []
    for device in ("cpu", "gpu"):
        own = ("optimizer.lr=0.01,0.02", f"trainer={device}", f"hydra.sweep.dir={tmp_path / device}")
        done = runs.program("train", "-m", *runs.overrides(folder_data, weights, *own), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        metrics.append([runs.json.loads((tmp_path / device / n / "metrics.json").read_text("utf-8")) for n in "01"])
    for cpu, gpu in zip(*metrics, strict=True):
        assert gpu["val/loss"] == pytest.approx(cpu["val/loss"], abs=1e-4)


def test_a_run_that_runs_out_of_memory_says_what_to_do(tmp_path, folder_data, weights, little_memory):
    more = (
        "trainer=gpu",
        "finetune=full",
        "data.batch_size=24",
        "transforms.size=448",
        f"hydra.run.dir={tmp_path}/run",
    )
    done = runs.program("train", *runs.overrides(folder_data, weights, *more), cwd=tmp_path)
    assert done.returncode == 8
    assert "out of memory: lower data.batch_size" in done.stderr


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, None], ids=str)
def test_dp_is_one_device(body, kind):
    network = TransferNetwork(body, nn.Linear(512, 3)).to(GPU).eval()
    images, seen = torch.rand(8, 3, 64, 64, device=GPU), []
    network.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with float32(), torch.no_grad(), torch.autocast("cuda", kind, enabled=kind is not None):
        one, several = network(images), split_over(network, [0, 0])(images)
    assert seen == [kind or torch.float32] * 3
    assert torch.allclose(several, one.float(), atol=1e-2 if kind else 1e-5)


@pytest.mark.parametrize("count", [1, 5, 9])
def test_dp_takes_a_batch_that_is_too_small_for_all_devices(body, count):
    network, images = TransferNetwork(body, nn.Linear(512, 3)).to(GPU).eval(), torch.rand(count, 3, 64, 64, device=GPU)
    with float32(), torch.inference_mode():
        assert torch.allclose(split_over(network, [0] * 8)(images), network(images), atol=1e-5)


@pytest.mark.parametrize("more", [(), ("features=off",), ("finetune=full", "trainer.precision=bf16-mixed")], ids=str)
def test_dp_trains_like_one_gpu(tmp_path, folder_data, weights, more):
    one = runs.run(tmp_path / "one", folder_data, weights, "trainer=gpu", *more)
    two = runs.run(tmp_path / "two", folder_data, weights, "trainer=dp", "trainer.strategy.devices=[0,0]", *more)
    # With what trains, BatchNorm sees half a batch.
    assert two["val/loss"] == pytest.approx(one["val/loss"], abs=0.5 if "finetune=full" in more else 1e-4)
    keys = [set(load_file(tmp_path / name / "model" / "model.safetensors")) for name in ("one", "two")]
    assert keys[0] == keys[1]


def test_a_group_on_nccl_is_left_and_aborted(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    trainer = type("Trainer", (), {"strategy": type("Strategy", (), {"launcher": None})})
    for number, fails in enumerate((False, True)):
        store = f"file://{tmp_path / str(number)}"
        distributed.init_process_group("nccl", init_method=store, rank=0, world_size=1, device_id=GPU)
        try:
            with further_processes(trainer):
                distributed.all_reduce(torch.ones(1, device=GPU))
                if fails:
                    raise ValueError("failed")
        except ValueError:
            assert fails
        assert not distributed.is_initialized()


def test_no_batch_waits_for_the_gpu_to_hear_what_other_processes_ask_for(tmp_path, monkeypatch):
    place = SimpleNamespace(root_device=GPU)
    trainer: Any = SimpleNamespace(world_size=2, accumulate_grad_batches=1, strategy=place)
    callback = LastCheckpoint(tmp_path)
    distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1, device_id=GPU
    )
    try:
        # The first call sets NCCL up.
        last_checkpoint._asked(trainer, False)
        torch.cuda.set_sync_debug_mode("error")
        for batch in range(4):
            callback.on_train_batch_start(trainer, None, None, batch)
        monkeypatch.setattr(signals, "stopping_signal", lambda: 15)
        monkeypatch.setattr(callback, "_save", lambda trainer: None)
        callback.on_train_batch_start(trainer, None, None, 4)
        with pytest.raises(signals.Stopped):
            callback.on_train_batch_start(trainer, None, None, 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        distributed.destroy_process_group()


def test_no_batch_of_an_evaluation_waits_for_the_gpu():
    collector, batches = Collector(), [torch.arange(3, device=GPU) + 3 * number for number in range(3)]
    # Pinned memory is allocated once.
    Arriving(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for indices in batches:
            collector.on_test_batch_end(None, None, {"indices": indices, "logits": indices.half()})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    collector.on_test_epoch_end(SimpleNamespace(strategy=SimpleNamespace(root_device=GPU)), None)
    assert torch.equal(collector._whole["indices"], torch.arange(9))
    assert torch.equal(collector._whole["logits"], torch.arange(9.0))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "bf16-mixed", "16-mixed"])
def test_every_precision_trains_and_measures_in_single(tmp_path, folder_data, weights, precision):
    more = ("trainer=gpu", f"trainer.precision={precision}", "features=off", "optimizer=sgd", "optimizer.lr=0.001")
    figures = runs.run(tmp_path / "run", folder_data, weights, *more)
    assert figures["val/loss"] != torch.tensor(figures["val/loss"]).bfloat16().item()


def test_a_loss_that_is_not_finite_is_found_before_anything_is_saved(tmp_path, folder_data, weights):
    more = ("trainer=gpu", "optimizer=sgd", "optimizer.lr=1e30", "callbacks.prepare_head=null", "finetune=full")
    with pytest.raises(NonFiniteError):
        runs.run(tmp_path / "run", folder_data, weights, *more)
    for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


def test_no_batch_of_images_waits_for_the_gpu():
    pixels = Pixels(torch.zeros(8, 3, 64, 64, dtype=torch.uint8), ((0.5,) * 3, (0.2,) * 3)).pin_memory()
    # Mean and deviation are sent once.
    pixels.to(GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        move_data_to_device([pixels], GPU)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_training_step_waits_for_the_gpu(body):
    network = TransferNetwork(body, nn.Linear(512, 7)).to(GPU)
    module: Any = TransferModule(network, 7).to(GPU)
    module.log = module.log_dict = lambda *_, **__: None
    module._trainer = SimpleNamespace(global_step=0, current_epoch=0)
    batch = torch.rand(8, 3, 64, 64, device=GPU), torch.arange(8, device=GPU) % 7, torch.arange(8, device=GPU)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            loss, _ = module._step(batch, step, "train")
            loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert module.losses["train/"].count == 24
