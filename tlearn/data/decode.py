"""One image, a file or Pillow's -> uint8 RGB tensor, or an error that names the file."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.image
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin
from torch import Tensor

from tlearn.data.bit_depth import DEEP_MODES, is_deep_colour, tagged_bits, to_8_bit
from tlearn.data.header import RefusedError, open_header, open_regular
from tlearn.data.tiff import tiff_refusal
from tlearn.errors import BadImageError, ConfigError
from tlearn.ranges import require

# torchvision's ImageReadMode.RGB
_RGB = 3
# Pixels for each byte of a JPEG, beyond which a large one is made to fill the memory: blank ones have some hundred.
_MOST_PIXELS_A_BYTE, _LARGE = 2000, 2**24

# EXIF orientation -> the transpose that makes the image upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Decoded(NamedTuple):
    """An image, uint8 [3, H, W], and the bits that its values need if it has more than 8 and no range is told."""

    pixels: Tensor
    bits: int = 0


@dataclass(frozen=True)
class Decoder:
    """Turn one image, a file or Pillow's, into the pixels that a viewer shows, or raise an error that names the file.

    Transparent images are composited on `alpha_background`; of animations, the first frame is decoded.
    `high_bit_depth` is for greyscale images of 16 or 32 bits or floats: "error", or "scale" by their range: that of
    `bit_depth` bits, else the one that the file tells, else that of 16 bits, and 0 to 1 for floats.
    `max_pixels` is compared with the header before memory is allocated for pixels. A fourth band of a TIFF is alpha if
    it is declared so, left out if it is declared as something else, and refused otherwise. Raises ConfigError for
    invalid values.
    """

    max_pixels: int = 89_478_485
    alpha_background: tuple[int, int, int] = (255, 255, 255)
    high_bit_depth: str = "error"
    bit_depth: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if (name, value) != ("bit_depth", None):
                require(f"data.{name}", value)
        # YAML gives a list, and the decoder must be hashable.
        object.__setattr__(self, "alpha_background", tuple(self.alpha_background))
        if self.bit_depth is not None and self.high_bit_depth != "scale":
            raise ConfigError(f"data.bit_depth={self.bit_depth} needs data.high_bit_depth=scale")

    def key(self) -> dict[str, Any]:
        """Return what decoded pixels depend on besides the file and its reader, for the keys of caches."""
        options = {name: value for name, value in asdict(self).items() if value is not None}
        # Since ranges come from files
        return options | ({"scaling": 2} if self.high_bit_depth == "scale" else {})

    def __call__(self, source: str | Path | Image.Image) -> Tensor:
        """Decode the file at a path, or convert an image of Pillow's as its file would be.

        Returns uint8 [3, H, W] with H, W >= 1, in the memory order H, W, 3, which torchvision's resize reads fastest.
        Raises BadImageError for every image that cannot be decoded correctly. Thread-safe.
        """
        return self.read(source).pixels

    def read(self, source: str | Path | Image.Image) -> Decoded:
        """Decode or convert as calling does, and tell how many bits the image needs."""
        name = "image" if isinstance(source, Image.Image) else source
        try:
            if isinstance(source, Image.Image):
                self._check_header(source)
                return self._convert(source, getattr(source, "fp", None))
            with open_regular(source) as stream:
                return self._decode(stream)
        except RefusedError as refused:
            raise BadImageError(name, str(refused)) from refused.__cause__
        except MemoryError as error:
            raise BadImageError(name, "not enough memory to decode it") from error
        except Image.DecompressionBombError as error:
            raise BadImageError(name, f"too many pixels ({error}); the limit is data.max_pixels") from error
        # Damaged bytes make Pillow raise OSError, SyntaxError, ValueError, IndexError, TypeError, struct.error,
        # RuntimeError and more, and the list changes with its releases.
        except Exception as error:
            raise BadImageError(name, f"truncated or corrupt ({type(error).__name__}: {error})") from error

    def _decode(self, stream: BinaryIO) -> Decoded:
        # Pillow's limit is global. It is only ever raised, and only to the user's value, so that threads cannot race
        # and other code keeps its protection.
        if Image.MAX_IMAGE_PIXELS is not None and self.max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = self.max_pixels
        image = open_header(stream)
        self._check_header(image)
        _check_content(stream, image)
        if (plain := _decode_plain_jpeg(stream, image)) is not None:
            return Decoded(plain)
        return self._convert(image, stream)

    def _convert(self, image: Image.Image, stream: BinaryIO | None) -> Decoded:
        """Load the pixels, which may be in a stream still, turn them upright and make them RGB of 8 bits."""
        _match_transparent_colour(image)
        deep = image.mode in DEEP_MODES
        tagged, deep_colour = tagged_bits(image, stream) if deep else None, is_deep_colour(image)
        image.load()
        turn = _turn(image)
        upright = image if turn is None else image.transpose(turn)
        bits = 0
        if deep:
            upright, bits = to_8_bit(upright, self.bit_depth, tagged)
        pixels = np.array(self._to_rgb(upright))
        if deep_colour and self.bit_depth is None:
            bits = 8 + int(pixels.max()).bit_length()
        return Decoded(torch.from_numpy(pixels).permute(2, 0, 1), bits)

    def _check_header(self, image: Image.Image) -> None:
        """Refuse what can be refused before any pixel is decoded."""
        width, height = image.size
        if width * height > self.max_pixels:
            raise RefusedError(
                f"too many pixels ({width}x{height}, more than {self.max_pixels:,}); "
                f"data.max_pixels={width * height} accepts it"
            )
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else None
        if tags is not None and (reason := tiff_refusal(tags)):
            raise RefusedError(reason)
        if self.bit_depth not in (None, 16) and is_deep_colour(image):
            raise RefusedError(
                "colours of 16 bits: the upper 8 are read, and data.bit_depth is for greyscale; save it with 8 bits"
            )
        if image.mode not in DEEP_MODES:
            return
        if self.high_bit_depth == "error":
            raise RefusedError(f"deeper than 8 bits (mode {image.mode}); set data.high_bit_depth=scale to accept it")
        # Pillow does not convert it.
        if tags is not None and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            raise RefusedError(
                f"a TIFF with 0 for white (mode {image.mode}) cannot be scaled; save it with 0 for black"
            )

    def _to_rgb(self, image: Image.Image) -> Image.Image:
        if not image.has_transparency_data:
            return image.convert("RGB")
        # Pillow has no direct conversion from premultiplied greyscale to RGBA.
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        canvas = Image.new("RGB", rgba.size, self.alpha_background)
        canvas.paste(rgba, mask=rgba)
        return canvas


def _check_content(stream: BinaryIO, image: ImageFile.ImageFile) -> None:
    """Refuse a JPEG with next to no content for its pixels, which take half a gigabyte if it is progressive."""
    pixels = image.width * image.height
    if image.format != "JPEG" or pixels <= _LARGE:
        return
    place = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(place)
    if pixels > _MOST_PIXELS_A_BYTE * size:
        raise RefusedError(f"{image.width}x{image.height} pixels in {size:,} bytes: a JPEG made to fill the memory")


def _decode_plain_jpeg(stream: BinaryIO, image: ImageFile.ImageFile) -> Tensor | None:
    """Decode an upright greyscale or RGB JPEG by torchvision, which copies no pixels; None for others.

    Both libraries use libjpeg-turbo and return the same pixels. Pillow has read the header; files that fail here are
    left to it.
    """
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or _turn(image) is not None:
        return None
    stream.seek(0)
    content = torch.frombuffer(bytearray(stream.read()), dtype=torch.uint8)
    try:
        # The operator itself: torchvision.io.decode_jpeg warns since 0.29 that it will be removed. Its successor,
        # torchcodec.decoders.decode_jpeg (0.17), gave the same pixels of 800 photos, as fast.
        pixels = torch.ops.image.decode_jpeg(content, _RGB)
    # AttributeError: a torchvision without the operator; RuntimeError: one built without JPEG, or damaged bytes.
    except (AttributeError, RuntimeError):
        return None
    return pixels if pixels.shape == (3, image.height, image.width) else None


def _match_transparent_colour(image: Image.Image) -> None:
    """Scale a PNG's transparent colour to 8 bits: Pillow converts the pixels, but not this colour."""
    # Once loaded, an image has no tile any more; one that was never a file has no such colour.
    if image.format != "PNG" or "transparency" not in image.info or not getattr(image, "tile", None):
        return
    assert isinstance(image, ImageFile.ImageFile)
    depth, colour = image.tile[0][3], image.info["transparency"]
    if depth in ("L;2", "L;4"):
        image.info["transparency"] = colour * (85 if depth == "L;2" else 17)
    elif depth == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in colour)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the transpose that makes an image upright, if it needs one."""
    # Not ImageOps.exif_transpose: it rewrites the EXIF block, which fails on odd tags that no pixel depends on.
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # An unreadable EXIF block has no orientation, and viewers show such an image as stored.
    except Exception:
        return None
