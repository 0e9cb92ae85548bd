import pytest
import torch
import torchvision
from torch import nn

from tlearn.errors import ConfigError
from tlearn.models import heads
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.graph.cut import apply_cut, count_features, plan_cut
from tlearn.models.network import TransferNetwork, count_parameters

# Names that differ in more than width and depth from the smallest of their file, or whose weights set the image size
FURTHER = ["efficientnet_v2_s", "mobilenet_v3_large", "regnet_x_400mf", "resnet50", "swin_v2_t", "vgg11_bn", "vit_h_14"]


def smallest_of_each_file() -> list[str]:
    """Name the classifier with the fewest parameters of every file of torchvision's."""

    def parameters(name: str) -> int:
        return torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]

    smallest: dict[str, str] = {}
    for name in sorted(torchvision.models.list_models(module=torchvision.models), key=parameters):
        smallest.setdefault(torchvision.models.get_model_builder(name).__module__, name)
    return sorted(smallest.values())


def parameters_behind(output):
    """Collect what a backward pass from `output` would give a gradient."""
    nodes, seen, parameters = [output.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [function for function, _ in node.next_functions]
        if hasattr(node, "variable"):
            parameters.add(id(node.variable))
    return parameters


@pytest.mark.parametrize("name", [*smallest_of_each_file(), *FURTHER])
def test_every_kind_of_torchvision_classifier_gives_a_body_that_trains_whole_or_not_at_all(name):
    backbone = TorchvisionBackbone(name)
    body = backbone.skeleton()
    size = backbone.preprocessing()["size"]
    images = torch.zeros(2, 3, size, size, device="meta")
    assert not [key for key, tensor in body.module.state_dict().items() if not tensor.is_meta]
    features = body.module.train()(images)
    assert features.shape == (2, body.num_features)
    # An auxiliary head, or a layer of the old classifier, would be left without a gradient.
    reached = parameters_behind(features)
    assert [key for key, parameter in body.module.named_parameters() if id(parameter) not in reached] == []
    network = TransferNetwork(body.module, heads.linear(body.num_features, 2).to("meta"))
    assert count_parameters(network)[1] == 2 * body.num_features + 2
    assert not any(module.training for module in network.train().body.modules())


@pytest.mark.parametrize(
    ("name", "classifier", "last"),
    [
        ("alexnet", 9216, 4096),
        ("convnext_tiny", 768, 768),
        ("densenet121", 1024, 1024),
        ("maxvit_t", 512, 512),
        ("mobilenet_v3_large", 960, 1280),
        ("resnet18", 512, 512),
        ("squeezenet1_1", 512, 512),
        ("vgg16", 25088, 4096),
        ("vit_b_16", 768, 768),
    ],
)
def test_replace_decides_how_much_of_the_classifier_goes(name, classifier, last):
    backbone = TorchvisionBackbone(name)
    assert backbone.skeleton("classifier").num_features == classifier
    assert backbone.skeleton("last").num_features == last
    assert backbone.skeleton("nothing").num_features == 1000


def test_norms_ahead_of_the_classifier_and_pools_behind_it_stay():
    convnext = TorchvisionBackbone("convnext_tiny").skeleton().module
    assert [type(layer).__name__ for layer in convnext.classifier] == ["LayerNorm2d", "Flatten", "Identity"]
    maxvit = TorchvisionBackbone("maxvit_t").skeleton().module
    assert [type(layer).__name__ for layer in maxvit.classifier] == (
        ["AdaptiveAvgPool2d", "Flatten", "LayerNorm", "Identity", "Identity", "Identity"]
    )
    squeezenet = TorchvisionBackbone("squeezenet1_1").skeleton().module
    assert [type(layer).__name__ for layer in squeezenet.classifier] == (
        ["Dropout", "Identity", "ReLU", "AdaptiveAvgPool2d"]
    )


def test_replacing_the_last_layer_keeps_those_before_it():
    kept = TorchvisionBackbone("vgg16").skeleton("last").module.classifier
    assert [type(layer).__name__ for layer in kept] == (
        ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Identity"]
    )


@pytest.mark.parametrize(("name", "auxiliary"), [("googlenet", ["aux1", "aux2"]), ("inception_v3", ["AuxLogits"])])
def test_auxiliary_heads_are_gone(name, auxiliary):
    module = TorchvisionBackbone(name).skeleton().module
    assert [getattr(module, part) for part in auxiliary] == [None] * len(auxiliary)
    assert module.aux_logits is False


def test_unknown_replace_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"head.replace=all: expected one of classifier, last, nothing"):
        TorchvisionBackbone("resnet18").skeleton("all")


def test_planning_and_counting_leave_no_hooks_and_no_eval_mode():
    classifier = torchvision.models.resnet18(weights=None).to("meta")
    body = apply_cut(classifier, plan_cut(classifier, 64, "classifier"))
    assert count_features(body, 64) == 512
    assert all(module.training and not module._forward_hooks for module in body.modules())


def test_features_of_the_wrong_shape_are_refused():
    with pytest.raises(ConfigError, match=r"\(1, 4, 6, 6\) instead of features \[N, F\]"):
        count_features(nn.Conv2d(3, 4, 3), 8)
