"""Kept pictures: decoded once, the pixels of shrinking at the time, and never a reason for a run to fail."""

import os
import pickle
import shutil
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import PIL
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from tests.conftest import draw
from tlearn.config import build
from tlearn.config.compose import compose
from tlearn.config.settle import IMAGENET, settled
from tlearn.data import pixel_cache as pixels
from tlearn.data.decode import Decoder
from tlearn.data.file_state import content_digest
from tlearn.data.pixel_cache import DiskPixels, MemoryPixels, Shrink, pixel_cache
from tlearn.data.prepare import ImageSet
from tlearn.data.sources.base import Sample
from tlearn.data.transforms import Transform
from tlearn.data.verify import Unchanged
from tlearn.errors import BadImageError, ConfigError

SIZES = [(60, 40), (40, 60), (24, 24), (24, 90), (10, 30), (1, 1)]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Draw pictures larger than, as large as and smaller than 24 pixels."""
    paths = [tmp_path / "drawn" / f"{number}.png" for number in range(len(SIZES))]
    return [draw(path, (99, 150, 40), size, seed) for seed, (path, size) in enumerate(zip(paths, SIZES, strict=True))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "caches" / "pixels"


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without the reserve, which this machine may not have."""
    monkeypatch.setattr(pixels, "_RESERVE", 0)


def shrink(short_side: int = 24, **options: object) -> Shrink:
    return Shrink(Decoder(**options), short_side)


@pytest.fixture(params=["memory", "disk"])
def cache(request: pytest.FixtureRequest, folder: Path) -> MemoryPixels | DiskPixels:
    return MemoryPixels(shrink()) if request.param == "memory" else DiskPixels(shrink(), folder)


def kept_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


# Both


def test_the_short_side_is_brought_down_and_never_up(files):
    shapes = [tuple(shrink()(file).shape[1:]) for file in files]
    assert shapes == [(24, 36), (36, 24), (24, 24), (90, 24), (30, 10), (1, 1)]


@pytest.mark.parametrize("interpolation", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
def test_shrinking_is_torchvision_s_resize(files, interpolation):
    expected = functional.resize(Decoder()(files[0]), [24], interpolation, antialias=True)
    assert torch.equal(Shrink(Decoder(), 24, interpolation)(files[0]), expected)


def test_kept_pictures_have_the_pixels_and_memory_order_of_shrunk_ones(files, cache):
    cache.prepare(files, threads=2)
    for _ in ("first", "second"):
        for file in files:
            assert torch.equal(cache(file), shrink()(file))
            assert cache(file).permute(1, 2, 0).is_contiguous()
            assert torch.equal(cache(str(file)), shrink()(file))


def test_every_picture_is_decoded_once(files, cache, decoded):
    cache.prepare(files, threads=2)
    for _ in range(2):
        for file in files:
            cache(file)
    assert sorted(decoded) == sorted(file.name for file in files)


def test_pictures_that_were_not_prepared_are_given_too(files, cache):
    cache.prepare([], threads=2)
    assert torch.equal(cache(files[1]), shrink()(files[1]))


def test_what_is_written_to_a_given_picture_stays_out_of_the_files(files, folder):
    DiskPixels(shrink(), folder)(files[0])
    again = DiskPixels(shrink(), folder)
    again(files[0]).zero_()
    assert torch.equal(again(files[0]), shrink()(files[0]))


def test_a_bad_picture_is_named(files, cache, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for path in (tmp_path / "bad.jpg", tmp_path / "missing.jpg", tmp_path / "nul\0.jpg"):
        with pytest.raises(BadImageError) as caught:
            cache(path)
        assert str(path) in str(caught.value)
    with pytest.raises(BadImageError, match=r"bad\.jpg"):
        cache.prepare([tmp_path / "bad.jpg", *files], threads=2)


def test_a_cache_is_chosen_by_name_and_shrinks_as_the_transform_would(files, folder):
    transform = Transform({"resize": 24, "size": 16, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.2] * 3})
    assert pixel_cache("none", Decoder(), transform, folder) is None
    for kind, expected in (("memory", MemoryPixels), ("disk", DiskPixels)):
        chosen = pixel_cache(kind, Decoder(), transform, folder)
        assert isinstance(chosen, expected)
        chosen.prepare(files, threads=1)
        for file in files:
            assert torch.equal(transform(chosen(file)), transform(Decoder()(file)))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_an_image_that_has_changed_since_it_was_checked_is_not_kept(files, folder, kind):
    transform = Transform({"resize": 24, "size": 16, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.2] * 3})
    digests = {str(file): content_digest(file) for file in files}
    state, content = files[1].stat(), bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    os.utime(files[1], ns=(state.st_atime_ns, state.st_mtime_ns))
    chosen = pixel_cache(kind, Unchanged(Decoder(), digests.get), transform, folder)
    assert chosen is not None
    assert torch.equal(chosen(files[0]), Shrink(Decoder(), 24, InterpolationMode.BICUBIC)(files[0]))
    with pytest.raises(BadImageError, match="not the image that the run began with"):
        chosen(files[1])
    with pytest.raises(BadImageError, match="not the image that the run began with"):
        chosen.prepare(files[1:], threads=1)


def test_a_run_keeps_only_what_was_checked(tmp_path, files):
    given = ["data=folder", f"data.root={tmp_path / 'drawn'}", "data.cache=memory", f"paths.cache={tmp_path}"]
    samples = {split: [Sample(file.name, "a", split) for file in files[:2]] for split in ("train", "val")}
    found = ImageSet(files[0].parent, samples, ["a", "b"])
    found.files.keep_digest(files[1].name, "ab" * 32)
    cache = build.datamodule(settled(compose(given), IMAGENET), found).cache
    assert cache is not None
    cache(files[0])
    with pytest.raises(BadImageError, match="not the image that the run began with"):
        cache(files[1])


