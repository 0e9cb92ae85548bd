import copy

import pytest
import torch
import torchvision
from torch import nn

from tests.models.families import FAMILIES, body_of, images_for
from tlearn.errors import ConfigError
from tlearn.models import heads
from tlearn.models.backbones.timm import TimmBackbone
from tlearn.models.backbones.tiny import SmallBackbone
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.graph.cut import count_features
from tlearn.models.graph.fold import fold
from tlearn.models.graph.pooling import pooled
from tlearn.models.network import TransferNetwork

WITHOUT_POOL = ("alexnet", "vgg", "vit")
POOLED = [name for name in FAMILIES if not name.startswith(WITHOUT_POOL)]
TINY = {
    "name": "ShuffleNetV2",
    "arguments": {"stages_repeats": [1, 1, 1], "stages_out_channels": [8, 8, 16, 32, 64]},
    "preprocessing": {"resize": 32, "size": 32, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
}


def features(body, images):
    with torch.no_grad():
        return body.eval()(images)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_body_pools_otherwise_or_is_refused(name):
    backbone = TorchvisionBackbone(name, None, pooling="avgmax")
    if name.startswith(WITHOUT_POOL):
        with pytest.raises(ConfigError, match=f"backbone.pooling=avgmax: {name} has no global average pooling"):
            backbone.skeleton()
        return
    own, body = TorchvisionBackbone(name, None).skeleton(), backbone.skeleton()
    assert {key: value.shape for key, value in body.module.state_dict().items()} == {
        key: value.shape for key, value in own.module.state_dict().items()
    }
    size = backbone.preprocessing()["size"]
    assert body.num_features == 2 * own.num_features == count_features(body.module, size)


@pytest.mark.parametrize("name", POOLED)
def test_the_maximum_takes_the_place_of_the_mean_and_both_stand_side_by_side(name):
    images = images_for(name)
    mean, maximum, both = (features(body_of(name, pooling=kind), images) for kind in ("avg", "max", "avgmax"))
    torch.testing.assert_close(both, torch.cat((mean, maximum), 1), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mean, maximum)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("densenet121", "features"),
        ("efficientnet_b0", "features"),
        ("mnasnet0_5", "layers"),
        ("resnet18", "layer4"),
        ("squeezenet1_1", "classifier.2"),
    ],
)
def test_the_maximum_is_that_of_the_last_feature_map(name, layer):
    body, maps, images = body_of(name), [], images_for(name)
    body.get_submodule(layer).register_forward_hook(lambda module, inputs, output: maps.append(output.clone()))
    features(body, images)
    # DenseNet's last ReLU is no layer.
    last = maps[0].relu() if name == "densenet121" else maps[0]
    assert torch.equal(features(body_of(name, pooling="max"), images), last.amax((2, 3)))


@pytest.mark.parametrize(("name", "stage"), [("resnet18", "layer4.1"), ("mobilenet_v3_small", "features.12")])
@pytest.mark.parametrize("pooling", ["max", "avgmax"])
def test_a_pooled_body_trains_is_copied_divided_and_folded_like_any_other(name, stage, pooling):
    whole = TransferNetwork(body_of(name, pooling=pooling), nn.Identity(), [stage]).train()
    images = images_for(name)
    network = copy.deepcopy(whole)
    part = network.frozen_part(FAMILIES[name][0])
    network.start_after(part)
    with torch.no_grad():
        values = part.module(images)
    for one, inputs in ((whole, images), (network, values)):
        one(inputs).square().mean().backward()
    gradients = [{key: value.grad for key, value in one.named_parameters()} for one in (whole, network)]
    assert any(value is not None for value in gradients[0].values())
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(whole.state_dict(), network.state_dict(), rtol=0, atol=0)
    expected = features(whole.body, images)
    assert torch.equal(network.eval()(values), expected)
    exact = whole.double().body
    torch.testing.assert_close(fold(exact)(images.double()), features(exact, images.double()), rtol=1e-9, atol=1e-9)


def of_timm(name: str, pooling: str) -> TimmBackbone:
    pytest.importorskip("timm")
    return TimmBackbone(name, None, pooling)


@pytest.mark.parametrize(
    "made",
    [
        lambda: TorchvisionBackbone("shufflenet_v2_x0_5", None, "avgmax"),
        lambda: TorchvisionBackbone("mnasnet0_5", None, "max"),
        lambda: SmallBackbone(**TINY, weights=None, pooling="avgmax"),
        lambda: of_timm("test_resnet", "avgmax"),
    ],
    ids=["torchvision", "mnasnet", "small", "timm"],
)
def test_a_pooled_network_comes_back_from_its_description(made):
    backbone = made()
    body = backbone.build()
    saved = TransferNetwork(body.module, heads.linear(body.num_features, 3)).eval()
    again = type(backbone).from_architecture(backbone.architecture())
    assert again.architecture() == backbone.architecture()
    skeleton = again.skeleton()
    assert skeleton.num_features == body.num_features
    with torch.device("meta"):
        network = TransferNetwork(skeleton.module, heads.linear(skeleton.num_features, 3)).eval()
    network.load_state_dict(dict(saved.state_dict()), assign=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images), saved(images))


@pytest.mark.parametrize(
    "made",
    [
        lambda: TorchvisionBackbone("resnet18", None),
        lambda: SmallBackbone(**TINY, weights=None),
        lambda: of_timm("test_vit", "avg"),
    ],
    ids=["torchvision", "small", "timm"],
)
def test_a_description_from_before_there_was_a_choice_means_the_mean(made):
    backbone = made()
    described = backbone.architecture()
    assert described.pop("pooling") == "avg"
    assert type(backbone).from_architecture(described).pooling == "avg"


@pytest.mark.parametrize("name", ["mnasnet0_5", "densenet121"])
def test_a_file_is_loaded_into_a_pooled_body(tmp_path, name):
    torch.manual_seed(0)
    state = getattr(torchvision.models, name)(num_classes=3).state_dict()
    torch.save({key: value for key, value in state.items() if "num_batches_tracked" not in key}, tmp_path / "w.pth")
    body = TorchvisionBackbone(name, str(tmp_path / "w.pth"), pooling="max").build()
    assert len(body.digest) == 64
    loaded = body.module.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


@pytest.mark.parametrize(
    ("name", "num_features"), [("resnet18", 1024), ("mobilenet_v3_small", 2048), ("maxvit_t", 1024)]
)
def test_layers_behind_the_pool_see_both_halves(name, num_features):
    backbone = TorchvisionBackbone(name, None, pooling="avgmax")
    body = backbone.skeleton("last")
    assert body.num_features == num_features == count_features(body.module, backbone.preprocessing()["size"])


@pytest.mark.parametrize("replace", ["classifier", "last"])
def test_a_body_without_a_global_pool_is_refused(replace):
    with pytest.raises(ConfigError, match=r"backbone\.pooling=max: vgg11 has no global average pooling"):
        TorchvisionBackbone("vgg11", None, pooling="max").build(replace)


def test_pooling_as_the_backbone_does_changes_nothing():
    body = TorchvisionBackbone("resnet18").skeleton()
    assert pooled(body, "avg", "resnet18") is body
