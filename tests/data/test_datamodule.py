"""Loaders: the same batches whatever the workers, every picture traceable, classes balanced, and plain errors."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from tlearn.data.datamodule import ImageDataModule, Pixels
from tlearn.data.decode import Decoder
from tlearn.data.pixel_cache import DiskPixels, MemoryPixels, Shrink
from tlearn.data.prepare import ImageSet, prepare
from tlearn.data.sources.base import Sample
from tlearn.data.sources.folder import FolderSource
from tlearn.data.transforms import Transform, random_resized_crop
from tlearn.errors import BadImageError, DataError

SMALL = {"resize": 18, "size": 16, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.2] * 3}


def datamodule(pictures: ImageSet, batch_size: int = 5, **more) -> ImageDataModule:
    steps = [random_resized_crop(16, (0.3, 1.0)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4)]
    more.setdefault("num_workers", 0)
    return ImageDataModule(pictures, Decoder(), Transform(SMALL, steps), Transform(SMALL), batch_size, **more)


def epoch_of(loader: DataLoader, epoch: int) -> list[list[torch.Tensor]]:
    loader.batch_sampler.sampler.set_epoch(epoch)
    return [moved(batch) for batch in loader]


def moved(batch: tuple[Pixels, torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    """Give a batch as a Trainer gives it to a module."""
    return [part.to("cpu") for part in batch]


def as_process(data: ImageDataModule, rank: int, world_size: int) -> ImageDataModule:
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, num_devices=world_size)
    return data


@pytest.fixture
def pictures(folder_data: Path) -> ImageSet:
    return prepare(FolderSource(folder_data), Decoder(), (0.5, 0.25, 0.25), 0.2, 0)


@pytest.fixture
def uneven(tmp_path: Path, draw_split) -> ImageSet:
    """Give 12 blue and 3 red pictures in train, none of green, and one of each in val."""
    train = []
    for name, count in (("blue", 12), ("red", 3)):
        draw_split(tmp_path / "all", count, (name,))
        train += [Sample(f"{name}/{name}_{number}.jpg", name, "train") for number in range(count)]
    return ImageSet(tmp_path / "all", {"train": train, "val": [train[0], train[-1]]}, ["blue", "green", "red"])


def test_the_batches_do_not_depend_on_the_workers(pictures):
    alone, workers = (datamodule(pictures, num_workers=number, seed=3).train_dataloader() for number in (0, 2))
    for epoch in (0, 1):
        for one, other in zip(epoch_of(alone, epoch), epoch_of(workers, epoch), strict=True):
            assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_the_augmentation_does_not_depend_on_the_run_s_generator(pictures):
    epochs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        epochs.append(epoch_of(datamodule(pictures).train_dataloader(), 0))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(*epochs, strict=True))


def test_loading_leaves_the_run_s_generator_alone(pictures):
    state = torch.get_rng_state()
    data = datamodule(pictures)
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}], ids=["seed", "epoch"])
def test_another_seed_or_epoch_gives_other_crops_of_a_picture(pictures, other):
    def crops(seed: int = 0, epoch: int = 0) -> dict[int, torch.Tensor]:
        batches = epoch_of(datamodule(pictures, seed=seed).train_dataloader(), epoch)
        return {
            int(index): image for images, _, indices in batches for image, index in zip(images, indices, strict=True)
        }

    first, second = crops(), crops(**other)
    assert first.keys() == second.keys() == set(range(24))
    assert not any(torch.equal(first[index], second[index]) for index in first)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_gives_each_picture_once_in_order_and_unaugmented(pictures, split):
    data = datamodule(pictures)
    loader = getattr(data, f"{split}_dataloader")()
    images, targets, indices = (torch.cat(parts) for parts in zip(*map(moved, loader), strict=True))
    assert indices.tolist() == list(range(12))
    assert targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for image, file in zip(images, data.files(split, indices.tolist()), strict=True):
        assert torch.equal(image, Transform(SMALL)(Decoder()(file)))


def test_files_names_the_pictures_of_a_batch(pictures):
    data = datamodule(pictures)
    _, targets, indices = next(iter(data.train_dataloader()))
    files = data.files("train", indices.tolist())
    assert [Path(file).parent.name for file in files] == [pictures.classes[target] for target in targets]
    assert all(Path(file).is_file() and Path(file).parts[-3] == "train" for file in files)
    assert data.files("val", [0, 11]) == [
        str(pictures.root / "val" / "blue" / "blue_100.jpg"),
        str(pictures.root / "val" / "red" / "red_103.jpg"),
    ]


def test_class_weights_make_all_present_classes_count_the_same(uneven):
    # 15 pictures in 2 classes that have some
    assert datamodule(uneven).class_weights() == [15 / (2 * 12), 0.0, 15 / (2 * 3)]


def test_equal_classes_have_weights_of_one(pictures):
    assert datamodule(pictures).class_weights() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("balance", "low", "high"), [("none", 0.2, 0.2), ("sampler", 0.4, 0.6)])
def test_the_sampler_draws_classes_equally_often_where_asked(uneven, balance, low, high):
    loader = datamodule(uneven, balance=balance).train_dataloader()
    targets = []
    for epoch in range(40):
        loader.batch_sampler.sampler.set_epoch(epoch)
        targets += [loader.dataset.targets[index] for batch in loader.batch_sampler for index, _ in batch]
    assert len(targets) == 40 * 15
    assert low <= targets.count(2) / len(targets) <= high


def test_evaluation_stays_unbalanced(uneven):
    targets = torch.cat([batch[1] for batch in datamodule(uneven, balance="sampler").val_dataloader()])
    assert targets.tolist() == [0, 2]


# One worker: after an error, torch waits five seconds for each.
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_picture_that_went_bad_after_the_check_is_named(pictures, num_workers):
    data = datamodule(pictures, num_workers=num_workers)
    path = pictures.root / pictures.splits["val"][-1].path
    path.write_bytes(b"no picture")
    with pytest.raises(BadImageError) as caught:
        list(data.val_dataloader())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_fewer_pictures_than_processes_are_refused(pictures, split):
    splits = {name: chosen[:2] if name == split else chosen for name, chosen in pictures.splits.items()}
    few, loader = ImageSet(pictures.root, splits, pictures.classes), f"{split}_dataloader"
    with pytest.raises(DataError, match=f"{split} has 2 images, too few for 3 processes") as caught:
        # Whatever is loaded first: test would be too late.
        as_process(datamodule(few), 0, 3).train_dataloader()
    assert "trainer.devices=2" in str(caught.value)
    assert len(getattr(as_process(datamodule(few), 1, 2), loader)()) == 1


def test_processes_share_the_pictures(pictures):
    ranks = [as_process(datamodule(pictures), rank, 3) for rank in range(3)]
    for split in ("train", "val"):
        loaders = [getattr(data, f"{split}_dataloader")() for data in ranks]
        indices = [index for loader in loaders for batch in loader for index in batch[2].tolist()]
        assert sorted(indices) == list(range(len(pictures.splits[split])))


@pytest.mark.parametrize(("overfit_batches", "same"), [(0, False), (2, True)])
def test_batches_to_learn_by_heart_are_the_same_in_every_epoch(pictures, overfit_batches, same):
    data = as_process(datamodule(pictures), 0, 1)
    data.trainer.overfit_batches = overfit_batches
    loader = data.train_dataloader()
    first, second = ([batch[2].tolist() for batch in epoch_of(loader, epoch)] for epoch in (0, 1))
    assert (first == second) == same


def test_batches_have_their_channels_last(pictures):
    for loader in (datamodule(pictures).train_dataloader(), datamodule(pictures).val_dataloader()):
        for images, _, _ in map(moved, loader):
            assert images.dtype == torch.float32
            assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_versions_that_are_averaged_come_side_by_side(pictures):
    transform = Transform({**SMALL, "average": ["crop", "flip", "squash"]})
    data = ImageDataModule(pictures, Decoder(), transform, transform, 5, num_workers=0)
    for split in ("train", "val"):
        images, _, indices = moved(next(iter(getattr(data, f"{split}_dataloader")())))
        assert images.shape == (5, 3, 3, 16, 16)
        for versions, file in zip(images, data.files(split, indices.tolist()), strict=True):
            assert torch.equal(versions, transform(Decoder()(file)))


# Kept pictures


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the paths that were decoded in this process."""
    paths: list[str] = []
    original = Decoder.__call__

    def counting(self: Decoder, path: str | Path) -> torch.Tensor:
        paths.append(str(path))
        return original(self, path)

    monkeypatch.setattr(Decoder, "__call__", counting)
    return paths


