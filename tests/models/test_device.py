"""Precision, memory and copies of a device, with stand-ins for a GPU; tests/test_gpu.py has their twins."""

import csv
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests import small_runs as runs
from tlearn import interface
from tlearn.config import trainer as config_trainer
from tlearn.config.messages import explain
from tlearn.errors import ConfigError, OutOfMemoryError
from tlearn.machine import environment
from tlearn.models import device
from tlearn.models.device import Arriving, FittingParts, float32, require_cuda
from tlearn.models.network import TransferNetwork
from tlearn.runs.predictions import device_of
from tlearn.training.timing import devices

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"),
    torch.OutOfMemoryError("Caught OutOfMemoryError in replica 0 on device 0.\nOriginal Traceback (most recent ..."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic shapes"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("HIP error: out of memory\nHIP kernel errors might be asynchronously reported at some other API call"),
    RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    RuntimeError("miopenStatusAllocFailed"),
    RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("unable to mmap 4096 bytes from file </torch_1>: Cannot allocate memory (12)"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("HIP error: hipErrorOutOfMemory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.92 GB, other allocations: 89.75 MB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


def _rounded(values: Tensor) -> Tensor:
    """Round float32 to the 10 bits that tensor cores take."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def _rounding(exact: Callable[..., Tensor], allowed: Callable[[], bool]) -> Callable[..., Tensor]:
    def compute(inputs: Tensor, weight: Tensor, *more: object, **kinds: object) -> Tensor:
        if allowed() and inputs.dtype == torch.float32:
            inputs, weight = _rounded(inputs), _rounded(weight)
        return exact(inputs, weight, *more, **kinds)

    return compute


@pytest.fixture
def tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let convolutions and products round as torch's settings let a GPU do."""
    settings = {
        "conv2d": lambda: torch.backends.cudnn.allow_tf32,
        "linear": lambda: torch.get_float32_matmul_precision() != "highest",
    }
    for name, allowed in settings.items():
        monkeypatch.setattr(functional, name, _rounding(getattr(functional, name), allowed))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_weights(tmp_path_factory.mktemp("weights") / "weights.pth")


def test_tensor_cores_round_nothing_of_a_run_and_its_evaluation(tmp_path, folder_data, weights, monkeypatch, request):
    exact = runs.run(tmp_path / "exact", folder_data, weights)
    logits = interface.load_model(tmp_path / "exact").logits(sorted(folder_data.glob("test/*/*.jpg")))
    outputs = interface.Run(tmp_path / "exact").outputs("test")
    request.getfixturevalue("tensor_cores")
    images = torch.rand(2, 3, 8, 8)
    # As torch is by default: the stand-in does round.
    assert not torch.equal(
        functional.conv2d(images, images), functional.conv2d(images.double(), images.double()).float()
    )
    for name, more in (("again", ()), ("images", ("features=off",))):
        monkeypatch.setenv("TLEARN_CACHE", str(tmp_path / name / "cache"))
        again = runs.run(tmp_path / name, folder_data, weights, *more)
        for key in ("val/loss", "test/loss"):
            assert again[key] == pytest.approx(exact[key], abs=1e-6 if more == () else 1e-5)
    classifier = interface.load_model(tmp_path / "exact")
    assert torch.equal(classifier.logits(sorted(folder_data.glob("test/*/*.jpg"))), logits)
    assert torch.equal(interface.Run(tmp_path / "exact").outputs("test").logits, outputs.logits)
    # Convolutions are as they were for the program around it.
    assert torch.backends.cudnn.allow_tf32


def test_tensor_cores_round_nothing_of_a_sweep(tmp_path, folder_data, weights, monkeypatch, tensor_cores):
    found = {}
    for launcher, rates in (("basic", "0.01"), ("batched", "0.01,0.001")):
        monkeypatch.setenv("TLEARN_CACHE", str(tmp_path / launcher / "cache"))
        place = (f"hydra.sweep.dir={tmp_path / launcher}", f"hydra/launcher={launcher}")
        typed = runs.overrides(folder_data, weights, f"optimizer.lr={rates}", *place)
        assert runs.program("train", "-m", *typed, cwd=tmp_path).returncode == 0
        found[launcher] = runs.json.loads((tmp_path / launcher / "0" / "metrics.json").read_text())
        recorded = runs.json.loads((tmp_path / launcher / "0" / "environment.json").read_text())["tf32"]
        assert recorded == {"convolutions": False, "products": False}
    assert found["batched"]["test/loss"] == pytest.approx(found["basic"]["test/loss"], abs=1e-5)


def test_tf32_is_a_choice_with_features_of_its_own(tmp_path, folder_data, weights, tensor_cores, monkeypatch, capsys):
    monkeypatch.setattr(config_trainer, "has_tf32", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    losses = {}
    for kind in ("fp32", "tf32"):
        losses[kind] = runs.run(tmp_path / kind, folder_data, weights, f"features.precision={kind}")["test/loss"]
        assert f" {kind})" in (told := capsys.readouterr().out)
        assert ("tensor cores are faster with features.precision=tf32" in told) == (kind == "fp32")
        recorded = runs.json.loads((tmp_path / kind / "environment.json").read_text())["tf32"]
        assert recorded == {"convolutions": kind == "tf32", "products": kind == "tf32"}
    # The features are others: those of fp32 were not taken.
    assert losses["tf32"] != losses["fp32"]
    assert environment()["tf32"]["convolutions"]


def test_a_run_that_is_resumed_on_a_cpu_keeps_its_precision(capsys):
    half = {"accelerator": "cpu", "precision": "16-mixed"}
    with pytest.raises(ConfigError, match="needs a GPU, and there is none in use: choose bf16-mixed"):
        config_trainer._check_accelerator(half, resumes=False)
    config_trainer._check_accelerator(half, resumes=True)
    assert "none in use: the run goes on in bf16-mixed" in capsys.readouterr().out


def test_tf32_is_refused_where_there_is_none(tmp_path, folder_data, weights):
    with pytest.raises(ConfigError, match=r"precision=tf32 needs an NVIDIA GPU since Ampere, and the device is cpu"):
        runs.run(tmp_path / "run", folder_data, weights, "features.precision=tf32")


def test_the_precision_of_float32_is_given_back():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with float32(tf32=True):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        with float32():
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
        assert torch.backends.cudnn.allow_tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch has these switches since 2.9")
@pytest.mark.parametrize("kind", ["ieee", "tf32"])
@pytest.mark.parametrize("name", ["cuda.matmul", "cudnn.conv", "cudnn", "mkldnn.matmul", "all"])
def test_float32_is_exact_whatever_switches_of_torch_a_program_has_used(name, kind):
    switches = {
        "all": torch.backends,
        "cudnn": torch.backends.cudnn,
        "cuda.matmul": torch.backends.cuda.matmul,
        "cudnn.conv": torch.backends.cudnn.conv,
        "cudnn.rnn": torch.backends.cudnn.rnn,
        "mkldnn.matmul": torch.backends.mkldnn.matmul,
    }

    def precisions() -> dict[str, str]:
        return {name: switch.fp32_precision for name, switch in switches.items()}

    as_it_was = precisions()
    try:
        switches[name].fp32_precision = kind
        before = precisions()
        for tf32, expected in ((False, "ieee"), (True, "tf32")):
            with float32(tf32):
                inside = precisions()
                assert {inside[name] for name in switches if "." in name} == {expected}
                # torch refuses to tell these where they and the switches differ.
                assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
                assert torch.backends.cudnn.allow_tf32 is tf32
            assert precisions() == before
        # What follows the switch of all goes on to do so.
        torch.backends.fp32_precision = "tf32" if kind == "ieee" else "ieee"
        with float32():
            pass
        torch.backends.fp32_precision = kind
        assert precisions()["mkldnn.matmul"] == precisions()["all"] == kind
    finally:
        for name, precision in as_it_was.items():
            switches[name].fp32_precision = precision


def test_blocks_of_several_threads_end_in_any_order():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    first, second = float32(), float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cudnn.allow_tf32
    second.__exit__(None, None, None)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_a_warning_of_two_blocks_is_told_once():
    device._ignore_advice()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(2):
            with float32():
                warnings.warn("once", stacklevel=1)
    assert len(told) == 1


def test_no_warning_tells_of_torchs_other_switches(monkeypatch):
    def advise(precision: str) -> None:
        warnings.warn("Please use the new API settings to control TF32 behavior, such as ...", stacklevel=2)

    monkeypatch.setattr(torch, "set_float32_matmul_precision", advise)
    device._ignore_advice.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with float32():
            pass


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AssertionError("Torch not compiled with CUDA enabled"), "(torch: Torch not compiled with CUDA enabled)"),
        (
            RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you ...?\nError 803: driver combination"),
            "(torch: Unexpected error from cudaGetDeviceCount(). Did you ...? Error 803: driver combination)",
        ),
    ],
    ids=str,
)
def test_why_there_is_no_gpu_is_told_in_one_line(monkeypatch, error, words):
    monkeypatch.setattr(torch.cuda, "init", _raising(error))
    with pytest.raises(ConfigError) as caught:
        require_cuda("device=cuda", "device=cpu")
    assert str(caught.value) == f"device=cuda: there is no GPU that this torch can use; choose device=cpu {words}"


def _raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture
def old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver count two GPUs, and be too old for the CUDA of this torch."""
    error = RuntimeError("The NVIDIA driver on your system is too old")
    for name, stand_in in (("is_available", lambda: True), ("device_count", lambda: 2)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for name in ("init", "get_device_name", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, _raising(error))


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda", "cpu"])
def test_gpus_of_a_driver_that_is_too_old_are_refused(old_driver, tmp_path, folder_data, weights, accelerator):
    words = rf"trainer.accelerator={accelerator}: .*; choose trainer=cpu with CUDA_VISIBLE_DEVICES= .*too old"
    with pytest.raises(ConfigError, match=words):
        runs.run(tmp_path / "run", folder_data, weights, f"trainer.accelerator={accelerator}")
    for function in (device_of, devices):
        with pytest.raises(ConfigError, match=r"device=auto: there is no GPU .*; choose device=cpu"):
            function("auto")


def test_what_predicts_on_the_cpu_asks_nothing_of_a_driver_that_is_too_old(old_driver):
    assert environment()["gpus"] == []
    assert device_of("cpu") == torch.device("cpu")


def limited(most: int, error: Exception, sizes: list[int]) -> Callable[[Tensor], Tensor]:
    def compute(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        if len(inputs) > most:
            raise error
        return 2 * inputs

    return compute


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_the_size_that_fits_is_remembered(error, capsys):
    fitting, sizes = FittingParts(), []
    batches = [torch.rand(16, 2) for _ in range(9)]
    found = [fitting(limited(5, error, sizes), batch) for batch in batches]
    assert all(torch.equal(one, 2 * batch) for one, batch in zip(found, batches, strict=True))
    # 16 and 8 fail once, and 4 never does
    assert [size for size in sizes if size > 5] == [16, 8]
    assert "out of memory with 16 images at once: 8 from now on" in capsys.readouterr().out


def test_a_single_image_that_does_not_fit_ends_it():
    with pytest.raises(OutOfMemoryError, match="with a single image"):
        FittingParts()(limited(0, OUT_OF_MEMORY[0], []), torch.rand(4, 2))


def test_convolutions_for_which_there_is_no_memory_are_done_in_parts_and_one_that_fails_alone_speaks_for_itself():
    error, fitting = RuntimeError("GET was unable to find an engine to execute this computation"), FittingParts()
    batch = torch.rand(16, 2)
    assert torch.equal(fitting(limited(5, error, []), batch), 2 * batch)
    assert fitting.most == 4
    with pytest.raises(RuntimeError, match="find an engine"):
        FittingParts()(limited(0, error, []), batch)


def test_other_errors_are_not_taken_for_want_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        FittingParts()(limited(0, RuntimeError("shapes cannot be multiplied"), []), torch.rand(4, 2))


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_out_of_memory_is_one_line(error):
    status, message = explain(error)
    assert status == 8
    assert message.startswith("out of memory: lower data.batch_size")
    assert "\n" not in message
    assert explain(RuntimeError("shapes"))[1] is None


@pytest.mark.parametrize("maker", ["CUDA", "HIP"])
def test_a_gpu_for_which_torch_has_no_code_is_one_line(maker):
    # As of a GTX 1080 or V100 with the wheels for CUDA 13
    said = f"{maker} error: no kernel image is available for execution on the device\n{maker} kernel errors might be"
    assert explain(RuntimeError(said)) == (
        2,
        "this torch has no code for this kind of GPU: choose trainer=cpu (device=cpu)",
    )


def test_a_training_that_runs_out_of_memory_says_what_to_do(tmp_path, folder_data, weights, monkeypatch):
    forward = TransferNetwork.forward

    def full(self: nn.Module, images: Tensor) -> Tensor:
        if self.training:
            raise OUT_OF_MEMORY[0]
        return forward(self, images)

    monkeypatch.setattr(TransferNetwork, "forward", full)
    arguments = runs.overrides(folder_data, weights, f"hydra.run.dir={tmp_path / 'run'}", "finetune=full")
    done = runs.program("train", *arguments, cwd=tmp_path)
    assert done.returncode == 8
    assert "out of memory: lower data.batch_size" in done.stderr
    assert "Traceback" not in done.stderr


def few_at_once(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks fail with more images at once than some; the head has run by then."""
    forward = TransferNetwork.forward

    def small_only(self: nn.Module, images: Tensor) -> Tensor:
        if len(images) > most:
            raise OUT_OF_MEMORY[0]
        return forward(self, images)

    monkeypatch.setattr(TransferNetwork, "forward", small_only)


def test_predict_and_evaluate_halve_and_go_on(tmp_path, folder_data, weights, monkeypatch):
    run = tmp_path / "run"
    runs.run(run, folder_data, weights)
    before = interface.Run(run)
    outputs, classifier = before.outputs("test", features=True), before.model()
    files = sorted(folder_data.glob("test/*/*.jpg"))
    logits = classifier.logits(files)
    few_at_once(3, monkeypatch)
    assert torch.allclose(classifier.logits(files), logits, atol=1e-5)
    again = interface.Run(run).outputs("test", features=True)
    assert torch.allclose(again.logits, outputs.logits, atol=1e-5)
    assert torch.allclose(again.features, outputs.features, atol=1e-5)
    arguments = (f"run={run}", f"images={folder_data / 'test'}", f"output={tmp_path / 'table.csv'}")
    assert runs.program("predict", *arguments, cwd=tmp_path).returncode == 0
    with (tmp_path / "table.csv").open() as file:
        classes = [row["class"] for row in csv.DictReader(file)]
    assert classes == [outputs.classes[index] for index in logits.argmax(1)]
    for kind in ("flip", "views"):
        done = runs.program("evaluate", f"run={run}", "trainer=cpu", f"tta={kind}", "report=off", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_copy_to_the_cpu_is_the_tensor():
    values = torch.rand(3)
    assert torch.equal(Arriving(values).get(), values)
