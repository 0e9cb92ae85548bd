import copy

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tlearn.errors import ConfigError
from tlearn.models import heads
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.network import TransferNetwork, count_parameters, tensor_digest

OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1),
}


def small_network(stages=()):
    """MobileNet V2 has BatchNorm everywhere and a Dropout in the body."""
    torch.manual_seed(0)
    body = TorchvisionBackbone("mobilenet_v2", weights=None).build()
    return TransferNetwork(body.module, heads.mlp(body.num_features, 3, hidden=[8], dropout=0.2), stages)


def train_steps(network, optimizer, steps=2):
    network.train()
    for _ in range(steps):
        images, targets = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
        nn.functional.cross_entropy(network(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def snapshot(network):
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


def moved(network, before):
    return {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_body_stays_bit_identical_while_the_head_trains(optimizer):
    network = small_network()
    before = snapshot(network)
    train_steps(network, OPTIMIZERS[optimizer](network.parameter_groups(0.1, 1.0, later="all")))
    assert moved(network, before) == {key for key in before if key.startswith("head.")}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_partly_frozen_body_moves_in_the_named_stages_alone(optimizer):
    network = small_network(["features.18", "features.17.conv.3.weight"])
    before = snapshot(network)
    train_steps(network, OPTIMIZERS[optimizer](network.parameter_groups(0.1, 1.0)))
    # features.18.1 is a BatchNorm: its running statistics move, those of features.17.conv.3 do not.
    expected = {
        key for key in before if key.startswith(("head.", "body.features.18.", "body.features.17.conv.3.weight"))
    }
    assert moved(network, before) == expected


def test_unfreezing_lets_the_same_optimizer_move_the_body():
    network = small_network()
    optimizer = OPTIMIZERS["sgd"](network.parameter_groups(0.1, 0.1, later=["features.18"]))
    train_steps(network, optimizer)
    before = snapshot(network)
    network.unfreeze(["features.18"])
    train_steps(network, optimizer)
    assert moved(network, before) == {key for key in before if key.startswith(("head.", "body.features.18."))}


def test_frozen_parts_stay_in_eval_mode_whatever_is_asked():
    network = small_network(["features.18"])
    for module in (network, network.body):
        module.train()
        network.train()
    training = {name for name, module in network.body.named_modules() if module.training}
    assert training == {"features.18", "features.18.0", "features.18.1", "features.18.2"}
    assert network.training
    assert all(module.training for module in network.head.modules())
    network.eval()
    assert not any(module.training for module in network.modules())
    network.unfreeze("all")
    assert not any(module.training for module in network.modules())
    network.train()
    assert all(module.training for module in network.modules())


def test_features_of_a_frozen_body_are_ordinary_tensors_without_a_graph():
    network = small_network().train()
    images = torch.randn(2, 3, 64, 64)
    features = network.features(images)
    assert features.grad_fn is None
    assert not features.is_inference()
    assert torch.equal(features, network.features(images))
    assert torch.equal(network.eval().head(features), network(images))
    assert network.features(images.clone().requires_grad_()).grad_fn is None
    network.unfreeze(["features.18"])
    assert network.features(images).grad_fn is not None
    with torch.no_grad():
        assert network.features(images).grad_fn is None


def test_parameter_groups_put_the_head_first_and_hold_what_trains_later():
    network = small_network(["features.18"])
    assert [group["name"] for group in small_network().parameter_groups(0.1, 0.5)] == ["head"]
    head, body = network.parameter_groups(0.1, 0.5, later=["features.17"])
    assert (head["name"], head["lr"]) == ("head", 0.1)
    assert {id(parameter) for parameter in head["params"]} == {id(parameter) for parameter in network.head.parameters()}
    assert (body["name"], body["lr"]) == ("body", 0.05)
    parts = [*network.body.features[17].parameters(), *network.body.features[18].parameters()]
    assert [id(parameter) for parameter in body["params"]] == [id(parameter) for parameter in parts]


def test_frozen_keys_are_all_keys_that_no_stage_covers():
    network = small_network(["features.18"])
    keys = set(network.state_dict())
    covered = {key for key in keys if key.startswith(("head.", "body.features.18."))}
    assert set(network.frozen_keys()) == keys - covered
    later = {key for key in keys if key.startswith("body.features.17.")}
    assert set(network.frozen_keys(later="features.17")) == keys - covered - later
    assert network.frozen_keys(later="all") == []


@pytest.mark.parametrize("stage", ["feature.18", "features.19", "features.1x", "classifier", ""])
def test_a_stage_that_is_no_part_with_parameters_is_refused(stage):
    network = small_network()
    message = "is not a part of the body with parameters.* top-level parts are features"
    for ask in (network.unfreeze, network.frozen_keys, lambda stages: network.parameter_groups(1.0, 1.0, stages)):
        with pytest.raises(ConfigError, match=message):
            ask([stage])


def test_a_misspelt_stage_is_answered_with_close_names():
    body = TorchvisionBackbone("resnet18").skeleton()
    with pytest.raises(ConfigError, match=r"did you mean layer4.*top-level parts are conv1, bn1, layer1, layer2"):
        TransferNetwork(body.module, nn.Identity(), ["layr4"])


def test_vgg16_with_a_new_last_layer_has_the_known_number_of_parameters():
    body = TorchvisionBackbone("vgg16").skeleton("last")
    network = TransferNetwork(body.module, heads.mlp(body.num_features, 100, hidden=[256], dropout=0.4))
    assert count_parameters(network) == (135_335_076, 1_074_532)
    network.unfreeze("all")
    assert count_parameters(network) == (135_335_076, 135_335_076)


def test_a_copy_is_frozen_like_its_original():
    network = copy.deepcopy(small_network(["features.18"]))
    before = snapshot(network)
    train_steps(network, OPTIMIZERS["adamw"](network.parameter_groups(0.1, 1.0)))
    assert moved(network, before) == {key for key in before if key.startswith(("head.", "body.features.18."))}


def test_a_distributed_wrapper_keeps_the_body_frozen(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = small_network()
        before = snapshot(network)
        train_steps(DistributedDataParallel(network), OPTIMIZERS["sgd"](network.parameter_groups(0.1, 1.0)))
        assert moved(network, before) == {key for key in before if key.startswith("head.")}
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet0_5"])
def test_a_skeleton_becomes_the_saved_network_again(name):
    backbone = TorchvisionBackbone(name, weights=None)
    body = backbone.build()
    saved = TransferNetwork(body.module, heads.linear(body.num_features, 3)).eval()
    with torch.device("meta"):
        head = heads.linear(body.num_features, 3)
    again = TransferNetwork(TorchvisionBackbone.from_architecture(backbone.architecture()).skeleton().module, head)
    # A plain dict, as safetensors give it, has lost the versions of the layers.
    again.load_state_dict(dict(saved.state_dict()), assign=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again.eval()(images), saved(images))


def test_fingerprint_depends_on_every_name_type_shape_and_bit_and_on_no_order():
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}
    mark = tensor_digest(tensors)
    assert mark == tensor_digest(dict(reversed(tensors.items())))
    assert mark == tensor_digest({**tensors, "a": tensors["a"].T.contiguous().T.requires_grad_()})
    changes = [
        {"a": tensors["a"].reshape(3, 2)},
        {"a": tensors["a"].view(torch.int32)},
        {"a": torch.nextafter(tensors["a"], torch.tensor(9.0))},
        {"b": torch.tensor(4)},
        {"c": torch.ones(2, dtype=torch.float16)},
        {"d": torch.empty(0)},
    ]
    assert len({mark, *(tensor_digest(tensors | change) for change in changes)}) == len(changes) + 1
