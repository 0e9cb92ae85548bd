"""One small member of every family of torchvision's classifiers, with BatchNorm statistics as after training."""

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

from tlearn.models.backbones.base import Body
from tlearn.models.backbones.torchvision import TorchvisionBackbone
from tlearn.models.graph.cut import apply_cut, count_features, plan_cut
from tlearn.models.graph.pooling import pooled

# Name -> the side of its pictures here, and stages at different depths
FAMILIES = {
    "alexnet": (64, ["features.10"]),
    "convnext_tiny": (64, ["features.7", "features.7.1", "features.7.2.layer_scale"]),
    "densenet121": (64, ["features.denseblock4", "features.denseblock4.denselayer16", "features.norm5"]),
    "efficientnet_b0": (64, ["features.8", "features.6.3", "features.6.2.block.1"]),
    "googlenet": (64, ["inception5b", "inception5b.branch2.1"]),
    "inception_v3": (128, ["Mixed_7c", "Mixed_7b.branch_pool"]),
    "maxvit_t": (64, ["blocks.3.layers.1", "classifier"]),
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
    "vit_b_32": (64, ["encoder.ln", "encoder.layers.encoder_layer_11", "encoder.layers.encoder_layer_11.mlp"]),
}
SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}
# The same layers and names, narrower and for smaller pictures: the smallest that torchvision lists take seconds.
NARROW: dict[str, Callable[[], nn.Module]] = {
    "convnext_tiny": lambda: ConvNeXt(
        [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 3)]
    ),
    "maxvit_t": lambda: MaxVit((64, 64), 8, 2, [8, 16, 32, 64], [1, 1, 1, 2], 8, 0.2),
    "swin_t": lambda: SwinTransformer(**SWIN, window_size=[7, 7]),
    "swin_v2_t": lambda: SwinTransformer(
        **SWIN, window_size=[8, 8], block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    ),
    "vit_b_32": lambda: VisionTransformer(64, 32, 12, 4, 64, 128),
}


def _narrow(name: str, replace: str) -> Body:
    classifier, size = NARROW[name](), FAMILIES[name][0]
    skeleton = copy.deepcopy(classifier).to("meta")
    cut = plan_cut(skeleton, size, replace)
    width = count_features(apply_cut(skeleton, cut), size)
    return Body(apply_cut(classifier, cut), width)


def _filled(name: str, replace: str) -> Body:
    """Draw weights for what is left of a network alone: the classifier of VGG has a hundred million."""
    body = TorchvisionBackbone(name, None).skeleton(replace)
    for layer in body.module.to_empty(device="cpu").modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return body


@cache
def _built(name: str, replace: str) -> Body:
    torch.manual_seed(0)
    body = _narrow(name, replace) if name in NARROW else _filled(name, replace)
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
    return pooled(copy.deepcopy(_built(name, replace)), pooling, name).module


def images_for(name: str, count: int = 2) -> torch.Tensor:
    """Draw images [count, 3, S, S]."""
    size = FAMILIES[name][0]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
