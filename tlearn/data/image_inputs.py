"""Images as a caller has them, in files, of Pillow, as arrays or tensors, -> uint8 RGB tensors."""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tlearn.console import say
from tlearn.data.decode import Decoded, Decoder
from tlearn.data.find import find_images
from tlearn.errors import DataError

# What one image may be
ImageInput = str | PathLike[str] | Image.Image | np.ndarray | Tensor
_EXPECTED = "expected a path, an image of Pillow's, a uint8 array [H, W, 3] or [H, W], or a uint8 tensor [3, H, W]"


def listed(images: ImageInput | Iterable[ImageInput]) -> tuple[Sequence[ImageInput], bool]:
    """Return the images as a sequence, and whether one was given and not several.

    Raises:
        DataError: there is none, or something is not an image; nothing is decoded yet.
    """
    found, single = _items(images)
    if len(found) == 0:
        raise DataError(f"no images: {_EXPECTED}; or a list of them, a folder or a glob")
    for index, image in enumerate(found):
        if fault := _fault(image):
            raise DataError(f"{'' if single else f'image {index}: '}{fault}: {_EXPECTED}")
    return found, single


def _items(images: Any) -> tuple[Sequence[Any], bool]:
    # Else it would be the folder that one is in.
    if isinstance(images, str | PathLike) and str(images):
        found, notes = find_images(str(images))
        say(*notes)
        single = os.path.isfile(os.path.expanduser(images))
        return ([images] if single else found), single
    if isinstance(images, np.ndarray | Tensor):
        numbers = isinstance(images, Tensor) or images.dtype.kind not in "OUS"
        return ([images], True) if numbers and images.ndim != 4 else (list(images), False)
    if isinstance(images, str | Mapping | Set | bytes) or not isinstance(images, Iterable):
        return [images], True
    # Pillow's images are not iterable
    return list(images), False


def _fault(image: Any) -> str | None:
    """Say why something is not an image, as far as can be seen without decoding it."""
    if isinstance(image, str | PathLike):
        return None if str(image) else "an empty path"
    if isinstance(image, Image.Image):
        return None if min(image.size) > 0 else "an image without pixels"
    if not isinstance(image, np.ndarray | Tensor):
        return f"a {type(image).__name__}"
    shape, dtype, is_tensor = tuple(image.shape), str(image.dtype).removeprefix("torch."), isinstance(image, Tensor)
    right = (len(shape) == 3 and shape[0] == 3) if is_tensor else (len(shape) == 2 or shape[2:] == (3,))
    if right and min(shape) > 0 and dtype == "uint8":
        return None
    return f"{'a tensor' if is_tensor else 'an array'} {list(shape)} of {dtype}"


def decode_input(decoder: Decoder, image: ImageInput) -> Decoded:
    """Decode what `listed` has accepted to uint8 [3, H, W], in the memory order H, W, 3 as the decoder does.

    Raises:
        BadImageError: a file or an image of Pillow's cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        # np.array copies, and so takes mirrored and read-only arrays.
        pixels = torch.from_numpy(np.array(image))
        return Decoded((pixels if pixels.ndim == 3 else pixels[..., None].expand(-1, -1, 3)).permute(2, 0, 1))
    if isinstance(image, Tensor):
        return Decoded(image.detach().cpu().permute(1, 2, 0).contiguous().permute(2, 0, 1))
    return decoder.read(image if isinstance(image, Image.Image) else Path(os.path.expanduser(image)))
