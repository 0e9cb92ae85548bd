"""Transforms: the weights' own preprocessing, an augmentation that its draw alone decides, and mixing."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.transforms import ToTensor, v2
from torchvision.transforms.functional import to_pil_image
from torchvision.transforms.v2 import functional

from tlearn.config.build import backbone, transforms
from tlearn.config.compose import compose
from tlearn.config.settle import settled
from tlearn.config.tree import CONF_DIR, plain
from tlearn.data.transforms import Transform, complete, mixing, random_resized_crop, stack
from tlearn.errors import ConfigError
from tlearn.models.backbones.torchvision import TorchvisionBackbone

NOTHING = dict.fromkeys(("resize", "size", "interpolation", "mean", "std"))
WEIGHTS = {"resize": 256, "size": 224, "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
COMPLETE = {**WEIGHTS, "fit": "crop", "average": []}
SMALL = {**WEIGHTS, "resize": 20, "size": 16}
BACKBONES = ["resnet18", "efficientnet_b0", "inception_v3"]
FOLDER = CONF_DIR / "transforms"
OPTIONS = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def noise(height: int = 37, width: int = 91, seed: int = 0) -> Tensor:
    """Give a uint8 picture [3, height, width] in which neighbours differ as much as they can."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def augmentation() -> list:
    return [random_resized_crop(16, (0.3, 1.0)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("shape", [(37, 91), (400, 300)], ids=str)
def test_the_deterministic_part_is_the_preset_of_the_weights(name, shape):
    picture, preprocessing = noise(*shape), complete(TorchvisionBackbone(name).preprocessing(), NOTHING)
    # Of a picture of Pillow's, as the figures of the weights were measured. Both resize in whole numbers and may round
    # a value the other way; of a tensor, the preset resizes in floats, which bicubic takes far from Pillow.
    preset = get_model_weights(name)["DEFAULT"].transforms()(to_pil_image(picture))
    one_level = 1 / 255 / min(preprocessing["std"])
    torch.testing.assert_close(Transform(preprocessing)(picture), preset, atol=1.01 * one_level, rtol=0)


@pytest.mark.parametrize("name", BACKBONES)
def test_without_a_resize_the_preset_of_the_weights_is_met_exactly(name):
    preprocessing = complete(TorchvisionBackbone(name).preprocessing(), NOTHING)
    picture = noise(preprocessing["resize"], preprocessing["resize"] + 57)
    own = Transform(preprocessing)(picture)
    assert own.dtype == torch.float32
    torch.testing.assert_close(own, get_model_weights(name)["DEFAULT"].transforms()(picture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 64), (1, 301), (63, 1), (2, 88), (150, 4)], ids=str)
def test_of_a_strip_the_middle_alone_is_enlarged(monkeypatch, shape):
    strip, resize, given = noise(*shape), functional.resize, []
    monkeypatch.setattr(
        functional, "resize", lambda image, *how, **more: given.append(image) or resize(image, *how, **more)
    )
    found = Transform(SMALL).pixels(strip)
    assert max(given[0].shape[-2:]) <= 16 * min(shape)
    whole = functional.center_crop(resize(strip, [20], antialias=True), [16, 16])
    assert (found.int() - whole.int()).abs().max() <= 1


def test_the_deterministic_part_ignores_the_draw():
    transform = Transform(SMALL)
    assert torch.equal(transform(noise(), draw=1), transform(noise()))


def test_the_channels_are_normalised_one_by_one():
    grey = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    expected = (128 / 255 - torch.tensor(SMALL["mean"])) / torch.tensor(SMALL["std"])
    torch.testing.assert_close(Transform(SMALL)(grey), expected[:, None, None].expand(3, 16, 16))


def test_what_is_not_chosen_comes_from_the_weights():
    assert complete(WEIGHTS, NOTHING) == complete(WEIGHTS, {}) == COMPLETE


@pytest.mark.parametrize(
    ("key", "value"),
    [("resize", 224), ("interpolation", "nearest"), ("mean", [0.0, 0.0, 0.0]), ("std", [1.0, 1.0, 1.0])],
)
def test_what_is_chosen_overrides_the_weights_and_nothing_else_changes(key, value):
    assert complete(WEIGHTS, {**NOTHING, key: value}) == {**COMPLETE, key: value}


@pytest.mark.parametrize(("size", "resize"), [(32, 37), (112, 128), (224, 256), (448, 512)])
def test_a_size_alone_keeps_the_ratio_of_the_weights(size, resize):
    assert complete(WEIGHTS, {**NOTHING, "size": size}) == {**COMPLETE, "size": size, "resize": resize}


def test_size_and_resize_can_both_be_chosen():
    assert complete(WEIGHTS, {"size": 64, "resize": 64}) == {**COMPLETE, "size": 64, "resize": 64}


@pytest.mark.parametrize("chosen", [{"resize": 223}, {"size": 64, "resize": 63}], ids=str)
def test_a_resize_below_the_size_is_refused(chosen):
    with pytest.raises(ConfigError, match=rf"transforms.resize={chosen['resize']}.*black borders"):
        complete(WEIGHTS, chosen)


@pytest.mark.parametrize(
    ("chosen", "crops"),
    [
        ({"fit": "squash"}, False),
        ({"fit": "pad", "average": ["flip", "squash"]}, False),
        ({"fit": "squash", "average": ["crop"]}, True),
        ({"fit": "crop", "average": ["flip"]}, True),
        ({"fit": "crop", "average": ["squash"]}, False),
    ],
    ids=str,
)
def test_a_resize_below_the_size_matters_only_where_something_is_cropped(chosen, crops):
    if crops:
        with pytest.raises(ConfigError, match="black borders"):
            complete(WEIGHTS, {**chosen, "resize": 200})
    else:
        assert complete(WEIGHTS, {**chosen, "resize": 200})["resize"] == 200


# Pixels and normalisation


def reference(preprocessing: dict, picture: Tensor) -> Tensor:
    """Crop and normalise by torchvision's own steps."""
    steps = v2.Compose(
        [
            v2.Resize(preprocessing["resize"], v2.InterpolationMode(preprocessing["interpolation"]), antialias=True),
            v2.CenterCrop(preprocessing["size"]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing["mean"], preprocessing["std"]),
        ]
    )
    return steps(picture)


def as_decoded(picture: Tensor) -> Tensor:
    """Store a picture as decoders do, with the channels last."""
    return picture.permute(1, 2, 0).contiguous().permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(37, 91), (91, 37), (16, 16), (20, 21), (8, 8), (5, 300)], ids=str)
