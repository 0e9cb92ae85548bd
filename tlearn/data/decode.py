"""One image, a file or Pillow's -> uint8 RGB tensor, or an error that names the file."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.image
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin
from torch import Tensor

from tlearn.data.formats import FORMATS
from tlearn.errors import BadImageError
from tlearn.ranges import require

# Some depend on how Pillow was built.
Image.init()
_OPENERS = [Image.OPEN[name] for name in FORMATS if name in Image.OPEN]

# torchvision's ImageReadMode.RGB
_RGB = 3

_HIGH_BIT_DEPTH = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}

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


class _RefusedError(Exception):
    """The reason to refuse a file, still without the file's name."""


@dataclass(frozen=True)
class Decoder:
    """Turn one image, a file or Pillow's, into the pixels that a viewer shows, or raise an error that names the file.

    Transparent images are composited on `alpha_background`; of animations, the first frame is decoded.
    `high_bit_depth` is for greyscale images of 16 or 32 bits or floats: "error", or "scale" by the range of the type.
    `max_pixels` is compared with the header before memory is allocated for pixels. Raises ConfigError for invalid
    values.
    """

    max_pixels: int = 89_478_485
    alpha_background: tuple[int, int, int] = (255, 255, 255)
    high_bit_depth: str = "error"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(f"data.{name}", value)
        # YAML gives a list, and the decoder must be hashable.
        object.__setattr__(self, "alpha_background", tuple(self.alpha_background))

    def __call__(self, source: str | Path | Image.Image) -> Tensor:
        """Decode the file at a path, or convert an image of Pillow's as its file would be.

        Returns uint8 [3, H, W] with H, W >= 1, in the memory order H, W, 3, which torchvision's resize reads fastest.
        Raises BadImageError for every image that cannot be decoded correctly. Thread-safe.
        """
        name = "image" if isinstance(source, Image.Image) else source
        try:
            if isinstance(source, Image.Image):
                self._check_header(source)
                return self._convert(source)
            with _open_regular(source) as stream:
                return self._decode(stream)
        except _RefusedError as refused:
            raise BadImageError(name, str(refused)) from refused.__cause__
        except MemoryError as error:
            raise BadImageError(name, "not enough memory to decode it") from error
        except Image.DecompressionBombError as error:
            raise BadImageError(name, f"too many pixels ({error}); the limit is data.max_pixels") from error
        # Damaged bytes make Pillow raise OSError, SyntaxError, ValueError, IndexError, TypeError, struct.error,
        # RuntimeError and more, and the list changes with its releases.
        except Exception as error:
            raise BadImageError(name, f"truncated or corrupt ({type(error).__name__}: {error})") from error

    def _decode(self, stream: BinaryIO) -> Tensor:
        # Pillow's limit is global. It is only ever raised, and only to the user's value, so that threads cannot race
        # and other code keeps its protection.
        if Image.MAX_IMAGE_PIXELS is not None and self.max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = self.max_pixels
        image = _open_header(stream)
        self._check_header(image)
        if (pixels := _decode_plain_jpeg(stream, image)) is not None:
            return pixels
        return self._convert(image)

    def _convert(self, image: Image.Image) -> Tensor:
        """Load the pixels, turn them upright and make them RGB of 8 bits."""
        _match_transparent_colour(image)
        image.load()
        turn = _turn(image)
        upright = image if turn is None else image.transpose(turn)
        rgb = self._to_rgb(_to_8_bit(upright) if upright.mode in _HIGH_BIT_DEPTH else upright)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)

    def _check_header(self, image: Image.Image) -> None:
        """Refuse what can be refused before any pixel is decoded."""
        width, height = image.size
        if width * height > self.max_pixels:
            raise _RefusedError(
                f"too many pixels ({width}x{height}, more than {self.max_pixels:,}); raise data.max_pixels to accept it"
            )
        if image.mode in _HIGH_BIT_DEPTH and self.high_bit_depth == "error":
            raise _RefusedError(f"deeper than 8 bits (mode {image.mode}); set data.high_bit_depth=scale to accept it")
        if image.mode in _HIGH_BIT_DEPTH and isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiff_grey(image)

    def _to_rgb(self, image: Image.Image) -> Image.Image:
        if not image.has_transparency_data:
            return image.convert("RGB")
        # Pillow has no direct conversion from premultiplied greyscale to RGBA.
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        canvas = Image.new("RGB", rgba.size, self.alpha_background)
        canvas.paste(rgba, mask=rgba)
        return canvas


def _open_regular(path: str | Path) -> BinaryIO:
    try:
        # Checked before opening: opening a FIFO waits for a writer that may never come.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _RefusedError("not a regular file")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise _RefusedError("no such file") from error
    except (OSError, ValueError) as error:
        raise _RefusedError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _open_header(stream: BinaryIO) -> ImageFile.ImageFile:
    """Read the header with the reader chosen by the first bytes, whatever the file is called.

    Not `Image.open`: it warns about large images, and only `catch_warnings`, which is not thread-safe, could hide it.
    """
    prefix = stream.read(16)
    if not prefix:
        raise _RefusedError("empty file (0 bytes)")
    for read_header, accepts in _OPENERS:
        verdict = accepts is None or accepts(prefix)
        if isinstance(verdict, str):
            raise _RefusedError(verdict)
        if verdict:
            stream.seek(0)
            # No file name: Pillow would memory-map the file, and truncating a mapped file kills the process.
            return read_header(stream, "")
    words = prefix.split() if prefix.isascii() and prefix.strip() else []
    shown = words[0] if words and words[0].decode().isprintable() else prefix
    raise _RefusedError(f"not an image (starts with {repr(shown)[1:]})")


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
        # The operator itself: torchvision.io.decode_jpeg warns since 0.29 that it will move to another package.
        pixels = torch.ops.image.decode_jpeg(content, _RGB)
    # AttributeError: a torchvision without the operator; RuntimeError: one built without JPEG, or damaged bytes.
    except (AttributeError, RuntimeError):
        return None
    return pixels if pixels.shape == (3, image.height, image.width) else None


def _check_tiff_grey(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse high-bit-depth TIFFs in another scale than `_to_8_bit` expects: Pillow does not convert them."""
    if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        raise _RefusedError(f"a TIFF with 0 for white (mode {image.mode}) cannot be scaled; save it with 0 for black")
    if image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
        raise _RefusedError(f"a 12-bit TIFF (mode {image.mode}) cannot be scaled; save it with 16 bits")


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


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale a greyscale image of 16 bits ([0, 65535]) or floats ([0, 1]) to L, or LA if it has a transparent level."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    limit = 1 if image.mode == "F" else 65535
    # In this form, NaN is refused too.
    if not (low >= 0 and high <= limit):
        raise _RefusedError(
            f"values from {low} to {high} (mode {image.mode}) are not in 0 to {limit}; save it with 8 bits"
        )
    scaled = np.rint(values * np.float32(255)) if image.mode == "F" else (values.astype(np.uint32) + 128) // 257
    grey = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in image.info:
        opaque = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(opaque))
    return grey
