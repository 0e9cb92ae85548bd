"""Options without a yaml file: backbones by name, and switches of one or two values.

They come from a source of Hydra's search path, tlearn://, which the programs' own files name in hydra.searchpath: it is
the last to be asked, so that a file of the same name wins, be it in conf/ or in a folder given with --config-dir. Not
from Hydra's ConfigStore: that would take each of its nodes for a schema of the file that has its name.
"""

from typing import Any

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

# What torchvision.models.list_models(module=torchvision.models) returns; importing torchvision would take seconds.
_NAMES = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 densenet201
efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf
regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf
regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13
vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
TORCHVISION = tuple(_NAMES.split())

# group -> option -> what it sets
SWITCHES: dict[str, dict[str, dict[str, Any]]] = {
    "features": {
        "cache": {"defaults": ["auto", "_self_"], "mode": "cache"},
        "off": {"defaults": ["auto", "_self_"], "mode": "off"},
    },
    "trainer": {
        "cpu": {"defaults": ["auto", "_self_"], "accelerator": "cpu"},
        "gpu": {"defaults": ["auto", "_self_"], "accelerator": "gpu"},
    },
    "report": {"off": {"write": False}},
}


# What builds backbones by name, of torchvision and of timm
BACKBONES = ("tlearn.models.backbones.torchvision.TorchvisionBackbone", "tlearn.models.backbones.timm.TimmBackbone")


def option(path: str) -> dict[str, Any] | None:
    """Return the content of an option such as backbone/resnet18, backbone/timm/resnet10t or features/off, or None."""
    group, _, name = path.removesuffix(".yaml").partition("/")
    if group == "backbone" and name in TORCHVISION:
        return _backbone(BACKBONES[0], name)
    library, _, model = name.partition("/")
    if group == "backbone" and library == "timm" and model:
        # timm itself, which takes seconds to import, knows whether there is such a model.
        return _backbone(BACKBONES[1], model)
    return SWITCHES.get(group, {}).get(name)


def _backbone(target: str, name: str) -> dict[str, Any]:
    return {"_target_": target, "name": name, "weights": "DEFAULT", "pooling": "avg"}


class Options(ConfigSource):
    """The source of Hydra's search path that holds these options."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of this source's paths."""
        return "tlearn"

    def available(self) -> bool:
        """Return True: it is never missing."""
        return True

    def is_config(self, config_path: str) -> bool:
        """Return whether there is such an option."""
        return option(config_path) is not None

    def is_group(self, config_path: str) -> bool:
        """Return whether there are options of this group."""
        return config_path in ("backbone", *SWITCHES)

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the content of an option."""
        node = option(config_path)
        if node is None:
            raise ConfigLoadError(f"{config_path} is not an option of tlearn")
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(node), {"package": None})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """List the options of a group; those of timm have no end."""
        if results_filter == ObjectType.GROUP:
            return []
        return list(TORCHVISION) if config_path == "backbone" else list(SWITCHES.get(config_path, {}))
