"""The backbones of all libraries under one name, for configs and notebooks."""

from tlearn.models.small_backbone import SmallBackbone
from tlearn.models.timm_backbone import TimmBackbone
from tlearn.models.torchvision_backbone import TorchvisionBackbone

__all__ = ["SmallBackbone", "TimmBackbone", "TorchvisionBackbone"]