@pytest.fixture(params=["memory", "disk"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryPixels | DiskPixels:
    shrink = Shrink(Decoder(), SMALL["resize"])
    return MemoryPixels(shrink) if request.param == "memory" else DiskPixels(shrink, tmp_path / "kept")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_with_a_cache_train_and_val_are_decoded_once_whatever_the_epochs(pictures, cache, decoded, num_workers):
    data = datamodule(pictures, cache=cache, num_workers=num_workers)
    data.setup("fit")
    data.teardown("fit")
    epochs = [epoch_of(data.train_dataloader(), epoch) + list(data.val_dataloader()) for epoch in range(3)]
    assert sum(len(batch[2]) for epoch in epochs for batch in epoch) == 3 * (24 + 12)
    if isinstance(cache, MemoryPixels):
        assert len(decoded) == 24 + 12
    assert len(decoded) == len(set(decoded))


def test_a_cache_changes_nothing_in_validation_and_is_not_used_for_testing(pictures, cache, decoded):
    plain, keeping = datamodule(pictures), datamodule(pictures, cache=cache)
    keeping.setup("fit")
    keeping.teardown("fit")
    for split in ("val", "test"):
        loaders = [getattr(data, f"{split}_dataloader")() for data in (plain, keeping)]
        for one, other in zip(*loaders, strict=True):
            assert torch.equal(one[0].values, other[0].values)
    decoded.clear()
    list(keeping.val_dataloader())
    assert not decoded
    list(keeping.test_dataloader())
    assert len(decoded) == 12


def test_transforms_that_need_the_whole_picture_get_it(pictures, cache, decoded):
    squash = Transform({**SMALL, "fit": "squash"})
    data = ImageDataModule(pictures, Decoder(), squash, squash, 5, num_workers=0, cache=cache)
    data.setup("fit")
    data.teardown("fit")
    assert decoded == []
    images, _, indices = moved(next(iter(data.val_dataloader())))
    assert torch.equal(images[0], squash(Decoder()(data.files("val", indices.tolist())[0])))


def test_only_a_fit_decodes_beforehand(pictures, cache, decoded):
    data = datamodule(pictures, cache=cache)
    for stage in ("validate", "test"):
        data.setup(stage)
        data.teardown(stage)
    assert decoded == []


# Threads beside workers


def test_workers_hand_over_bytes_which_become_the_input_on_the_device(pictures):
    batch = next(iter(datamodule(pictures).val_dataloader()))
    assert batch[0].values.dtype == torch.uint8
    images = move_data_to_device(batch, torch.device("cpu"))[0]
    expected = [Transform(SMALL)(Decoder()(file)) for file in datamodule(pictures).files("val", range(5))]
    assert torch.equal(images, torch.stack(expected))
    for precision, dtype in ((HalfPrecision("bf16-true"), torch.bfloat16), (DoublePrecision(), torch.float64)):
        [converted, *_] = move_data_to_device(precision.convert_input(batch), torch.device("cpu"))
        assert torch.equal(converted, images.to(dtype))


@pytest.mark.parametrize(("device", "waits"), [("cuda:1", False), ("mps", True), ("cpu", True)])
def test_images_are_sent_to_cuda_without_a_wait_for_its_queued_work(device, waits):
    sent = []

    class Sent:
        def to(self, device: torch.device, non_blocking: bool) -> torch.Tensor:
            sent.append((device, not non_blocking))
            return torch.zeros(1, 3, 2, 2)

    move_data_to_device([Pixels(Sent(), ((0.5,) * 3, (0.2,) * 3))], torch.device(device))
    assert sent == [(torch.device(device), waits)]


@pytest.mark.parametrize(("accelerator", "pins"), [("cpu", False), ("cuda", True)])
def test_memory_is_pinned_for_a_gpu_alone(pictures, monkeypatch, accelerator, pins):
    # Whatever the machine has
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = datamodule(pictures)
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device(accelerator))
    )
    assert data.val_dataloader().pin_memory is pins
    assert datamodule(pictures).val_dataloader().pin_memory is False