def test_the_values_are_exactly_those_of_torchvision_s_steps(shape, interpolation):
    preprocessing = {
        **SMALL,
        "interpolation": interpolation,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    for picture in (noise(*shape), as_decoded(noise(*shape))):
        assert torch.equal(Transform(preprocessing)(picture), reference(preprocessing, picture))


def test_a_batch_is_normalised_exactly_as_its_pictures_are():
    transform = Transform({**SMALL, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
    pictures = [transform.pixels(noise(seed=seed)) for seed in range(5)]
    alone = torch.stack([transform.normalise(picture) for picture in pictures])
    assert alone.dtype == torch.float32
    for batch in (torch.stack(pictures), stack(pictures)):
        assert torch.equal(transform.normalise(batch), alone)
    assert torch.equal(alone[3], transform(noise(seed=3)))


def test_pixels_are_bytes_and_a_batch_of_them_has_its_channels_last():
    transform = Transform(SMALL)
    batch = stack([transform.pixels(as_decoded(noise(seed=seed))) for seed in range(3)])
    assert (batch.shape, batch.dtype) == ((3, 3, 16, 16), torch.uint8)
    for one in (batch, transform.normalise(batch)):
        assert one.is_contiguous(memory_format=torch.channels_last)


def test_normalising_changes_nothing_it_was_given():
    transform = Transform(SMALL)
    for pixels in (noise(16, 16), torch.rand(3, 16, 16), as_decoded(torch.rand(3, 16, 16))):
        before = pixels.clone()
        transform.normalise(pixels)
        assert torch.equal(pixels, before)


def test_steps_that_leave_floats_are_not_scaled_twice():
    crop, to_floats = v2.CenterCrop(16), v2.ToDtype(torch.float32, scale=True)
    picture = noise()
    assert torch.equal(Transform(SMALL, [crop, to_floats])(picture), Transform(SMALL, [crop])(picture))


# Fit and average


def test_without_a_fit_pictures_are_cropped_as_model_folders_meant_that_say_nothing():
    assert torch.equal(Transform(SMALL)(noise()), Transform({**SMALL, "fit": "crop", "average": []})(noise()))


def halves() -> Tensor:
    """Give a wide picture, red on the left and blue on the right, with a green line at each end."""
    picture = torch.zeros(3, 40, 80, dtype=torch.uint8)
    picture[0, :, :40] = picture[2, :, 40:] = 255
    picture[:, :, :4] = picture[:, :, -4:] = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]
    return picture


def test_squash_shows_all_of_a_picture_and_crop_its_centre():
    squashed, cropped = (Transform({**SMALL, "fit": fit}).pixels(halves()) for fit in ("squash", "crop"))
    assert squashed.shape == cropped.shape == (3, 16, 16)
    assert (squashed[1, :, [0, -1]] > 100).all()
    assert not cropped[1].any()
    expected = v2.functional.resize(halves(), [16, 16], v2.InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(squashed, expected)


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (3, 300), (1, 1), (16, 16), (7, 16)], ids=str)
def test_pad_shows_all_of_a_picture_on_nothing(shape):
    transform = Transform({**SMALL, "fit": "pad"})
    picture = torch.full((3, *shape), 255, dtype=torch.uint8)
    result = transform(picture)
    assert result.shape == (3, 16, 16)
    # Half a level of 8 bits, in units of the smallest deviation
    border = (result.abs() <= 0.51 / 255 / 0.2).all(0)
    scale = 16 / max(shape)
    height, width = (max(1, round(side * scale)) for side in shape)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[(16 - height) // 2 :, (16 - width) // 2 :][:height, :width] = True
    assert torch.equal(border, ~inside)


def test_pad_keeps_proportions_and_colours():
    pixels = Transform({**SMALL, "fit": "pad"}).pixels(halves())
    expected = v2.functional.resize(halves(), [8, 16], v2.InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(pixels[:, 4:12], expected)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_versions_come_in_their_order_and_flip_mirrors_the_fit(fit):
    names = ["squash", "flip", "crop", "pad"]
    transform = Transform({**SMALL, "fit": fit, "average": names})
    versions = transform(as_decoded(noise()))
    alone = {name: Transform({**SMALL, "fit": name})(noise()) for name in ("crop", "squash", "pad")}
    alone["flip"] = alone[fit].flip(-1)
    assert versions.shape == (4, 3, 16, 16)
    for version, name in zip(versions, names, strict=True):
        assert torch.equal(version, alone[name]), name
    assert torch.equal(transform.normalise(transform.pixels(noise())), versions)


@pytest.mark.parametrize("name", ["crop", "squash", "pad", "flip"])
def test_one_version_alone_is_a_picture(name):
    expected = Transform({**SMALL, "fit": "squash" if name == "flip" else name})(noise())
    found = Transform({**SMALL, "fit": "squash", "average": [name]})(noise())
    assert torch.equal(found, expected.flip(-1) if name == "flip" else expected)


def test_batches_of_versions_are_stacked_and_normalised_as_such():
    transform = Transform({**SMALL, "average": ["crop", "flip"]})
    batch = transform.normalise(stack([transform.pixels(noise(seed=seed)) for seed in range(3)]))
    assert batch.shape == (3, 2, 3, 16, 16)
    assert torch.equal(batch[1], transform(noise(seed=1)))
    assert batch.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_random_steps_know_neither_fit_nor_average():
    plain = Transform(SMALL, augmentation())
    chosen = Transform({**SMALL, "fit": "pad", "average": ["crop", "flip"]}, augmentation())
    assert torch.equal(chosen(noise(), draw=5), plain(noise(), draw=5))


@pytest.mark.parametrize(
    ("chosen", "steps", "expected"),
    [
        ({}, [], True),
        ({"average": ["crop", "flip"]}, [], True),
        ({"fit": "squash"}, [], False),
        ({"average": ["crop", "pad"]}, [], False),
        ({"fit": "squash"}, augmentation(), True),
    ],
    ids=["crop", "mirrored", "squash", "pad too", "random"],
)
def test_only_crops_take_pictures_that_were_shrunk_before(chosen, steps, expected):
    assert Transform({**SMALL, **chosen}, steps).takes_shrunk is expected


@pytest.mark.parametrize("shape", [(37, 91), (91, 37), (20, 30), (12, 30)], ids=str)
def test_what_takes_shrunk_pictures_gives_the_same_values_for_them(shape):
    picture, transform = as_decoded(noise(*shape)), Transform({**SMALL, "average": ["crop", "flip"]})
    shrunk = v2.functional.resize(picture, [min(20, *shape)], transform.interpolation, antialias=True)
    assert torch.equal(transform(shrunk), transform(picture))


def test_the_draw_alone_decides_the_augmentation():
    transform, results = Transform(SMALL, augmentation()), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(transform(noise(), draw=7))
    again = Transform(SMALL, augmentation())(noise(), draw=7)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], again)
    assert not torch.equal(results[0], transform(noise(), draw=8))


def test_the_global_generator_does_not_notice_the_augmentation():
    transform = Transform(SMALL, augmentation())
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    transform(noise(), draw=7)
    assert torch.equal(torch.rand(5), expected)


def test_the_global_generator_is_put_back_where_a_step_fails():
    class Failing(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            torch.rand(1)
            raise RuntimeError("broken step")

    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match="broken step"):
        Transform(SMALL, [Failing()])(noise(), draw=7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("steps", [[v2.RandomHorizontalFlip()], [random_resized_crop(15)]], ids=["no crop", "small"])
def test_steps_that_leave_another_size_are_refused(steps):
    with pytest.raises(ConfigError, match=r"transforms\.train.* 16 x 16"):
        Transform(SMALL, steps)(noise(), draw=0)


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)], ids=["mixup", "cutmix", "both"])
def test_mixed_labels_are_probabilities_of_the_labels_in_the_batch(alphas):
    torch.manual_seed(0)
    images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 2, 2, 4])
    mix = mixing(5, *alphas)
    assert mix is not None
    changed = False
    for _ in range(8):
        mixed, labels = mix(images, targets)
        assert mixed.shape == images.shape
        assert labels.shape == (4, 5)
        torch.testing.assert_close(labels.sum(1), torch.ones(4))
        assert bool((labels >= 0).all())
        assert not labels[:, [1, 3]].any()
        changed |= bool(((labels > 0).sum(1) > 1).any()) and not torch.equal(mixed, images)
    assert changed


