"""Features are those of the plain body and the plain transform, however they are computed."""

import gc
import random
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from tests.conftest import draw
from tlearn.data.decode import Decoder
from tlearn.data.transforms import Transform
from tlearn.errors import BadImageError, ConfigError
from tlearn.features import extract, precision
from tlearn.features.extract import Extractor, Reader

PREPROCESSING = {
    "resize": 36,
    "size": 32,
    "interpolation": "bilinear",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    numbers = random.Random(0)
    return [
        draw(tmp_path / f"{number}.jpg", tuple(numbers.choices(range(256), k=3)), (50, 40 + number % 7), number)
        for number in range(70)
    ]


@pytest.fixture
def body() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    for _ in range(20):
        network.train()(torch.randn(16, 3, 32, 32))
    return network.eval().requires_grad_(False)


def reader(*steps: Callable, **more: object) -> Reader:
    return Reader(Decoder(), Transform({**PREPROCESSING, **more}), Transform(PREPROCESSING, steps))


def all_of(extractor: Extractor, items: list) -> torch.Tensor:
    return torch.cat(list(extractor(items)))


def plain(body: nn.Module, read: Reader, files: list[Path]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([body(read.fixed(Decoder()(file))[None]) for file in files])


def test_features_are_those_of_the_plain_body_in_order(body, files):
    read = reader()
    features = all_of(Extractor(body, read), [(file, None) for file in files])
    assert features.dtype == torch.float32
    assert torch.allclose(features, plain(body, read, files), atol=1e-5, rtol=1e-5)


def test_the_body_itself_is_not_touched(body, files):
    before = {name: value.clone() for name, value in body.state_dict().items()}
    all_of(Extractor(body, reader(), torch.bfloat16), [(file, None) for file in files[:20]])
    after = body.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_loader_workers_give_the_same_as_threads(body, files, monkeypatch):
    extractor, items = Extractor(body, reader()), [(file, None) for file in files]
    threads = all_of(extractor, items)
    monkeypatch.setattr(extract, "_GPU_BATCH", 16)
    assert torch.allclose(torch.cat(list(extractor._on_devices(items))), threads, atol=1e-6)


@pytest.mark.parametrize("compute", [Extractor.__call__, Extractor._on_devices], ids=["threads", "devices"])
def test_features_that_are_computed_change_no_random_number_of_the_run(body, files, compute):
    before = torch.get_rng_state()
    assert sum(map(len, compute(Extractor(body, reader(), workers=0), [(file, None) for file in files[:5]]))) == 5
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bad", [16, 40, 69])
def test_an_image_that_a_worker_cannot_read_costs_no_batch_before_it(body, files, monkeypatch, bad):
    monkeypatch.setattr(extract, "_GPU_BATCH", 16)
    files[bad].write_bytes(b"not an image")
    extractor, got = Extractor(body, reader(), workers=0), []
    with pytest.raises(BadImageError, match=files[bad].name):
        got.extend(extractor._on_devices([(file, None) for file in files]))
    assert sum(map(len, got)) == bad // 16 * 16


def test_several_devices_compute_batches_in_turn_and_are_left_empty(body, files, monkeypatch):
    items, ran = [(file, None) for file in files], []
    expected = all_of(Extractor(body, reader()), items)
    monkeypatch.setattr(extract, "_GPU_BATCH", 16)
    extractor, features = Extractor(body, reader(), devices=[torch.device("cpu")] * 3, workers=0), Extractor._features

    def noted(self: Extractor, body: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        ran.append(body)
        return features(self, body, pixels)

    monkeypatch.setattr(Extractor, "_features", noted)
    assert torch.allclose(torch.cat(list(extractor._on_devices(items))), expected, atol=1e-6)
    assert [ran.index(module) for module in ran] == [0, 1, 2, 0, 1]
    assert extractor._bodies == ran[:1]


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (1, ["asked 0", "asked 1", "fetched 0", "asked 2", "fetched 1", "asked 3", "fetched 2", "fetched 3"]),
        (2, ["asked 0", "asked 1", "asked 2", "fetched 0", "asked 3", "fetched 1", "fetched 2", "fetched 3"]),
    ],
)
def test_a_batch_is_fetched_when_its_device_has_been_asked_for_the_next(body, files, monkeypatch, devices, expected):
    told: list[str] = []

    class Late:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor, self.number = tensor, sum(one.startswith("asked") for one in told)
            told.append(f"asked {self.number}")

        def get(self) -> torch.Tensor:
            told.append(f"fetched {self.number}")
            return self.tensor

    monkeypatch.setattr(extract, "_GPU_BATCH", 18)
    monkeypatch.setattr(extract, "Arriving", Late)
    extractor = Extractor(body, reader(), devices=[torch.device("cpu")] * devices, workers=0)
    assert sum(map(len, extractor._on_devices([(file, None) for file in files]))) == 70
    assert told == expected


@pytest.mark.parametrize("compute", [Extractor.__call__, Extractor._on_devices], ids=["threads", "devices"])
def test_the_memory_of_a_body_is_free_when_its_features_are_there(body, files, compute):
    gc.disable()
    try:
        extractor = Extractor(body, reader(), workers=0)
        weight = weakref.ref(next(extractor._bodies[0].parameters()))
        assert sum(map(len, compute(extractor, [(file, None) for file in files[:20]]))) == 20
        del extractor
        assert weight() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(("device", "waits"), [("cuda", False), ("mps", True)])
def test_pixels_are_kept_until_they_have_been_sent(body, monkeypatch, device, waits):
    sent = []

    class Pixels:
        def to(self, device: torch.device, non_blocking: bool) -> torch.Tensor:
            sent.append((device.type, not non_blocking))
            return torch.zeros(2, 3, 32, 32, dtype=torch.uint8)

    extractor = Extractor(body, reader())
    extractor.devices = (torch.device(device),)
    monkeypatch.setattr(extractor, "_loader", lambda items: [Pixels()] * 2)
    assert sum(map(len, extractor([("", None)] * 4))) == 4
    assert sent == [(device, waits)] * 2


def test_all_other_cpus_decode_for_a_gpu_but_no_more_than_there_are_batches(body, files, monkeypatch):
    started = []

    def noted(workers: int, batch_bytes: int) -> dict[str, int]:
        started.append((workers, batch_bytes))
        return {"num_workers": 0}

    monkeypatch.setattr(extract, "worker_options", noted)
    monkeypatch.setattr(extract, "available_cpus", lambda: 40)
    extractor = Extractor(body, reader())
    extractor._loader([(files[0], None)] * 130)
    extractor._loader([(files[0], None)] * 100_000)
    extractor._loader([(files[0], 7)] * 100_000)
    # Three batches of up to 64 images of 32 x 32, in float32 where a random step has left that
    assert started == [(3, 64 * 3 * 32 * 32), (39, 64 * 3 * 32 * 32), (39, 4 * 64 * 3 * 32 * 32)]


def test_a_picture_that_cannot_be_read_is_named_after_what_came_before(body, files):
    files[40].write_bytes(b"no picture")
    got = []
    with pytest.raises(BadImageError, match=files[40].name):
        got.extend(Extractor(body, reader())([(file, None) for file in files]))
    assert sum(map(len, got)) == 32


def test_draws_decide_views_whatever_the_thread(body, files):
    read = reader(v2.RandomResizedCrop(32, (0.3, 1.0)), v2.RandomHorizontalFlip())
    extractor = Extractor(body, read)
    items = [(files[number % 7], number // 7) for number in range(70)]
    together = all_of(extractor, items)
    alone = torch.cat([all_of(extractor, [item]) for item in items])
    assert (together - alone).abs().max() < 5e-6
    # Far more than rounding: two views of one picture
    assert (together[0] - together[7]).abs().max() > 1e-2
    mixed = all_of(extractor, [(files[0], None), items[0]])
    assert torch.allclose(mixed[0], plain(body, read, files[:1])[0], atol=1e-5)
    assert torch.allclose(mixed[1], together[0], atol=1e-5)


def test_the_mean_over_versions_of_a_picture(body, files):
    read = reader(average=["crop", "flip", "squash"])
    items = [(file, None) for file in files[:20]]
    features = all_of(Extractor(body, read), items)
    single = [plain(body, reader(average=[name]), files[:20]) for name in ("crop", "flip", "squash")]
    assert torch.allclose(features, torch.stack(single).mean(0), atol=1e-5)
    kept = all_of(Extractor(body, read, average=False), items)
    assert torch.allclose(kept, torch.stack(single, 1), atol=1e-5)


def test_a_batch_too_large_for_the_memory_is_halved(body, files, monkeypatch):
    extractor, items = Extractor(body, reader()), [(file, None) for file in files[:20]]
    whole = all_of(extractor, items)
    compute, sizes = Extractor._features, []

    def small_only(self: Extractor, body: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(pixels))
        return compute(self, body, pixels)

    monkeypatch.setattr(Extractor, "_features", small_only)
    assert torch.allclose(all_of(extractor, items), whole, atol=1e-6)
    assert max(sizes) <= 3


def test_bfloat16_is_close_and_of_its_type(body, files):
    items = [(file, None) for file in files[:20]]
    exact = all_of(Extractor(body, reader()), items)
    half = all_of(Extractor(body, reader(), torch.bfloat16), items)
    assert half.dtype == torch.bfloat16
    assert 0.99 < precision.similarity(exact, half) < 1.0


def test_features_that_lost_too_much_are_refused():
    exact = torch.randn(8, 100)
    precision.check_similarity(precision.similarity(exact, exact.bfloat16()))
    with pytest.raises(ConfigError, match=r"features\.precision=bf16 changes"):
        precision.check_similarity(precision.similarity(exact, exact + torch.randn(8, 100) / 5))
    with pytest.raises(ConfigError, match="nan"):
        precision.check_similarity(precision.similarity(exact, exact * float("nan")))


def test_threads_of_torch_are_given_back(body, files):
    before = torch.get_num_threads()
    items = [(file, None) for file in files]
    all_of(Extractor(body, reader()), items)
    assert torch.get_num_threads() == before
    batches = Extractor(body, reader())(items)
    next(batches)
    batches.close()
    assert torch.get_num_threads() == before
