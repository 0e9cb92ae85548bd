"""Test-time augmentation."""

import pytest
import torch
from torch import nn

from tlearn.analysis.outputs import averaged
from tlearn.errors import ConfigError
from tlearn.models.network import TransferNetwork
from tlearn.training.test_time_augmentation import ViewsModule, module_for, preprocessing_for

PREPROCESSING = {"resize": 8, "size": 6, "interpolation": "bilinear", "mean": [0.0] * 3, "std": [1.0] * 3}


class LeftHalf(nn.Module):
    """A body that looks at the left half of a picture only, so that its mirror image gives other features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.scale * images[..., : images.shape[-1] // 2].mean((-1, -2))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TransferNetwork(LeftHalf(), nn.Linear(3, 4)).eval()


def test_the_mean_of_views_is_that_of_their_probabilities():
    views = torch.randn(5, 3, 4)
    assert torch.allclose(averaged(views).softmax(1), views.softmax(-1).mean(1), atol=1e-6)
    assert torch.allclose(averaged(views[:, :1]), views[:, 0].log_softmax(-1), atol=1e-6)


def test_flip_shows_each_picture_as_it_is_and_mirrored(network):
    images = torch.rand(2, 3, 6, 6)
    step = ViewsModule(network, 4, kind="flip").eval()
    step.measure = lambda *_: None
    with torch.no_grad():
        given = step.test_step((images, torch.tensor([0, 1]), torch.tensor([0, 1])), 0)
        assert torch.equal(given["logits"], network(images))
        assert torch.equal(given["views"], torch.stack([network(images), network(images.flip(-1))], 1))
    assert not torch.allclose(given["views"][:, 0], given["views"][:, 1])


def test_views_are_all_ways_of_making_a_square_and_their_mirror_images(network):
    images = torch.rand(2, 3, 3, 6, 6)
    step = ViewsModule(network, 4, kind="views").eval()
    step.measure = lambda *_: None
    with torch.no_grad():
        given = step.test_step((images, torch.tensor([0, 1]), torch.tensor([0, 1])), 0)
        expected = [network(way) for way in (*images.unbind(1), *images.flip(-1).unbind(1))]
    assert torch.equal(given["logits"], expected[0])
    assert torch.equal(given["views"], torch.stack([expected[at] for at in (0, 3, 1, 4, 2, 5)], 1))


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_the_first_view_is_what_the_network_was_trained_on(fit):
    assert preprocessing_for("views", {**PREPROCESSING, "fit": fit})["average"][0] == fit
    assert sorted(preprocessing_for("views", {**PREPROCESSING, "fit": fit})["average"]) == ["crop", "pad", "squash"]


def test_a_network_that_averages_versions_takes_no_more_of_them():
    averaging = {**PREPROCESSING, "average": ["crop", "flip"]}
    with pytest.raises(ConfigError, match="averages the features of crop, flip"):
        preprocessing_for("views", averaging)
    assert preprocessing_for("flip", averaging) == averaging
    assert preprocessing_for("none", averaging) == averaging


def test_without_augmentation_the_module_is_the_ordinary_one(network):
    assert not isinstance(module_for("none", network, 4), ViewsModule)
    assert module_for("flip", network, 4).kind == "flip"
