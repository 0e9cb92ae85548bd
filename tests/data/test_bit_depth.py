"""Images of 10, 12 and 14 significant bits in files of 16: whose range is told, given, or said to look so."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.test_tiff import refused, tiff
from tlearn.data.bit_depth import depth_note
from tlearn.data.decode import Decoder


def ramp(bits: int) -> np.ndarray:
    return np.linspace(0, 2**bits - 1, 64 * 64).round().astype("<u2").reshape(64, 64)


def levels(path: Path, **options: object) -> tuple[int, int, int]:
    """Return the first and last level of a ramp, and the bits that it is said to need."""
    pixels, bits = Decoder(high_bit_depth="scale", **options).read(path)
    assert (pixels[0].flatten().int().diff() >= 0).all()
    return int(pixels.min()), int(pixels.max()), bits


def saved(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def with_significant_bits(path: Path, bits: int) -> Path:
    content = path.read_bytes()
    chunk = b"sBIT" + bytes([bits])
    place = content.index(b"IDAT") - 4
    inserted = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:place] + inserted + content[place:])
    return path


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("ending", [".png", ".tif"])
class TestGiven:
    def test_the_given_depth_is_the_range(self, tmp_path, ending, bits):
        file = saved(tmp_path / f"a{ending}", ramp(bits))
        assert levels(file, bit_depth=bits) == (0, 255, 0)
        assert "data.bit_depth" in refused(file, high_bit_depth="scale", bit_depth=bits - 1)

    def test_without_it_the_range_is_16_bits_and_what_it_looks_like_is_said(self, tmp_path, ending, bits):
        low, high, needed = levels(saved(tmp_path / f"a{ending}", ramp(bits)))
        assert (low, high) == (0, round(255 * (2**bits - 1) / 65535))
        note = depth_note([0, needed, 3])
        assert f"look like {bits} bits" in note
        assert f"data.bit_depth={bits} " in note

    def test_a_depth_of_16_is_what_is_read_without_and_says_nothing(self, tmp_path, ending, bits):
        file = saved(tmp_path / f"a{ending}", ramp(bits))
        assert levels(file, bit_depth=16) == (*levels(file)[:2], 0)


class TestTold:
    @pytest.mark.parametrize("bits", [10, 12, 14])
    @pytest.mark.parametrize("tag", [281, 341])
    def test_by_a_tiff_with_its_largest_value(self, tmp_path, tag, bits):
        file = tiff(tmp_path / "a.tif", ramp(bits)[:, :, None], 16, {tag: 2**bits - 1})
        assert levels(file) == (0, 255, 0)

    def test_the_largest_value_that_occurs_is_no_range(self, tmp_path):
        file = tiff(tmp_path / "a.tif", ramp(12)[:, :, None], 16, {281: 3891})
        assert levels(file) == (0, 16, 12)

    def test_by_a_tiff_of_12_bits(self, tmp_path):
        values = ramp(12).astype(int).reshape(-1, 2)
        packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1)
        pixels = packed.astype(np.uint8).reshape(64, -1, 1)
        assert levels(tiff(tmp_path / "a.tif", pixels, 12, {256: 64, 258: 12})) == (0, 255, 0)

    def test_by_ome(self, tmp_path):
        described = '<?xml version="1.0"?><OME><Image><Pixels SignificantBits="12" Type="uint16"/></Image></OME>'
        Image.fromarray(ramp(12)).save(tmp_path / "a.ome.tif", description=described)
        assert levels(tmp_path / "a.ome.tif") == (0, 255, 0)

    def test_by_a_png_whose_values_are_below(self, tmp_path):
        assert levels(with_significant_bits(saved(tmp_path / "a.png", ramp(12)), 12)) == (0, 255, 0)

    # As the specification has it, the significant bits are the upper ones.
    @pytest.mark.parametrize("values", [ramp(12) << 4, ramp(12) << 4 | ramp(12) >> 8, (ramp(12) >> 8) << 4])
    def test_by_a_png_whose_values_are_spread_over_16_bits(self, tmp_path, values):
        plain = levels(saved(tmp_path / "a.png", values))
        assert levels(with_significant_bits(tmp_path / "a.png", 12)) == (*plain[:2], 0)

    def test_values_above_the_told_range_make_it_16_bits(self, tmp_path):
        assert levels(tiff(tmp_path / "a.tif", ramp(16)[:, :, None], 16, {281: 4095})) == (0, 255, 0)

    def test_what_is_given_goes_before_what_is_told(self, tmp_path):
        file = tiff(tmp_path / "a.tif", ramp(12)[:, :, None], 16, {281: 4095})
        assert levels(file, bit_depth=16) == (0, 16, 0)


class TestColour:
    def png(self, path: Path, level: int) -> Path:
        row = b"\0" + struct.pack(">3H", level, level, level) * 8
        parts = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row * 8))]
        chunks = [
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in [*parts, (b"IEND", b"")]
        ]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        return path

    def test_what_looks_like_fewer_bits_is_said(self, tmp_path):
        assert Decoder().read(self.png(tmp_path / "a.png", 4095)).bits == 12
        assert Decoder().read(self.png(tmp_path / "a.png", 65535)).bits == 16

    def test_a_given_depth_is_refused_for_colours(self, tmp_path):
        file = self.png(tmp_path / "a.png", 4095)
        assert "greyscale" in refused(file, high_bit_depth="scale", bit_depth=12)
        assert Decoder(high_bit_depth="scale", bit_depth=16).read(file).bits == 0

    def test_a_tiff_in_colour_counts_too(self, tmp_path):
        pixels = np.full((8, 8, 3), 1023, "<u2")
        assert Decoder().read(tiff(tmp_path / "a.tif", pixels, 16)).bits == 10


@pytest.mark.parametrize("used", [[], [0, 0], [16], [12, 15], [0, 16, 12]])
def test_images_that_use_their_range_and_those_of_8_bits_need_no_note(used):
    assert depth_note(used) is None
