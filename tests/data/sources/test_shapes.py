"""The built-in sets: what is drawn, that it depends on nothing but its arguments, and where the files go."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_classes, tree
from tlearn.config.compose import compose
from tlearn.data.sources import shapes
from tlearn.data.sources.shapes import SIZE, ShapesSource, draw
from tlearn.data.sources.silhouettes import SETS, SOURCE, TARGET
from tlearn.errors import ConfigError, DataError, OutputError

FEW = {"train": 2, "val": 1, "test": 1}
PICTURES = 40


def pixels(label: str, seed: int = 0, split: str = "train", number: int = 1) -> np.ndarray:
    return np.asarray(draw(label, seed, split, number))


def stored(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def source(cache: Path, name: str = "shapes", seed: int = 0, counts: dict[str, int] = FEW) -> ShapesSource:
    return ShapesSource(name, None, cache, counts, seed)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> ShapesSource:
    """Give a small target set that is only read."""
    made = source(tmp_path_factory.mktemp("cache"))
    made.prepare()
    return made


def test_forty_source_and_ten_target_classes_share_no_name():
    assert len(SOURCE) == 40
    assert len(TARGET) == 10
    assert not SOURCE.keys() & TARGET.keys()


@pytest.mark.parametrize("label", sorted(SOURCE | TARGET))
def test_every_class_gives_colour_pictures_with_something_on_them(label):
    picture = draw(label, 0, "train", 1)
    assert picture.mode == "RGB"
    assert picture.size == (SIZE, SIZE) == (96, 96)
    assert pixels(label).std() > 10


@pytest.mark.parametrize("label", sorted(SOURCE | TARGET))
def test_every_silhouette_covers_a_part_of_the_picture_in_every_proportion(label):
    for proportion in (0.0, 0.5, 1.0):
        for pose in range(3):
            rng = np.random.default_rng(pose)
            mask = np.asarray(shapes._outlined(rng, (SOURCE | TARGET)[label](proportion))) > 127
            assert 0.03 < mask.mean() < 0.6


def test_a_picture_depends_on_each_of_its_arguments():
    variants = [
        pixels("key"),
        pixels("cup"),
        pixels("key", seed=1),
        pixels("key", split="val"),
        pixels("key", number=2),
    ]
    assert len({variant.tobytes() for variant in variants}) == len(variants)


def test_a_picture_depends_on_nothing_drawn_before_it_and_on_no_global_generator():
    first = pixels("fish", number=7)
    np.random.seed(1)
    draw("ring", 3, "test", 5)
    assert np.array_equal(pixels("fish", number=7), first)


def test_another_process_with_another_hash_seed_draws_the_same():
    code = (
        "import hashlib; from tlearn.data.sources.shapes import draw; "
        "print(hashlib.sha256(draw('tree', 5, 'test', 3).tobytes()).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout.strip() == hashlib.sha256(draw("tree", 5, "test", 3).tobytes()).hexdigest()


def nearest_mean_accuracy(features: np.ndarray) -> float:
    """Give the accuracy on the second half of each class, of features [classes, pictures, n], by nearest mean."""
    means, tested = features[:, : PICTURES // 2].mean(1), features[:, PICTURES // 2 :]
    distances = np.linalg.norm(tested[:, :, None] - means, axis=-1)
    return float((distances.argmin(-1) == np.arange(len(features))[:, None]).mean())


def test_colour_does_not_tell_the_class():
    means = np.array(
        [[pixels(label, number=number).mean((0, 1)) for number in range(PICTURES)] for label in sorted(TARGET)]
    )
    assert nearest_mean_accuracy(means) < 0.25


def test_the_figure_is_told_from_the_background_by_its_colours():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ground, figure = (np.array(pair) * np.sqrt((0.3, 0.59, 0.11)) for pair in shapes._colours(rng))
        assert np.linalg.norm(ground[:, None] - figure, axis=-1).min() > 0.95 * shapes._CONTRAST


def test_the_set_is_an_ordinary_folder_of_splits_and_classes(drawn):
    listing = drawn.listing()
    assert listing.notes == []
    assert {sample.label for sample in listing.samples} == set(TARGET)
    assert len(listing.samples) == 10 * sum(FEW.values())
    assert {(sample.split, sample.path) for sample in listing.samples if sample.label == "key"} == {
        ("train", "train/key/0001.jpg"),
        ("train", "train/key/0002.jpg"),
        ("val", "val/key/0001.jpg"),
        ("test", "test/key/0001.jpg"),
    }
    for sample in listing.samples:
        with Image.open(listing.root / sample.path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIZE, SIZE))


def test_a_folder_of_other_classes_is_not_taken_for_the_set(drawn, tmp_path):
    again = ShapesSource("shapes", drawn.root, tmp_path, FEW)
    assert again.listing().samples == drawn.listing().samples
    draw_classes(tmp_path / "cats and dogs", classes=("cat", "dog"))
    with pytest.raises(DataError, match=r"has the class cat, .* type .*cats and dogs.* data=folder"):
        ShapesSource("shapes", tmp_path / "cats and dogs", tmp_path, FEW).listing()


def test_no_two_pictures_of_a_set_are_the_same(drawn):
    files = stored(drawn.root)
    assert len(set(files.values())) == len(files)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(drawn, tmp_path):
    again, other = source(tmp_path / "again"), source(tmp_path / "other", seed=1)
    again.prepare()
    other.prepare()
    assert again.root.name == drawn.root.name
    assert stored(again.root) == stored(drawn.root)
    assert stored(other.root).keys() == stored(drawn.root).keys()
    assert not set(stored(other.root).values()) & set(stored(drawn.root).values())


def test_more_pictures_are_further_pictures(drawn, tmp_path):
    larger = source(tmp_path, counts={**FEW, "val": 2})
    larger.prepare()
    assert stored(larger.root).items() > stored(drawn.root).items()


def test_every_option_gives_a_folder_of_its_own_below_the_cache(tmp_path):
    made = [
        source(tmp_path),
        source(tmp_path, name="shapes_source"),
        source(tmp_path, seed=1),
        *(source(tmp_path, counts={**FEW, split: 7}) for split in FEW),
    ]
    assert len({one.root for one in made}) == len(made)
    assert {one.root.parent for one in made} == {tmp_path / "shapes"}


def test_the_order_of_the_counts_changes_nothing(tmp_path):
    assert source(tmp_path, counts=dict(reversed(FEW.items()))).root == source(tmp_path).root


def test_the_source_set_holds_the_source_classes(tmp_path):
    made = source(tmp_path, "shapes_source", counts=dict.fromkeys(FEW, 1))
    made.prepare()
    assert {sample.label for sample in made.listing().samples} == set(SOURCE)


def test_what_is_drawn_is_not_drawn_again(tmp_path, monkeypatch):
    source(tmp_path).prepare()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(shapes, "draw", lambda *_: pytest.fail("drawn again"))
    source(tmp_path).prepare()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch, error):
    def interrupted(label: str, seed: int, split: str, number: int) -> Image.Image:
        if label == "house":
            raise error
        return draw(label, seed, split, number)

    monkeypatch.setattr(shapes, "draw", interrupted)
    expected = OutputError if isinstance(error, OSError) else error
    with pytest.raises(expected) as caught:
        source(tmp_path).prepare()
    assert tree(tmp_path) == [str(tmp_path / "shapes")]
    if expected is OutputError:
        assert "No space left on device" in str(caught.value)
        assert "TLEARN_CACHE" in str(caught.value)


def test_of_two_drawing_at_once_both_end_with_one_good_folder(drawn, tmp_path, monkeypatch):
    first = source(tmp_path)

    def overtaken(label: str, seed: int, split: str, number: int) -> Image.Image:
        monkeypatch.undo()
        source(tmp_path).prepare()
        return draw(label, seed, split, number)

    monkeypatch.setattr(shapes, "draw", overtaken)
    first.prepare()
    assert os.listdir(tmp_path / "shapes") == [first.root.name]
    assert stored(first.root) == stored(drawn.root)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(OutputError, match=r"cannot draw shapes in .*file.*TLEARN_CACHE"):
        source(tmp_path / "file").prepare()


def test_a_listing_before_the_drawing_says_so(tmp_path):
    with pytest.raises(DataError, match=r"not drawn yet"):
        source(tmp_path).listing()


def test_a_given_root_is_used_as_it_is(drawn, tmp_path):
    given, before = ShapesSource("shapes", drawn.root, tmp_path / "cache", FEW), tree(drawn.root)
    given.prepare()
    assert given.listing().root == drawn.root
    assert tree(drawn.root) == before
    assert not (tmp_path / "cache").exists()


def test_a_given_root_that_is_missing_is_an_error_and_not_drawn(tmp_path):
    given = ShapesSource("shapes", tmp_path / "missing", tmp_path / "cache", FEW)
    given.prepare()
    with pytest.raises(DataError, match="does not exist"):
        given.listing()
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "counts", "named"),
    [
        ("shape", FEW, "shape: expected one of shapes, shapes_source"),
        ("shapes", {"train": 2, "val": 1}, r"data\.counts\.test=None: expected a whole number >= 1"),
        ("shapes", {**FEW, "extra": 1}, r"data\.counts=extra: expected one of train, val, test"),
    ],
)
def test_a_set_that_cannot_be_drawn_is_refused(tmp_path, name, counts, named):
    with pytest.raises(ConfigError, match=named):
        ShapesSource(name, None, tmp_path, counts)


@pytest.mark.parametrize(("name", "classes"), [("shapes", TARGET), ("shapes_source", SOURCE)])
def test_the_options_compose_pass_the_check_and_build_the_source(tmp_path, monkeypatch, name, classes):
    from hydra.utils import instantiate

    monkeypatch.setenv("TLEARN_CACHE", str(tmp_path))
    config = compose([f"data={name}", "data.counts.train=3"], output_dir=tmp_path / "run")
    made = instantiate(config.data.source)
    assert made.counts["train"] == 3
    assert made.root.parent == tmp_path / "shapes"
    assert SETS[made.name] == classes


def test_the_seed_of_the_run_does_not_redraw_the_pictures(tmp_path):
    from hydra.utils import instantiate

    def root(*overrides: str) -> Path:
        return instantiate(compose(["data=shapes", *overrides], output_dir=tmp_path).data.source).root

    assert root("seed=1") == root("seed=2")
    assert root("data.draw_seed=1") != root("data.draw_seed=2")


@pytest.mark.parametrize("override", ["data.counts.train=0", "data.counts.test=many", "data.draw_seed=-1"])
def test_options_of_a_wrong_value_are_refused_by_name(override):
    with pytest.raises(ConfigError, match=f"^{override}: expected a whole number"):
        compose(["data=shapes", override])
