"""Where in a picture a network finds a class."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.models.families import FAMILIES, body_of, images_for
from tlearn.analysis.cam import cam_figure, class_activation_maps
from tlearn.models.network import TransferNetwork

# The last feature map of a ViT is that of its patches, and all it sees comes after it.
WITH_MAPS = [name for name in FAMILIES if not name.startswith("vit")]
WIDTHS = {"avgmax": 2560, "max": 1280, "avg": 1280}


def network_of(name: str, stages: tuple[str, ...] = (), classes: int = 4, pooling: str = "avg") -> TransferNetwork:
    """Put a head on a body; the maps of most of its classes are not empty."""
    body = body_of(name, pooling=pooling)
    with torch.no_grad():
        width = body.eval()(images_for(name)).shape[1]
    head = nn.Linear(width, classes)
    nn.init.uniform_(head.weight, -0.01, 0.02, generator=torch.Generator().manual_seed(0))
    return TransferNetwork(body, head, stages).eval()


def state(network: TransferNetwork) -> tuple:
    parts = [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in network.modules()]
    values = [(value.requires_grad, value.grad is None) for value in network.parameters()]
    return parts, values, {name: value.clone() for name, value in network.state_dict().items()}


def same(one: tuple, other: tuple) -> bool:
    return one[:2] == other[:2] and all(torch.equal(value, other[2][name]) for name, value in one[2].items())


def test_of_a_linear_head_on_mean_features_it_is_the_class_activation_map():
    network, images = network_of("mobilenet_v2"), images_for("mobilenet_v2")
    with torch.no_grad():
        activations = network.body.features(images)
        classes = network(images).argmin(1)
        for wanted in (None, classes):
            used = network(images).argmax(1) if wanted is None else wanted
            expected = torch.einsum("nc,nchw->nhw", network.head.weight[used], activations).relu()
            expected = F.interpolate(expected[:, None], images.shape[-2:], mode="bilinear")[:, 0]
            expected = expected / expected.amax((1, 2), keepdim=True)
            torch.testing.assert_close(class_activation_maps(network, images, wanted), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", WITH_MAPS)
def test_every_family_has_maps_and_stays_as_it_was(name):
    network, images = network_of(name), images_for(name)
    before = state(network)
    maps = class_activation_maps(network, images)
    assert maps.shape == (len(images), *images.shape[-2:])
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert set(maps.amax((1, 2)).tolist()) <= {0.0, 1.0}
    assert not maps.requires_grad
    assert same(state(network), before)
    assert not any(value.requires_grad for value in network.body.parameters())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_all_branches_of_the_last_map_count(name):
    network, images = network_of(name), images_for(name)
    last = {"googlenet": "inception5b", "inception_v3": "Mixed_7c"}[name]
    kept = []
    handle = network.body.get_submodule(last).register_forward_hook(lambda *values: kept.append(values[2]))
    with torch.no_grad():
        used = network(images).argmax(1)
    handle.remove()
    expected = torch.einsum("nc,nchw->nhw", network.head.weight[used], kept[0]).relu()
    expected = F.interpolate(expected[:, None], images.shape[-2:], mode="bilinear")[:, 0]
    expected = expected / expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(class_activation_maps(network, images), expected.detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooling", WIDTHS)
def test_other_poolings_have_maps(pooling):
    network = network_of("mobilenet_v2", pooling=pooling)
    assert network.head.in_features == WIDTHS[pooling]
    assert class_activation_maps(network, images_for("mobilenet_v2")).amax((1, 2)).tolist() == [1, 1]


def test_training_networks_give_the_maps_of_evaluation_and_go_on_training():
    network, images = network_of("resnet18", ("layer4",)), images_for("resnet18")
    expected = class_activation_maps(network, images)
    network.train()
    before = state(network)
    torch.testing.assert_close(class_activation_maps(network, images), expected)
    assert same(state(network), before)
    assert network.body.layer4.training
    assert not network.body.layer3.training


@pytest.mark.parametrize("stages", [(), ("layer4",), ("all",)])
def test_it_can_be_called_without_gradients(stages):
    network = network_of("resnet18", stages)
    expected = class_activation_maps(network, images_for("resnet18"))
    with torch.no_grad():
        torch.testing.assert_close(class_activation_maps(network, images_for("resnet18")), expected)
    with torch.inference_mode():
        images, classes = images_for("resnet18").clone(), network(images_for("resnet18")).argmax(1)
        torch.testing.assert_close(class_activation_maps(network, images, classes), expected)


def test_a_picture_has_the_same_map_among_others_and_alone():
    network, images = network_of("densenet121"), images_for("densenet121")
    together = class_activation_maps(network, images)
    alone = torch.cat([class_activation_maps(network, image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_what_speaks_for_a_class_is_where_the_class_is():
    body = nn.Sequential(nn.Conv2d(3, 3, 5, padding=2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Linear(3, 3)
    with torch.no_grad():
        body[0].weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 5, 5) / 25)
        body[0].bias.zero_()
        head.weight.copy_(torch.eye(3))
        head.bias.zero_()
    images = torch.zeros(1, 3, 40, 40)
    images[0, 0, 4:12, 4:12], images[0, 2, 25:33, 20:28] = 1, 1
    network = TransferNetwork(body, head)
    red, green, blue = class_activation_maps(network, images.expand(3, -1, -1, -1), torch.tensor([0, 1, 2]))
    assert divmod(int(red.argmax()), 40)[0] in range(4, 12)
    assert red[25:33, 20:28].max() == 0
    assert divmod(int(blue.argmax()), 40)[0] in range(25, 33)
    assert green.max() == 0


def test_bodies_that_go_on_with_tokens_are_refused_with_the_reason():
    network = network_of("vit_b_32")
    before = state(network)
    with pytest.raises(ValueError, match=r"conv_proj, and behind it are tokens .*5, 64"):
        class_activation_maps(network, images_for("vit_b_32"))
    assert same(state(network), before)


def test_maps_of_one_place_are_none():
    with pytest.raises(ValueError, match="behind it are tokens or channels-last"):
        class_activation_maps(network_of("swin_t"), images_for("swin_t")[..., :32, :32])
    flat = TransferNetwork(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="no feature map"):
        class_activation_maps(flat, torch.zeros(1, 3, 8, 8))


def test_pictures_stand_beside_their_maps_under_any_title(tmp_path: Path):
    pictures = [torch.full((3, 16, 16), 30 * number, dtype=torch.uint8) for number in range(4)]
    titles = ["cat", "$x_1$ as a\nb", "w" * 200, "\udcff"]
    figure = cam_figure(pictures, torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0)), titles)
    figure.savefig(tmp_path / "cam.png")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [len(axes.images) for axes in drawn] == [1, 2] * 4
    assert drawn[2].images[0].get_array()[0, 0].tolist() == [30, 30, 30]
    assert [axes.get_title(loc="left") for axes in drawn[0::2]][:2] == ["cat", "$x_1$ as a\N{REPLACEMENT CHARACTER}b"]
    boxes = [axes._left_title.get_window_extent() for axes in drawn[0::2]]
    assert all(box.x1 <= figure.bbox.width for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