def test_both_kinds_of_mixing_come_up_where_both_are_chosen():
    torch.manual_seed(0)
    # Of flat pictures, CutMix keeps the values and MixUp makes new ones.
    images, targets = torch.arange(2.0)[:, None, None, None].expand(2, 3, 16, 16), torch.tensor([0, 1])
    mix = mixing(2, 1.0, 1.0)
    new_values = [bool(((mixed > 0) & (mixed < 1)).any()) for mixed, _ in (mix(images, targets) for _ in range(30))]
    assert 5 < sum(new_values) < 25


def test_no_mixing_is_none():
    assert mixing(5, 0.0, 0.0) is None


@pytest.mark.parametrize("option", OPTIONS)
def test_every_shipped_option_gives_the_networks_input(option):
    config = compose([f"transforms={option}", "backbone=resnet18", "transforms.size=48"])
    settings = settled(config, backbone(plain(config)).preprocessing())
    assert (settings["transforms"]["fit"], settings["transforms"]["average"]) == ("crop", [])
    transform, _ = transforms(settings)
    results = [transform(noise(), draw) for draw in range(8)]
    for result in results:
        assert (result.shape, result.dtype) == ((3, 48, 48), torch.float32)
        assert bool(result.isfinite().all())
    assert transform.is_random == (option != "none")
    assert all(torch.equal(result, results[0]) for result in results) == (option == "none")


