"""Nearest neighbours, and the same photo in two splits."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor
from torch.nn import functional as F

from tlearn.analysis import near_duplicates as neighbours
from tlearn.analysis.near_duplicates import compared_splits, near_duplicates, nearest
from tlearn.analysis.outputs import Outputs
from tlearn.data.decode import Decoder
from tlearn.errors import BadImageError

COPIES: dict[str, Callable[[Image.Image, Path], None]] = {
    "30.jpg": lambda image, path: image.save(path, quality=30),
    "50.jpg": lambda image, path: image.save(path, quality=50),
    "75.jpg": lambda image, path: image.save(path, quality=75),
    "90.jpg": lambda image, path: image.save(path, quality=90),
    "half.jpg": lambda image, path: image.resize((image.width // 2, image.height // 2)).save(path, quality=90),
    "double.jpg": lambda image, path: image.resize((2 * image.width, 2 * image.height)).save(path, quality=90),
    "png.png": lambda image, path: image.save(path),
    "webp.webp": lambda image, path: image.save(path, quality=50),
    "cropped.jpg": lambda image, path: cropped(image, 0.05).save(path, quality=90),
    "mirrored.jpg": lambda image, path: ImageOps.mirror(image).save(path, quality=90),
}


def cropped(image: Image.Image, part: float) -> Image.Image:
    across, down = round(image.width * part / 2), round(image.height * part / 2)
    return image.crop((across, down, image.width - across, image.height - down))


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Draw something with large and small structures, as photos have."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(size), dtype=float)
        for cells in (3, 6, 12, 24)
    ]
    return Image.fromarray(np.average(layers, axis=0, weights=[4, 3, 2, 1]).astype(np.uint8))


def features_of(paths: list[Path]) -> Tensor:
    """Make features as a network does: sparse, not negative, and of very different sizes."""
    decode, generator = Decoder(), torch.Generator().manual_seed(0)
    pictures = []
    for path in paths:
        try:
            small = F.interpolate(decode(path)[None].float(), (12, 12), mode="bilinear", antialias=True)
        except BadImageError:
            small = torch.zeros(1, 3, 12, 12)
        pictures.append(torch.cat([small, small.flip(-1)]).mean(0).flatten())
    projected = torch.stack(pictures) @ torch.randn(432, 200, generator=generator)
    return projected.relu() * torch.logspace(-3, 3, 200)


def outputs(split: str, root: Path, names: list[str], features: Tensor | None, targets: list[int] | None = None):
    labels = torch.tensor([0] * len(names) if targets is None else targets)
    return Outputs(split, ["a", "b"], root, names, labels, torch.zeros(len(names), 2), features)


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 60 images for train and 40 others for test."""
    root = tmp_path_factory.mktemp("photos")
    for split, first, count in (("train", 0, 60), ("test", 1000, 40)):
        (root / split).mkdir()
        for number in range(count):
            photo(first + number).save(root / split / f"{number:02d}.jpg", quality=92)
    return root


@pytest.fixture
def pictures(tmp_path: Path, drawn_once: Path) -> Path:
    """Return a copy of these images, to which a test adds its own."""
    return Path(shutil.copytree(drawn_once, tmp_path / "photos"))


def splits(root: Path, change: Callable[[Tensor], Tensor] = lambda features: features) -> list[Outputs]:
    found = []
    for split in ("train", "test"):
        files = sorted((root / split).iterdir())
        found.append(outputs(split, root, [f"{split}/{file.name}" for file in files], change(features_of(files))))
    return found


def dwarfed(features: Tensor) -> Tensor:
    """Add a feature that is larger than all others and says nothing of the picture."""
    noise = torch.randn(len(features), 1, generator=torch.Generator().manual_seed(len(features)))
    return torch.cat([features, 1e9 * noise], 1)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda features: features,
    "smaller": lambda features: 1e-6 * features,
    "larger": lambda features: 1e6 * features,
    "dwarfed": dwarfed,
    "half precision": lambda features: (features / 1000).bfloat16(),
}


