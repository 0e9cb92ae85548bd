"""One small member of every family of torchvision's classifiers, with BatchNorm statistics as after training."""

import copy
from functools import cache

import torch
from torch import nn

from tlearn.models.backbones.base import Body
from tlearn.models.backbones.torchvision import TorchvisionBackbone

# Name -> the side of its pictures here, and stages at different depths
FAMILIES = {
    "alexnet": (64, ["features.10"]),
    "convnext_tiny": (64, ["features.7", "features.7.1", "features.7.2.layer_scale"]),
    "densenet121": (64, ["features.denseblock4", "features.denseblock4.denselayer16", "features.norm5"]),
    "efficientnet_b0": (64, ["features.8", "features.6.3", "features.6.2.block.1"]),
    "googlenet": (64, ["inception5b", "inception5b.branch2.1"]),
    "inception_v3": (128, ["Mixed_7c", "Mixed_7b.branch_pool"]),
    "maxvit_t": (224, ["blocks.3.layers.1", "classifier"]),
    "mnasnet0_5": (64, ["layers.13", "layers.14"]),
    "mobilenet_v2": (64, ["features.18", "features.17.conv.3.weight"]),
    "mobilenet_v3_small": (64, ["features.12", "features.11.block.2"]),
    "regnet_y_400mf": (64, ["trunk_output.block4", "trunk_output.block4.block4-1"]),
    "resnet18": (64, ["layer4", "layer4.1", "layer4.1.bn2.weight"]),
    "shufflenet_v2_x0_5": (64, ["conv5", "stage4.3", "stage4.3.branch2.5"]),
    "squeezenet1_1": (64, ["features.12", "features.12.expand3x3"]),
    "swin_t": (64, ["features.7.1", "norm", "features.7.1.attn.qkv"]),
    "swin_v2_t": (64, ["features.7.1", "features.6"]),
    "vgg11_bn": (64, ["features.25", "features.26"]),
    "vit_b_32": (224, ["encoder.ln", "encoder.layers.encoder_layer_11", "encoder.layers.encoder_layer_11.mlp"]),
}


@cache
def _built(name: str, replace: str, pooling: str) -> Body:
    torch.manual_seed(0)
    body = TorchvisionBackbone(name, None, pooling).build(replace)
    norms = [layer for layer in body.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -0.2, 0.2)
        layer.momentum = 1.0
    if norms:
        with torch.no_grad():
            body.module.train()(images_for(name))
    for layer in norms:
        layer.momentum = 0.1
    return body


def body_of(name: str, replace: str = "classifier", pooling: str = "avg") -> nn.Module:
    """Build a body; the same name gives the same weights."""
    return copy.deepcopy(_built(name, replace, pooling).module)


def images_for(name: str, count: int = 2) -> torch.Tensor:
    """Draw images [count, 3, S, S]."""
    size = FAMILIES[name][0]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
