"""From a decoded picture to the network's input: a deterministic part, or a random one for training; normalisation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from tlearn.errors import ConfigError

KEYS = ("resize", "size", "interpolation", "mean", "std")


def complete(preprocessing: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Fill what was not chosen with what the backbone's weights were trained with.

    A chosen `size` alone keeps the weights' ratio of `resize` to `size`, so that the same part of a picture is seen.

    Args:
        preprocessing: resize and size in pixels, interpolation, mean and std per channel, from the weights.
        chosen: the same keys, None where nothing was chosen.
    """
    filled = {key: preprocessing[key] if chosen.get(key) is None else chosen[key] for key in KEYS}
    if chosen.get("resize") is None and chosen.get("size") is not None:
        filled["resize"] = round(preprocessing["resize"] * chosen["size"] / preprocessing["size"])
    if filled["resize"] < filled["size"]:
        raise ConfigError(
            f"transforms.resize={filled['resize']} is smaller than transforms.size={filled['size']}: "
            "pictures would get black borders"
        )
    return filled


def random_resized_crop(
    size: int,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = "bilinear",
) -> v2.RandomResizedCrop:
    """Make torchvision's RandomResizedCrop with the interpolation given by name."""
    return v2.RandomResizedCrop(size, tuple(scale), tuple(ratio), InterpolationMode(interpolation), antialias=True)


class Transform:
    """Turn a uint8 picture [3, H, W] into a normalised float picture [3, size, size].

    Args:
        preprocessing: resize and size in pixels, interpolation, mean and std per channel.
        random: steps that replace resize and centre crop (training only); their last step must leave size x size.
    """

    def __init__(self, preprocessing: Mapping[str, Any], random: Sequence[Callable[[Tensor], Tensor]] = ()) -> None:
        self.size = int(preprocessing["size"])
        self.is_random = bool(random)
        interpolation = InterpolationMode(preprocessing["interpolation"])
        fixed = [v2.Resize(int(preprocessing["resize"]), interpolation, antialias=True), v2.CenterCrop(self.size)]
        self._geometry = v2.Compose(list(random) or fixed)
        self._normalise = v2.Compose(
            [
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(preprocessing["mean"]), list(preprocessing["std"])),
            ]
        )

    def __call__(self, image: Tensor, draw: int | None = None) -> Tensor:
        """Transform one picture; `draw` seeds the random part, whose result depends on nothing else."""
        if self.is_random and draw is not None:
            # The global generator is what torchvision's transforms draw from; the head's dropout must not notice.
            state = torch.get_rng_state()
            torch.default_generator.manual_seed(draw)
            try:
                image = self._geometry(image)
            finally:
                torch.set_rng_state(state)
        else:
            image = self._geometry(image)
        if image.shape[-2:] != (self.size, self.size):
            raise ConfigError(
                f"transforms.train leaves pictures of {tuple(image.shape[-2:])} where the network takes "
                f"{self.size} x {self.size}: end the list with a crop to transforms.size"
            )
        return self._normalise(image)


def mixing(num_classes: int, mixup_alpha: float, cutmix_alpha: float) -> Callable[[Tensor, Tensor], Any] | None:
    """Make MixUp, CutMix or either by chance, for a batch [N, 3, S, S] and targets [N]; None if both are off."""
    kinds: list[Callable[[Tensor, Tensor], Any]] = []
    if mixup_alpha > 0:
        kinds.append(v2.MixUp(alpha=float(mixup_alpha), num_classes=num_classes))
    if cutmix_alpha > 0:
        kinds.append(v2.CutMix(alpha=float(cutmix_alpha), num_classes=num_classes))
    return None if not kinds else kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds)
