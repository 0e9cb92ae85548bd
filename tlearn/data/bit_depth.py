"""Images of more than 8 bits: the range of their values, and their scaling to 8 bits."""

import re
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin

from tlearn.data.header import RefusedError

DEEP_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
# Tags of a TIFF that hold the largest value that can occur, as some cameras write it
_LARGEST = (281, 341)


def is_deep_colour(image: Image.Image) -> bool:
    """Return whether an image has colours of 16 bits, of which Pillow keeps the upper 8; not after loading."""
    tile = getattr(image, "tile", None)
    return image.mode not in DEEP_MODES and tile is not None and any(";16" in str(one[3]) for one in tile)


def tagged_bits(image: Image.Image, stream: BinaryIO | None) -> int | None:
    """Return how many bits of each value the file itself says are used, if it does; not after loading."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _bits_of_tiff(image)
    unread = image.format == "PNG" and getattr(image, "tile", None)
    return _bits_of_png(stream) if unread and stream is not None else None


def _bits_of_tiff(image: TiffImagePlugin.TiffImageFile) -> int | None:
    tags = image.tag_v2
    stored = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    if stored < 16:
        return stored
    # OME-TIFF
    if declared := re.search(r'SignificantBits="(\d+)"', str(tags.get(TiffImagePlugin.IMAGEDESCRIPTION, ""))):
        return int(declared[1])
    for tag in _LARGEST:
        largest = tags.get(tag, 0)
        largest = max(largest) if isinstance(largest, tuple) else largest
        # Any other value is the largest that occurs in this image, and no range.
        if largest in [2**bits - 1 for bits in range(9, 17)]:
            return int(largest + 1).bit_length() - 1
    return None


def _bits_of_png(stream: BinaryIO) -> int | None:
    """Read sBIT, which stands before the pixels, and leave the stream where it was."""
    place = stream.tell()
    try:
        stream.seek(8)
        while len(start := stream.read(8)) == 8 and start[4:] not in (b"IDAT", b"IEND"):
            size = int.from_bytes(start[:4], "big")
            if start[4:] == b"sBIT":
                return stream.read(1)[0]
            stream.seek(size + 4, 1)
        return None
    finally:
        stream.seek(place)


def to_8_bit(image: Image.Image, given: int | None, tagged: int | None) -> tuple[Image.Image, int]:
    """Scale a greyscale image of integers or floats ([0, 1]) to L, or LA if it has a transparent level.

    Integers range over `given` bits, else over the `tagged` ones, else over 16. Returns the image, and how many bits
    its values need where nothing tells their range.

    Raises:
        RefusedError: values outside the range.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        bits, limit = 0, 1
    else:
        bits = given or (tagged if tagged and _holds(tagged, values, image.format == "PNG") else 16)
        limit = 2**bits - 1
    # In this form, NaN is refused too.
    if not (low >= 0 and high <= limit):
        said = f" (data.bit_depth={given})" if given and image.mode != "F" else ""
        raise RefusedError(
            f"values from {low} to {high} (mode {image.mode}) are not in 0 to {limit}{said}; save it with 8 bits"
        )
    scaled = np.rint(values * np.float32(255)) if not bits else (values.astype(np.uint32) * 255 + limit // 2) // limit
    grey = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in image.info:
        opaque = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(opaque))
    return grey, 0 if given or tagged or not bits else int(high).bit_length()


def _holds(tagged: int, values: np.ndarray, shifted: bool) -> bool:
    """Return whether the values are numbers of the tagged bits, and not such numbers spread over 16.

    PNG's specification has the tagged bits on top and the lower ones empty or repeated; some programs write them below.
    """
    return 0 < tagged < 16 and values.max() < 2**tagged and not (shifted and not (values % 2 ** (16 - tagged)).any())


def depth_note(used: Iterable[int]) -> str | None:
    """Say so if images of 16 bits, taken together, look as if they had fewer; `used` has what each of them needs."""
    most = max(used, default=0)
    bits = next((bits for bits in (8, 10, 12, 14) if 0 < most <= bits), None)
    if bits is None:
        return None
    return (
        f"warning: the 16-bit images look like {bits} bits (no value reaches {2**bits:,}) and are dark as 16: "
        f"data.bit_depth={bits} reads greyscale so, data.bit_depth=16 keeps it; save colours with 8 bits"
    )
