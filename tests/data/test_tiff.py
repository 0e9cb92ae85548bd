"""TIFF files whose bands are not what a reader would take them for."""

import struct
from pathlib import Path

import numpy as np
import pytest

from tlearn.data.decode import Decoder
from tlearn.errors import BadImageError

RGB = np.dstack([np.full((8, 8), level, np.uint8) for level in (200, 100, 50)])
# Data that would show as transparency if it were taken for alpha
INFRARED = np.full((8, 8), 10, np.uint8)


def tiff(path: Path, pixels: np.ndarray, bits: int, more: dict[int, int | tuple[int, ...]] | None = None) -> Path:
    """Write an uncompressed TIFF [H, W, C] with these tags of SHORT values."""
    height, width, bands = pixels.shape
    tags: dict[int, int | tuple[int, ...]] = {
        256: width,
        257: height,
        258: (bits,) * bands,
        259: 1,
        262: 2 if bands > 2 else 1,
        273: 8,
        277: bands,
        278: height,
        279: pixels.nbytes,
        **(more or {}),
    }
    data = pixels.tobytes()
    entries, spare, behind = b"", b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            spare, packed = spare + packed, struct.pack("<I", behind + len(spare))
        entries += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    header = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(header + data + struct.pack("<H", len(tags)) + entries + bytes(4) + spare)
    return path


def refused(path: Path, **options: object) -> str:
    with pytest.raises(BadImageError) as caught:
        Decoder(**options)(path)
    return caught.value.reason


def means(path: Path) -> list[float]:
    return Decoder()(path).float().mean((1, 2)).tolist()


@pytest.mark.parametrize(
    ("pixels", "bits", "tags", "words"),
    [
        ((RGB / 255).astype("<f4"), 32, {339: (3, 3, 3)}, "a TIFF of 3 bands of 32-bit float values"),
        ((RGB / 255).astype("<f8"), 64, {339: (3, 3, 3)}, "a TIFF of 3 bands of 64-bit float values"),
        (np.dstack([RGB, RGB[:, :, :2]]), 8, {}, "a TIFF of 5 bands of 8-bit values"),
        (np.dstack([RGB, RGB[:, :, :2]]), 8, {338: (0, 0)}, "a TIFF of 5 bands of 8-bit values"),
        (np.dstack([RGB, RGB[:, :, :2]]).astype("<u2"), 16, {338: (0, 0)}, "a TIFF of 5 bands of 16-bit values"),
        (np.dstack([RGB, RGB, RGB]), 8, {338: (0,) * 6}, "a TIFF of 9 bands of 8-bit values"),
        (RGB, 8, {259: 34887}, "a TIFF of 3 bands of 8-bit values in compression 34887"),
        (RGB[:, :, :2], 8, {}, "a TIFF of 2 bands of 8-bit values"),
    ],
    ids=["float", "double", "five", "five told", "five deep", "nine", "compression", "two"],
)
def test_kinds_that_are_not_supported_are_named(tmp_path, pixels, bits, tags, words):
    for options in ({}, {"high_bit_depth": "scale"}):
        reason = refused(tiff(tmp_path / "a.tif", pixels, bits, tags), **options)
        assert reason.startswith(words)
        assert "save" in reason


@pytest.mark.parametrize("dtype", ["<u1", "<u2"])
def test_a_fourth_band_is_alpha_only_if_it_is_declared_so(tmp_path, dtype):
    scale = 1 if dtype == "<u1" else 257
    pixels, bits = np.dstack([RGB, INFRARED]).astype(dtype) * np.array(scale, dtype), 8 * np.dtype(dtype).itemsize
    reason = refused(tiff(tmp_path / "undeclared.tif", pixels, bits))
    assert f"a TIFF of 4 bands of {bits}-bit values" in reason
    assert "not declared as alpha" in reason
    assert means(tiff(tmp_path / "other.tif", pixels, bits, {338: 0})) == [200, 100, 50]
    # Nearly transparent on white
    assert means(tiff(tmp_path / "alpha.tif", pixels, bits, {338: 2})) == pytest.approx([253, 249, 247], abs=2)


@pytest.mark.parametrize("tags", [{50706: (1, 4)}, {254: 1, 330: 8}], ids=["DNG", "preview"])
def test_the_preview_of_a_raw_file_is_not_taken_for_the_picture(tmp_path, tags):
    assert refused(tiff(tmp_path / "a.nef", RGB, 8, tags)).startswith("a camera's raw picture")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_plain_ones_and_cut_ones_are_as_ever(tmp_path):
    path = tiff(tmp_path / "a.tif", RGB, 8)
    assert means(path) == [200, 100, 50]
    content = tiff(tmp_path / "five.tif", np.dstack([RGB, RGB[:, :, :2]]), 8).read_bytes()
    # Pillow warns of it.
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    assert refused(tmp_path / "cut.tif").startswith("truncated or corrupt")