def test_the_nearest_are_those_with_the_highest_cosine(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(31, 8, generator=generator), 100 * torch.randn(50, 8, generator=generator)
    every = F.cosine_similarity(queries[:, None], bank[None], dim=2)
    expected = every.sort(dim=1, descending=True)
    for chunk in (neighbours._CHUNK, 120, 9):
        monkeypatch.setattr(neighbours, "_CHUNK", chunk)
        similarities, indices = nearest(queries, bank, 4)
        assert torch.equal(indices, expected.indices[:, :4])
        torch.testing.assert_close(similarities, expected.values[:, :4])
    assert nearest(queries, bank, 99)[1].shape == (31, 50)
    assert nearest(queries.bfloat16(), bank.bfloat16(), 2)[0].dtype == torch.float32


def test_beyond_a_number_of_pairs_a_part_of_the_smaller_splits_is_compared_and_told(pictures, monkeypatch):
    for number in range(8):
        photo(number).save(pictures / "test" / f"a{number}.png")
    parts = splits(pictures)
    assert compared_splits(parts) == (parts, "")
    every = near_duplicates(parts)
    assert {row["other_path"] for row in every} == {f"test/a{number}.png" for number in range(8)}
    train, test = parts
    monkeypatch.setattr(neighbours, "_PRODUCTS", len(train) * len(test) * 200 / 1.5)
    (same, thinned), note = compared_splits(parts)
    assert same is train
    assert thinned.paths == test.paths[::2]
    assert torch.equal(thinned.features, test.features[::2])
    assert note.startswith("near-duplicates: 24 of 48 images of test were compared with the others, as all pairs")
    found = near_duplicates(parts)
    assert [row["other_path"] for row in found]
    assert {row["other_path"] for row in found} == {row["other_path"] for row in every} & set(test.paths[::2])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_copies_are_found_however_large_features_are_and_nothing_else(pictures, change):
    assert near_duplicates(splits(pictures, change)) == []
    expected = {}
    for number, (name, write) in enumerate(COPIES.items()):
        with Image.open(pictures / "train" / f"{number:02d}.jpg") as image:
            write(image, pictures / "test" / name)
        expected[f"test/{name}"] = f"train/{number:02d}.jpg"
    rows = near_duplicates(splits(pictures, change))
    assert {row["other_path"]: row["path"] for row in rows} == expected
    assert {(row["split"], row["other_split"]) for row in rows} == {("train", "test")}
    assert [row["similarity"] for row in rows] == sorted((row["similarity"] for row in rows), reverse=True)
    assert list(rows[0]) == ["similarity", "split", "path", "other_split", "other_path", "same_class"]
    assert 0.99 < rows[0]["similarity"] <= 1.00001


def test_copies_within_a_split_are_not_listed(pictures):
    photo(0).save(pictures / "train" / "copy.png")
    assert near_duplicates(splits(pictures)) == []
    assert near_duplicates(splits(pictures)[:1]) == []
    assert near_duplicates([]) == []


def test_every_split_is_compared_with_every_other_and_classes_are_told_apart(pictures):
    photo(3).save(pictures / "copy.png")
    photo(1002).save(pictures / "other_copy.png")
    train, test = splits(pictures)
    names = ["copy.png", "other_copy.png"]
    val = outputs("val", pictures, names, features_of([pictures / name for name in names]), [1, 0])
    found = near_duplicates([train, val, test, outputs("empty", pictures, [], torch.zeros(0, 200))])
    assert sorted(tuple(row.values())[1:] for row in found) == [
        ("train", "train/03.jpg", "val", "copy.png", False),
        ("val", "other_copy.png", "test", "test/02.jpg", True),
    ]


def test_a_crowd_of_copies_is_found(pictures):
    for number in range(30):
        photo(7).save(pictures / "train" / f"copy{number}.jpg", quality=60 + number)
        photo(7).save(pictures / "test" / f"copy{number}.jpg", quality=61 + number)
    rows = near_duplicates(splits(pictures))
    copies = {row["path"] for row in rows} | {row["other_path"] for row in rows}
    assert len(copies) >= 60
    assert all("copy" in name or name == "train/07.jpg" for name in copies)


FRAMES: dict[str, Callable[[Image.Image], None]] = {
    "border": lambda image: ImageDraw.Draw(image).rectangle((0, 0, *image.size), outline="white", width=12),
    "bars": lambda image: ImageDraw.Draw(image).rectangle((0, 0, image.width, 20), fill="black"),
    "caption": lambda image: ImageDraw.Draw(image).text((5, 100), "the same words", fill="white", font_size=20),
}


@pytest.mark.parametrize("name", FRAMES)
def test_equal_frames_round_different_pictures_are_not_listed(tmp_path, name):
    files = []
    for number in range(12):
        image = photo(number)
        FRAMES[name](image)
        image.save(tmp_path / f"{number}.png")
        files.append(f"{number}.png")
    # As if the network saw nothing but the frames
    same = torch.ones(6, 9) + 1e-3 * torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    assert near_duplicates([outputs("a", tmp_path, files[:6], same), outputs("b", tmp_path, files[6:], same)]) == []


def test_copies_are_found_beside_a_crowd_of_pictures_that_are_nearer_to_each_other(tmp_path):
    photo(1).save(tmp_path / "copy.png")
    photo(1).save(tmp_path / "again.png")
    generator = torch.Generator().manual_seed(0)
    crowd = 3 + 0.05 * torch.randn(400, 64, generator=generator)
    others = torch.randn(80, 64, generator=generator)
    others[40] = others[0] + 0.6 * torch.randn(64, generator=generator)
    names = [f"{number}.png" for number in range(239)]
    one = outputs("a", tmp_path, ["copy.png", *names], torch.cat([others[:40], crowd[:200]]))
    other = outputs("b", tmp_path, ["again.png", *names], torch.cat([others[40:], crowd[200:]]))
    assert [(row["path"], row["other_path"]) for row in near_duplicates([one, other])] == [("copy.png", "again.png")]


def test_pictures_that_have_only_fractions_of_a_grey_level_in_common_are_not_listed(tmp_path):
    for number in range(2):
        pixels = np.full((96, 96, 3), (200, 90, 20 + 100 * number), dtype=np.uint8)
        pixels[24:72, 24:72] += 1
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    parts = [outputs(split, tmp_path, [f"{at}.png"], torch.ones(1, 3)) for at, split in enumerate("ab")]
    assert near_duplicates(parts) == []


def test_pictures_of_one_colour_are_not_listed_and_unreadable_ones_are_passed_over(tmp_path):
    odd = os.fsdecode(b"\xff$x<b>.png")
    Image.new("RGB", (50, 40), (200, 10, 10)).save(tmp_path / "red.png")
    Image.new("RGB", (60, 40), (10, 10, 200)).save(tmp_path / "blue.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8no picture")
    photo(1).save(tmp_path / odd)
    photo(1).save(tmp_path / "copy.png")
    features = torch.eye(3)
    one = outputs("a", tmp_path, ["red.png", "broken.jpg", odd], features)
    other = outputs("b", tmp_path, ["blue.png", "gone.jpg", "copy.png"], features)
    [row] = near_duplicates([one, other])
    assert (row["path"], row["other_path"]) == (odd, "copy.png")


def test_few_pictures_are_read_where_nothing_is_found_and_never_more_than_the_limit(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(neighbours, "_look", lambda path: read.append(path))
    features = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    names = [f"{number}.jpg" for number in range(1000)]
    parts = [outputs("a", tmp_path, names, features[:1000]), outputs("b", tmp_path, names, features[1000:])]
    near_duplicates(parts)
    assert 0 < len(read) <= 200
    read.clear()
    near_duplicates([*parts, outputs("c", tmp_path, names, features[1000:])], limit=10)
    assert 0 < len(read) <= 20


def test_without_features_there_is_a_reason(tmp_path):
    with pytest.raises(ValueError, match="features"):
        near_duplicates([outputs("a", tmp_path, ["1"], None), outputs("b", tmp_path, ["2"], torch.ones(1, 2))])


@pytest.mark.shared
@pytest.mark.slow
def test_copies_of_real_photos_are_found_and_no_other_pair(tmp_path, shared, real_features):
    root = shared / "data" / "cat_dog"
    train = sorted((root / "train").glob("*/*"))[::2]
    test = sorted((root / "test").glob("*/*"))[::2]
    copied = train[::40]
    expected = set()
    for number, original in enumerate(copied):
        with Image.open(original) as image:
            for name, write in COPIES.items():
                write(image.convert("RGB"), file := tmp_path / f"{number}_{name}")
                expected.add((str(original), str(file)))
    parts = []
    for split, files in (("train", train), ("test", [*test, *(Path(file) for _, file in sorted(expected))])):
        parts.append(outputs(split, Path("/"), list(map(str, files)), real_features(files)))
    assert {(row["path"], row["other_path"]) for row in near_duplicates(parts)} == expected
