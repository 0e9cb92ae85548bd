import copy

import pytest
import torch
from torch import nn

from tests.models.families import FAMILIES, body_of, images_for
from tlearn.models.backbones.timm import TimmBackbone
from tlearn.models.graph.cut import count_features
from tlearn.models.graph.divide import NotDivisibleError
from tlearn.models.graph.fold import fold
from tlearn.models.network import TransferNetwork

# A stage, and what is smallest of it
CUTS = [(name, stage) for name, (_, stages) in FAMILIES.items() for stage in dict.fromkeys((stages[-1], stages[0]))]


def network_of(name, *stages, pooling="avg"):
    return TransferNetwork(body_of(name, pooling=pooling), nn.Identity(), stages).train()


def divided(network, later=(), size=64):
    part = network.frozen_part(size, later)
    network.start_after(part)
    return part


def learn(network, values):
    """Give features of one training step, the gradients, and the state it leaves."""
    # For Dropout in what trains
    torch.manual_seed(2)
    features = network.features(values)
    features.square().mean().backward()
    gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return features.detach(), gradients, network.state_dict()


def values_of(part, images):
    with torch.no_grad():
        return part.module(images)


class Tiny(nn.Module):
    """Two layers around whatever happens between them, and one that is not used."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))
        self.between = between

    def forward(self, images):
        return self.second(self.between(self, self.first(images.mean((2, 3)))))


def tiny(between, *stages):
    return TransferNetwork(Tiny(between), nn.Identity(), stages)


@pytest.mark.parametrize(("name", "stage"), CUTS)
def test_a_divided_body_learns_exactly_what_the_whole_one_learns(name, stage):
    whole = network_of(name, stage)
    network = copy.deepcopy(whole)
    part = divided(network, size=FAMILIES[name][0])
    images = images_for(name)
    values = values_of(part, images)
    kept = values.clone()
    expected, found = learn(whole, images), learn(network, values)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert set(found[1]) == {
        f"body.{key}" for key, _ in network.body.named_parameters() if f"{key}.".startswith(f"{stage}.")
    }
    assert values.shape == (len(images), *part.shape)
    # The next epoch takes the same values again.
    assert torch.equal(values, kept)
    for one in (whole, network):
        one.eval()
    assert torch.equal(network(values), whole(images))


@pytest.mark.parametrize(
    ("name", "stage", "shape"),
    [
        ("resnet18", "layer4", (256, 4, 4)),
        ("resnet18", "layer4.1", (512, 2, 2)),
        ("resnet18", "layer4.1.bn2.weight", (512, 2, 2)),
        ("densenet121", "features.denseblock4.denselayer16", (512, 2, 2)),
        ("densenet121", "features.norm5", (1024, 2, 2)),
        ("mobilenet_v2", "features.18", (320, 2, 2)),
        ("mobilenet_v2", "features.17.conv.3.weight", (320, 2, 2)),
        ("vit_b_32", "encoder.ln", (5, 64)),
    ],
)
def test_the_cut_is_the_latest_place_that_one_tensor_crosses(name, stage, shape):
    assert network_of(name, stage).frozen_part(FAMILIES[name][0]).shape == shape


def test_a_body_that_is_frozen_whole_is_computed_whole():
    network = network_of("mobilenet_v2")
    images = images_for("mobilenet_v2")
    expected = network(images)
    part = divided(network)
    assert (part.module, part.rest, part.name, part.shape) == (network.body, None, "body", (1280,))
    assert torch.equal(network(values_of(part, images)), expected)


def test_what_trains_later_is_no_part_of_what_is_computed_once():
    network = network_of("resnet18")
    part = divided(network, later=["layer4.1"])
    assert part.shape == (512, 2, 2)
    assert "layer4.1.conv1.weight" not in part.module.state_dict()
    values = values_of(part, images_for("resnet18"))
    assert network.features(values).grad_fn is None
    network.unfreeze(["layer4.1.conv1"])
    assert set(learn(network, values)[1]) == {"body.layer4.1.conv1.weight"}
    with pytest.raises(ValueError, match="layer3 cannot train"):
        network.unfreeze(["layer3"])
    assert network.stages == ("layer4.1.conv1",)


def test_a_part_is_refused_where_something_of_it_trains():
    part = network_of("resnet18", "layer4").frozen_part(64)
    with pytest.raises(ValueError, match="layer3 cannot train"):
        network_of("resnet18", "layer3").start_after(part)


def test_dividing_leaves_keys_parameters_and_modes_as_they_are_and_can_be_undone():
    network = network_of("resnet18", "layer4.1")
    images = images_for("resnet18")
    keys, names = list(network.state_dict()), [name for name, _ in network.named_parameters()]
    modes = {name: module.training for name, module in network.named_modules()}
    divided(network)
    assert list(network.state_dict()) == keys
    assert [name for name, _ in network.named_parameters()] == names
    assert {name: module.training for name, module in network.named_modules()} == modes
    network.start_after(None)
    assert torch.equal(network.eval()(images), network.body(images))


def test_copies_and_replicas_compute_with_their_own_parameters():
    network = network_of("resnet18", "layer4.1")
    part = divided(network)
    values = values_of(part, images_for("resnet18"))
    before = network.eval()(values)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.body.layer4[1].conv1.weight.mul_(2)
        copied.body.layer4[1].bn1.running_mean.add_(1)
    assert torch.equal(network(values), before)
    expected = part_by_part(copied.body, values)
    assert torch.equal(copied(values), expected)
    assert torch.equal(replica(copied)(values), expected)
    assert copied.to(torch.float64)(values.double()).dtype == torch.float64


def part_by_part(body, values):
    with torch.no_grad():
        return body.avgpool(body.layer4[1](values)).flatten(1)


def replica(module):
    """Copy a module as DataParallel does: parameters become plain tensors of the copy."""
    copied = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        setattr(copied, name, replica(child))
    for name, parameter in module._parameters.items():
        setattr(copied, name, None if parameter is None else parameter.detach().clone())
    return copied


@pytest.mark.parametrize("stages", [(), ("layer4.1",)])
def test_of_several_versions_of_a_picture_the_features_are_the_mean(stages):
    network = network_of("resnet18", *stages).eval()
    versions = images_for("resnet18", 6).unflatten(0, (2, 3))
    expected = torch.stack([network.features(version) for version in versions.unbind(1)]).mean(0)
    torch.testing.assert_close(network.features(versions), expected)
    part = divided(network)
    values = values_of(part, versions.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(network.features(values), expected)


def test_names_tell_cuts_apart_and_are_the_same_in_every_run():
    stages = ("layer2", "layer3", "layer4", "layer4.1", "layer4.1.conv2", "layer4.1.bn2")
    names, again = ([network_of("resnet18", stage).frozen_part(64).name for stage in stages] for _ in range(2))
    # Where layer4.1 is looked into, its shortcut lives on to its end: nothing but its input can be kept.
    assert names[3] == names[4] == names[5]
    assert len(set(names)) == 4
    assert names == again


@pytest.mark.parametrize(("name", "stage"), [("resnet18", "layer4.1"), ("densenet121", "features.denseblock4")])
def test_a_frozen_part_can_be_folded(name, stage):
    part = network_of(name, stage).double().frozen_part(64)
    images = images_for(name).double()
    folded = fold(part.module)
    assert count_norms(folded) < count_norms(part.module)
    torch.testing.assert_close(folded(images), values_of(part, images), rtol=1e-9, atol=1e-9)


def count_norms(module):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


@pytest.mark.parametrize("stage", ["all", "conv1"])
def test_nothing_is_divided_where_the_first_layers_train(stage):
    with pytest.raises(NotDivisibleError, match="no layer of the body is frozen ahead"):
        network_of("resnet18", stage).frozen_part(64)


@pytest.mark.parametrize(
    ("between", "name"),
    [
        (lambda self, values: values.repeat(2, 1).unflatten(0, (2, -1)).sum(0), "sum"),
        (lambda self, values: self.second(values) + values.repeat(2, 1).chunk(2)[0], "first"),
        (lambda self, values: torch.stack((values, values)), "first"),
    ],
    ids=["after", "several", "another dimension"],
)
def test_only_a_tensor_with_one_row_for_each_picture_is_a_cut(between, name):
    network = tiny(between, "second")
    images = torch.randn(5, 3, 64, 64)
    expected = network.body(images)
    part = divided(network)
    assert part.shape == (3,)
    assert part.name.startswith(name)
    assert torch.equal(network(values_of(part, images)), expected)


def test_a_value_that_is_changed_in_place_is_computed_ahead_with_the_change():
    def between(self, values):
        values.relu_()
        return values

    network = tiny(between, "second")
    images = torch.randn(5, 3, 64, 64)
    expected = network.body(images)
    part = divided(network)
    assert torch.equal(network(values_of(part, images)), expected)


def test_a_body_whose_structure_cannot_be_seen_says_why():
    network = tiny(lambda self, values: values if values.sum() > 0 else -values, "second")
    with pytest.raises(NotDivisibleError, match=r"Tiny cannot be traced .*control flow"):
        network.frozen_part(64)
    # Frozen whole, its structure does not matter.
    assert tiny(lambda self, values: values if values.sum() > 0 else -values).frozen_part(64).rest is None


def test_a_layer_that_takes_no_part_in_the_features_divides_nothing():
    network = tiny(lambda self, values: values, "third")
    with pytest.raises(NotDivisibleError, match="no part in the features"):
        network.frozen_part(64)


def test_a_body_that_makes_tensors_while_it_runs_says_so():
    # They would stay on the device of the trace.
    network = tiny(lambda self, values: self.second(values + torch.ones(3)), "third", "second")
    with pytest.raises(NotDivisibleError, match="Tiny makes tensors of its own"):
        network.frozen_part(64)


def test_a_body_that_asks_a_buffer_for_its_device_says_so():
    # What trains would compute there, wherever the network is.
    network = tiny(lambda self, values: self.second(values.to(self.place.device)), "third", "second")
    network.body.register_buffer("place", torch.zeros(1))
    with pytest.raises(NotDivisibleError, match=r"Tiny cannot be traced \(its trace computes on cpu alone"):
        network.frozen_part(64)


def test_looking_for_a_part_leaves_no_marks_on_the_body():
    def between(self, values):
        self.cache = values
        return values

    network = tiny(between, "second")
    before = set(vars(network.body))
    assert network.frozen_part(64).shape == (3,)
    assert set(vars(network.body)) == before


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("test_vit", "blocks.5"),
        ("test_vit", "blocks.5.mlp"),
        ("test_efficientnet", "conv_head"),
        ("test_resnet", "layer4"),
    ],
)
def test_networks_of_timm_are_divided_too(name, stage):
    pytest.importorskip("timm")
    whole = TransferNetwork(TimmBackbone(name, None).build().module, nn.Identity(), [stage]).train()
    network, images = copy.deepcopy(whole), torch.randn(3, 3, 160, 160)
    values = values_of(divided(network, size=160), images)
    torch.testing.assert_close(learn(network, values), learn(whole, images), rtol=1e-6, atol=1e-6)


def test_a_body_without_parameters_is_computed_whole():
    network = TransferNetwork(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(12, 2))
    assert divided(network).shape == (12,)
    assert count_features(network.body, 16) == 12
