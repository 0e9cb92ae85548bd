"""From a decoded image to the network's input: a deterministic or a random part, then normalisation."""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from tlearn.errors import ConfigError
from tlearn.ranges import require

# How far noise or interpolation may take floats out of 0 to 1
_OVERSHOOT = 0.5
_DRAWING = threading.Lock()
# Preprocessing that weights do not determine; older model folders lack it
_DEFAULTS: dict[str, Any] = {"fit": "crop", "average": []}
# Long side for each pixel of the short one beyond which an image that is enlarged is cropped before
_STRIP = 16
KEYS = ("resize", "size", "interpolation", "mean", "std", *_DEFAULTS)


def complete(preprocessing: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in missing preprocessing from the backbone's weights.

    A chosen `size` alone keeps the weights' ratio of `resize` to `size`, so that the same part of an image is seen.

    Args:
        preprocessing: resize and size in pixels, interpolation, mean and std per channel, from the weights.
        chosen: the same keys, None where nothing was chosen, and fit and average as `Transform` takes them.
    """
    known = {**_DEFAULTS, **preprocessing}
    filled = {key: known[key] if chosen.get(key) is None else chosen[key] for key in KEYS}
    if chosen.get("resize") is None and chosen.get("size") is not None:
        filled["resize"] = round(preprocessing["resize"] * chosen["size"] / preprocessing["size"])
    if "crop" in _fits(filled) and filled["resize"] < filled["size"]:
        raise ConfigError(
            f"transforms.resize={filled['resize']} is smaller than transforms.size={filled['size']}: "
            "images would get black borders"
        )
    return filled


def random_resized_crop(
    size: int,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    interpolation: str = "bilinear",
) -> v2.RandomResizedCrop:
    """Build torchvision's RandomResizedCrop with the interpolation given by name."""
    return v2.RandomResizedCrop(size, tuple(scale), tuple(ratio), InterpolationMode(interpolation), antialias=True)


class Transform:
    """Turn a uint8 image [3, H, W] into a normalised float image [3, size, size], or [V, 3, size, size].

    Images are stored with their channels last, the order in which resizing, stacking and convolutions are fastest.

    Args:
        preprocessing: resize and size in pixels, interpolation, mean and std per channel; fit: how an image becomes a
            square, "crop" (short side to resize, then the centre), "squash" or "pad" (whole, on the mean colour);
            average: V >= 2 versions to return, each a fit, or "flip" for a mirrored one. Without the last two: a crop.
        random: steps that replace all versions (training only); their last step must leave size x size.
    """

    def __init__(self, preprocessing: Mapping[str, Any], random: Sequence[Callable[[Tensor], Tensor]] = ()) -> None:
        self.preprocessing = dict(preprocessing)
        preprocessing = {**_DEFAULTS, **preprocessing}
        for key in KEYS:
            require(f"transforms.{key}", preprocessing[key])
        self.resize, self.size = preprocessing["resize"], preprocessing["size"]
        self.interpolation = InterpolationMode(preprocessing["interpolation"])
        self.is_random, self._random = bool(random), list(random)
        for step in self._random:
            if not callable(step):
                raise ConfigError(f"transforms.train: {step!r} is not callable: a step takes an image and returns one")
        self._fit, self.versions = preprocessing["fit"], _versions(preprocessing)
        ways = {"crop": self._crop, "squash": self._squash, "pad": self._pad}
        self._fits = {name: ways[name] for name in _fits(preprocessing)}
        # mean and standard deviation of training
        self.levels = tuple(preprocessing["mean"]), tuple(preprocessing["std"])

    def __call__(self, image: Tensor, draw: int | None = None) -> Tensor:
        """Transform one image; `draw` seeds the random part, whose result depends on nothing else."""
        return self.normalise(self.pixels(image, draw))

    @property
    def takes_shrunk(self) -> bool:
        """Whether images may come with their short side shrunk to `resize`: only crops are then unchanged."""
        return self.is_random or self._fits.keys() == {"crop"}

    def pixels(self, image: Tensor, draw: int | None = None) -> Tensor:
        """Do all but the normalisation: uint8 [3, size, size], or [V, 3, size, size] where versions are averaged."""
        if self.is_random:
            return self._augment(image, draw)
        fitted = {name: fit(image) for name, fit in self._fits.items()}
        versions = [fitted[self._fit].flip(-1) if name == "flip" else fitted[name] for name in self.versions]
        return versions[0] if len(versions) == 1 else stack(versions)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 images [..., 3, H, W] to floats with the mean and deviation of training, each by itself."""
        return normalised(pixels, *self.levels)

    def _augment(self, image: Tensor, draw: int | None) -> Tensor:
        if draw is None:
            image = self._stepped(image)
        else:
            # The global generator is what torchvision's transforms draw from: other threads must not draw meanwhile,
            # and the head's dropout must not notice.
            with _DRAWING:
                state = torch.get_rng_state()
                torch.default_generator.manual_seed(draw)
                try:
                    image = self._stepped(image)
                finally:
                    torch.set_rng_state(state)
        if image.shape[-2:] != (self.size, self.size):
            raise ConfigError(
                f"transforms.train leaves images of {tuple(image.shape[-2:])} where the network takes "
                f"{self.size} x {self.size}: end the list with a crop to transforms.size"
            )
        return image

    def _stepped(self, image: Tensor) -> Tensor:
        name = ""
        for step in self._random:
            name = f"transforms.train: {getattr(step, '__name__', type(step).__name__)}"
            kind = f"{image.dtype} {list(image.shape)}"
            try:
                image = step(image)
            # A step can be of any library, or own code.
            except Exception as error:
                reason = (str(error).strip() or "no reason given").splitlines()[0]
                raise ConfigError(f"{name} cannot take the image, {kind}: {type(error).__name__}: {reason}") from error
            if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3:
                found = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
                raise ConfigError(f"{name} returned {found}, and a step returns the image, a tensor [3, H, W]")
        if image.is_floating_point() and not (image.amin() > -_OVERSHOOT and image.amax() < 1 + _OVERSHOOT):
            raise ConfigError(
                f"{name} left values from {image.amin():.3g} to {image.amax():.3g}: floats are from 0 to 1, and are "
                "normalised after all steps"
            )
        return image

    def _crop(self, image: Tensor) -> Tensor:
        short, long = sorted(image.shape[-2:])
        if short < self.resize and long > _STRIP * short:
            # The whole would be enlarged to gigabytes. With the same parity, the middle stays where it is.
            kept = _STRIP * short - (long - _STRIP * short) % 2
            image = functional.center_crop(image, [min(side, kept) for side in image.shape[-2:]])
        return functional.center_crop(self._resized(image, [self.resize]), [self.size, self.size])

    def _squash(self, image: Tensor) -> Tensor:
        return self._resized(image, [self.size, self.size])

    def _pad(self, image: Tensor) -> Tensor:
        scale = self.size / max(image.shape[-2:])
        height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
        top, left = (self.size - height) // 2, (self.size - width) // 2
        # The mean colour is 0 after normalisation, up to the rounding to 8 bits.
        mean = torch.tensor(self.levels[0], dtype=torch.float32)
        canvas = (mean * 255).round().clamp(0, 255).to(torch.uint8).repeat(self.size, self.size, 1).movedim(-1, 0)
        canvas[:, top : top + height, left : left + width] = self._resized(image, [height, width])
        return canvas

    def _resized(self, image: Tensor, size: list[int]) -> Tensor:
        return functional.resize(image, size, self.interpolation, antialias=True)


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalise uint8 images [..., 3, H, W] to floats, each by itself; of floats, only level and scale change."""
    height, width = pixels.shape[-2:]
    # In rows of width x 3: broadcasting over three channels alone is several times slower.
    rows = pixels.movedim(-3, -1).reshape(*pixels.shape[:-3], height, width * 3)
    values = rows.to(torch.float32, copy=True)
    # A random step may have left floats already.
    if not pixels.is_floating_point():
        values.mul_(1 / 255)
    means, deviations = (_row(levels, width, values.device) for levels in (mean, std))
    return values.sub_(means).div_(deviations).unflatten(-1, (width, 3)).movedim(-1, -3)


@lru_cache(maxsize=64)
def _row(levels: tuple[float, ...], width: int, device: torch.device) -> Tensor:
    # Cached: a copy of pageable memory to a GPU waits for all its queued work. An inference tensor, which the first
    # caller could make of it, could not be used in training.
    with torch.inference_mode(False):
        return torch.tensor(levels, dtype=torch.float32).repeat(width).to(device)


def stack(images: Sequence[Tensor]) -> Tensor:
    """Stack images [..., 3, S, S] to [N, ..., 3, S, S] with channels last in memory, as `Transform` leaves them."""
    return torch.stack([image.movedim(-3, -1) for image in images]).movedim(-1, -3)


def visible(pixels: Tensor) -> list[Tensor]:
    """Return what `Transform.pixels` made of an image as a list of its versions, uint8 [3, S, S]."""
    versions = pixels if pixels.ndim == 4 else pixels[None]
    # A random step may have left floats.
    return [functional.to_dtype(version, torch.uint8, scale=True) for version in versions]


def _versions(preprocessing: Mapping[str, Any]) -> list[str]:
    """List the versions of an image that a deterministic transform makes, at least one."""
    return list(preprocessing["average"]) or [preprocessing["fit"]]


def _fits(preprocessing: Mapping[str, Any]) -> set[str]:
    """List the ways of making a square that the versions need."""
    return {preprocessing["fit"] if name == "flip" else name for name in _versions(preprocessing)}


def mixing(num_classes: int, mixup_alpha: float, cutmix_alpha: float) -> Callable[[Tensor, Tensor], Any] | None:
    """Build MixUp, CutMix or either at random, for a batch [N, 3, S, S] and targets [N]; None if both are off."""
    kinds: list[Callable[[Tensor, Tensor], Any]] = []
    if mixup_alpha > 0:
        kinds.append(v2.MixUp(alpha=float(mixup_alpha), num_classes=num_classes))
    if cutmix_alpha > 0:
        kinds.append(v2.CutMix(alpha=float(cutmix_alpha), num_classes=num_classes))
    return None if not kinds else kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds)