def test_a_step_that_is_not_one_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"^transforms\.train: 3 is not callable: a step takes an image and returns"):
        Transform(SMALL, [3])


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda image: None, "<lambda> returned NoneType, and a step returns"),
        (v2.ToPILImage(), "ToPILImage returned Image, and a step returns"),
        (v2.Grayscale(), r"Grayscale returned \[1, 37, 91\], and a step returns the image, a tensor \[3, H, W\]"),
        (ToTensor(), r"ToTensor cannot take the image, torch.uint8 \[3, 37, 91\]: TypeError: pic should be"),
        (v2.Normalize([0.5] * 3, [0.5] * 3), "Normalize cannot take the image, torch.uint8"),
        (lambda image, target: image, "<lambda> cannot take .* missing 1 required positional argument"),
        (v2.CutMix(num_classes=3), "CutMix cannot take the image"),
        (lambda image: image.float(), "<lambda> left values from 0 to 255: floats are from 0 to 1"),
        (
            v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)]),
            "Compose left values",
        ),
        (lambda image: image * float("nan"), "<lambda> left values from nan"),
    ],
)
def test_a_step_that_does_not_turn_an_image_into_one_is_named(step, said):
    with pytest.raises(ConfigError, match=f"^transforms.train: {said}"):
        Transform(SMALL, [step])(noise(), draw=1)
