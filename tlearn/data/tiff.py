"""What a TIFF declares about its bands, and which of these kinds would be read as something else."""

from collections.abc import Mapping
from typing import Any, BinaryIO

from PIL import TiffImagePlugin as Tiff

from tlearn.data.formats import RAW

# Photometric interpretation -> bands of the colour itself
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
_NUMBERS = {1: "", 2: "signed ", 3: "float "}


def tiff_refusal(tags: Mapping[int, Any]) -> str | None:
    """Return why a TIFF with these tags must not be read as Pillow reads it, if anything speaks against it.

    A camera's raw file is a TIFF whose first picture is a small preview. A band behind those of the colour is alpha
    only if the file says so (ExtraSamples); a single one that it declares as something else is left out, and more are
    refused.
    """
    if _DNG_VERSION in tags or (_SUB_IFDS in tags and tags.get(_NEW_SUBFILE_TYPE, 0) & 1):
        return RAW
    bands = tags.get(Tiff.SAMPLESPERPIXEL, 1)
    spare = bands - _COLOURS.get(tags.get(Tiff.PHOTOMETRIC_INTERPRETATION, -1), bands)
    if spare > 1:
        return f"{_described(tags)} is not supported: save the 1 or 3 bands that make the picture"
    if spare == 1 and not tags.get(Tiff.EXTRASAMPLES, ()):
        last = f"{_described(tags)}, whose last is not declared as alpha or as anything else (ExtraSamples)"
        return f"{last}: save it without that band, or declare it"
    return None


def unsupported_tiff(stream: BinaryIO) -> str | None:
    """Describe a TIFF whose header Pillow refuses; None if the file is damaged."""
    stream.seek(0)
    try:
        header = stream.read(8)
        tags = Tiff.ImageFileDirectory_v2(header + (stream.read(8) if header[2] == 43 else b""))
        stream.seek(tags.next)
        tags.load(stream)
        first = tags[Tiff.STRIPOFFSETS] if Tiff.STRIPOFFSETS in tags else tags[Tiff.TILEOFFSETS]
        whole = max(first) < stream.seek(0, 2) and {Tiff.IMAGEWIDTH, Tiff.IMAGELENGTH} <= set(tags)
        return f"{_described(tags)} is not supported: save it with 8 bits, or as PNG" if whole else None
    # As with pictures, damaged bytes make Pillow raise errors of many types.
    except Exception:
        return None


def _described(tags: Mapping[int, Any]) -> str:
    """Name a TIFF by its bands, such as "a TIFF of 3 bands of 32-bit float values"."""
    bands, bits = tags.get(Tiff.SAMPLESPERPIXEL, 1), tags.get(Tiff.BITSPERSAMPLE, (1,))
    kind = _NUMBERS.get(tags.get(Tiff.SAMPLEFORMAT, (1,))[0], "complex ")
    compression = tags.get(Tiff.COMPRESSION, 1)
    packed = "" if compression in Tiff.COMPRESSION_INFO else f" in compression {compression}"
    return f"a TIFF of {bands} band{'s' * (bands != 1)} of {max(bits)}-bit {kind}values{packed}"