# Memory


def test_what_would_not_fit_into_memory_is_refused_before_it_is_decoded(files, monkeypatch, decoded):
    monkeypatch.setattr(pixels, "_SAMPLED", 2)
    monkeypatch.setattr(pixels, "available_memory", lambda: 10_000)
    with pytest.raises(ConfigError, match=r"data\.cache=memory .* 6 images .* data\.cache=disk"):
        MemoryPixels(shrink()).prepare(files, threads=1)
    assert len(decoded) == 2


@pytest.mark.parametrize("available", [None, 1_000_000])
def test_what_fits_or_might_fit_is_kept(files, monkeypatch, decoded, available):
    monkeypatch.setattr(pixels, "_SAMPLED", 2)
    monkeypatch.setattr(pixels, "available_memory", lambda: available)
    MemoryPixels(shrink()).prepare(files, threads=1)
    assert len(decoded) == len(files)


def test_a_second_preparation_decodes_nothing_again(files, decoded):
    cache = MemoryPixels(shrink())
    cache.prepare(files[:3], threads=1)
    cache.prepare(files, threads=1)
    assert len(decoded) == len(files)


# Disk


def test_another_run_finds_what_was_kept(files, folder, decoded):
    for file in files:
        DiskPixels(shrink(), folder)(file)
    decoded.clear()
    again = pickle.loads(pickle.dumps(DiskPixels(shrink(), folder)))
    found = [again(file) for file in files]
    assert decoded == []
    assert len(list(kept_in(folder))) == len(files)
    assert all(torch.equal(image, shrink()(file)) for image, file in zip(found, files, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        shrink(23),
        shrink(max_pixels=10_000),
        shrink(alpha_background=(0, 0, 0)),
        shrink(high_bit_depth="scale"),
        Shrink(Decoder(), 24, InterpolationMode.BICUBIC),
    ],
    ids=["short side", "limit", "background", "depth", "interpolation"],
)
def test_other_options_keep_pictures_of_their_own(files, folder, other):
    DiskPixels(shrink(), folder)(files[0])
    assert torch.equal(DiskPixels(other, folder)(files[0]), other(files[0]))
    assert len(list(kept_in(folder))) == 2


@pytest.mark.parametrize("library", [PIL, pixels.torchvision], ids=["Pillow", "torchvision"])
def test_another_library_decodes_again(files, folder, decoded, monkeypatch, library):
    DiskPixels(shrink(), folder)(files[0])
    monkeypatch.setattr(library, "__version__", "0.1")
    DiskPixels(shrink(), folder)(files[0])
    assert len(decoded) == 2


def test_a_changed_file_is_decoded_again(files, folder):
    cache = DiskPixels(shrink(), folder)
    before, time = cache(files[0]).clone(), files[0].stat().st_mtime_ns
    draw(files[0], (10, 10, 200), (60, 40), seed=9)
    os.utime(files[0], ns=(time, time + 1))
    assert torch.equal(cache(files[0]), shrink()(files[0]))
    assert not torch.equal(cache(files[0]), before)


def test_files_of_one_name_are_kept_apart(files, folder, tmp_path):
    cache = DiskPixels(shrink(), folder)
    other = draw(tmp_path / "other" / files[0].name, (0, 0, 90), (60, 40), seed=0)
    os.utime(other, ns=(files[0].stat().st_atime_ns, files[0].stat().st_mtime_ns))
    assert not torch.equal(cache(files[0]), cache(other))


@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:5], lambda c: c[:8], lambda c: c[:-1], lambda c: c * 2])
def test_a_damaged_file_is_made_anew(files, folder, damage):
    cache = DiskPixels(shrink(), folder)
    cache(files[0])
    (file,) = kept_in(folder)
    content = file.read_bytes()
    file.write_bytes(damage(content))
    for _ in range(2):
        assert torch.equal(cache(files[0]), shrink()(files[0]))
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_written_to_is_warned_of_at_once_and_done_without(files, tmp_path):
    (tmp_path / "blocked").write_text("in the way", encoding="utf-8")
    cache = DiskPixels(shrink(), tmp_path / "blocked" / "pixels")
    with pytest.warns(UserWarning, match=r"data\.cache=disk keeps no more images in .*blocked") as caught:
        cache.prepare(files, threads=1)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(torch.equal(cache(file), shrink()(file)) for file in files)


def test_a_disk_that_fills_up_is_warned_of_once_and_leaves_nothing_half_written(files, folder, monkeypatch):
    cache = DiskPixels(shrink(), folder)
    cache(files[0])

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        found = [cache(file) for file in files]
    assert len(caught) == 1
    assert all(torch.equal(image, shrink()(file)) for image, file in zip(found, files, strict=True))
    assert len(list(kept_in(folder))) == 1


def test_the_last_of_a_disk_is_left_to_others(files, folder, monkeypatch):
    monkeypatch.setattr(pixels, "_RESERVE", 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30 - 1))
    with pytest.warns(UserWarning, match="less than 1 GiB is free"):
        assert torch.equal(DiskPixels(shrink(), folder)(files[0]), shrink()(files[0]))
    assert not list(kept_in(folder))


def test_writers_side_by_side_all_get_whole_pictures(files, folder):
    start = threading.Barrier(4)

    def read_all(number: int) -> bool:
        cache = DiskPixels(shrink(), folder)
        start.wait(timeout=60)
        return all(torch.equal(cache(file), shrink()(file)) for file in files * 10)

    with ThreadPoolExecutor(4) as pool, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(pool.map(read_all, range(4)))
    assert len(list(kept_in(folder))) == len(files)
