"""Transforms: the weights' own preprocessing, an augmentation that its draw alone decides, and mixing."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from tlearn.assemble import build, complete_transforms
from tlearn.configs import CONF_DIR, compose
from tlearn.data.transforms import Transform, complete, mixing, random_resized_crop
from tlearn.errors import ConfigError
from tlearn.models.torchvision_backbone import TorchvisionBackbone

NOTHING = dict.fromkeys(("resize", "size", "interpolation", "mean", "std"))
WEIGHTS = {"resize": 256, "size": 224, "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
SMALL = {**WEIGHTS, "resize": 20, "size": 16}
BACKBONES = ["resnet18", "efficientnet_b0", "inception_v3"]
OPTIONS = sorted(path.stem for path in (CONF_DIR / "transforms").glob("*.yaml"))


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


def test_the_deterministic_part_ignores_the_draw():
    transform = Transform(SMALL)
    assert torch.equal(transform(noise(), draw=1), transform(noise()))


def test_the_channels_are_normalised_one_by_one():
    grey = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    expected = (128 / 255 - torch.tensor(SMALL["mean"])) / torch.tensor(SMALL["std"])
    torch.testing.assert_close(Transform(SMALL)(grey), expected[:, None, None].expand(3, 16, 16))


def test_what_is_not_chosen_comes_from_the_weights():
    assert complete(WEIGHTS, NOTHING) == complete(WEIGHTS, {}) == WEIGHTS


@pytest.mark.parametrize(
    ("key", "value"),
    [("resize", 224), ("interpolation", "nearest"), ("mean", [0.0, 0.0, 0.0]), ("std", [1.0, 1.0, 1.0])],
)
def test_what_is_chosen_overrides_the_weights_and_nothing_else_changes(key, value):
    assert complete(WEIGHTS, {**NOTHING, key: value}) == {**WEIGHTS, key: value}


@pytest.mark.parametrize(("size", "resize"), [(32, 37), (112, 128), (224, 256), (448, 512)])
def test_a_size_alone_keeps_the_ratio_of_the_weights(size, resize):
    assert complete(WEIGHTS, {**NOTHING, "size": size}) == {**WEIGHTS, "size": size, "resize": resize}


def test_size_and_resize_can_both_be_chosen():
    assert complete(WEIGHTS, {"size": 64, "resize": 64}) == {**WEIGHTS, "size": 64, "resize": 64}


@pytest.mark.parametrize("chosen", [{"resize": 223}, {"size": 64, "resize": 63}], ids=str)
def test_a_resize_below_the_size_is_refused(chosen):
    with pytest.raises(ConfigError, match=rf"transforms.resize={chosen['resize']}.*black borders"):
        complete(WEIGHTS, chosen)


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
    with pytest.raises(RuntimeError, match="broken step"):
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
    preprocessing = complete_transforms(config, TorchvisionBackbone("resnet18"))
    transform = Transform(preprocessing, build(config.transforms.train))
    results = [transform(noise(), draw) for draw in range(8)]
    for result in results:
        assert (result.shape, result.dtype) == ((3, 48, 48), torch.float32)
        assert bool(result.isfinite().all())
    assert transform.is_random == (option != "none")
    assert all(torch.equal(result, results[0]) for result in results) == (option == "none")
