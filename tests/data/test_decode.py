"""One file gives its right pixels or an error with its name, whatever the file holds."""

import io
import os
import pickle
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch import Tensor

from tlearn.data import decode as decoding
from tlearn.data.decode import Decoder
from tlearn.errors import BadImageError, ConfigError

# A warning would come again from every worker in every epoch.
pytestmark = pytest.mark.filterwarnings("error")

BACKGROUND = (10, 20, 30)


def noise(height: int = 32, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(size: tuple[int, int], depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def transparent(*levels: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(levels)}H", *levels))


@pytest.fixture
def decode(tmp_path: Path) -> Callable[..., Tensor]:
    """Give a function that writes bytes to a file and decodes it."""

    def through_file(content: bytes, name: str = "picture.img", **options: object) -> Tensor:
        (tmp_path / name).write_bytes(content)
        return Decoder(**options)(tmp_path / name)

    return through_file


@pytest.fixture
def reason(decode: Callable[..., Tensor], tmp_path: Path) -> Callable[..., str]:
    """Give a function that decodes bytes which must be refused, with the file's path, and gives the reason."""

    def refused(content: bytes, **options: object) -> str:
        with pytest.raises(BadImageError) as caught:
            decode(content, "refused.jpg", **options)
        assert str(tmp_path / "refused.jpg") in str(caught.value)
        assert caught.value.path == str(tmp_path / "refused.jpg")
        return caught.value.reason

    return refused


def pixels(tensor: Tensor) -> list[tuple[int, ...]]:
    """List the colours row by row."""
    return [tuple(colour) for colour in tensor.flatten(1).T.tolist()]


def is_picture(tensor: Tensor) -> bool:
    return tensor.dtype == torch.uint8 and tensor.ndim == 3 and len(tensor) == 3 and tensor.numel() > 0


# Good pictures


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_exact_pixels_as_channels_height_width(decode, format):
    tensor = decode(encode(Image.fromarray(noise()), format))
    assert is_picture(tensor)
    assert torch.equal(tensor, torch.from_numpy(noise()).permute(2, 0, 1))


def test_the_content_decides_and_not_the_ending(decode):
    tensor = decode(encode(Image.fromarray(noise()), "PNG"), name="png_named.jpg")
    assert torch.equal(tensor, torch.from_numpy(noise()).permute(2, 0, 1))


def test_a_path_may_be_text(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "text.png")
    assert Decoder()(str(tmp_path / "text.png")).shape == (3, 32, 40)


def test_the_tensor_owns_its_memory(decode):
    tensor = decode(encode(Image.fromarray(noise()), "PNG"))
    tensor.zero_()
    assert not tensor.any()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
    ],
)
def test_other_colour_spaces_become_rgb(decode, mode, colour, expected):
    (found,) = set(pixels(decode(encode(Image.new(mode, (4, 3), colour), "TIFF"))))
    assert np.abs(np.subtract(found, expected)).max() <= 1


def test_palette_becomes_rgb(decode):
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert pixels(decode(encode(palette, "PNG"))) == [(0, 0, 0), (200, 100, 50)]


def test_inverted_cmyk_of_a_jpeg_gives_its_colours(decode):
    content = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in content
    assert (decode(content).float() - torch.tensor([255.0, 0, 0])[:, None, None]).abs().max() <= 3


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(decode, format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    content = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert set(pixels(decode(content))) == {(255, 0, 0)}


# Orientation


def stored_for(orientation: int, upright: np.ndarray) -> Image.Image:
    """Turn a picture so that a viewer who obeys the orientation sees it upright (EXIF 2.3, tag 0x0112)."""
    rows_first = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright[:, ::-1].transpose(1, 0, 2),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright[::-1].transpose(1, 0, 2),
    }
    return Image.fromarray(np.ascontiguousarray(rows_first[orientation]))


def orientation_tag(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_every_orientation_gives_the_same_upright_tensor(decode, format, options, orientation):
    content = encode(stored_for(orientation, noise(5, 7)), format, exif=orientation_tag(orientation), **options)
    assert torch.equal(decode(content), torch.from_numpy(noise(5, 7)).permute(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_upright(decode, orientation):
    blocks = np.kron(noise(2, 3), np.ones((16, 16, 1), np.uint8))
    content = encode(
        stored_for(orientation, blocks), "JPEG", quality=100, subsampling=0, exif=orientation_tag(orientation)
    )
    difference = decode(content).int() - torch.from_numpy(blocks).permute(2, 0, 1).int()
    assert difference.abs().max() <= 4


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0", orientation_tag(9)])
def test_an_orientation_that_nobody_can_read_leaves_the_picture_as_stored(decode, format, exif):
    assert decode(encode(Image.fromarray(noise()), format, exif=exif)).shape == (3, 32, 40)


# Transparency


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_hidden_colours_give_way_to_the_background(decode, mode):
    hidden = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    tensor = decode(encode(hidden.convert(mode), "TIFF"), alpha_background=BACKGROUND)
    assert set(pixels(tensor)) == {BACKGROUND}


def test_the_background_is_white_unless_said_otherwise(decode):
    assert set(pixels(decode(encode(Image.new("RGBA", (3, 2), (255, 0, 0, 0)), "PNG")))) == {(255, 255, 255)}


def test_half_transparent_pixels_are_mixed(decode):
    (found,) = pixels(decode(encode(Image.new("RGBA", (1, 1), (200, 0, 100, 128)), "PNG"), alpha_background=BACKGROUND))
    assert np.abs(np.subtract(found, (105, 10, 65))).max() <= 1


def test_premultiplied_grey_is_mixed(decode):
    content = encode(Image.new("LA", (1, 1), (50, 128)), "TIFF")
    # The tag ExtraSamples, changed from "alpha" to "premultiplied alpha".
    tag = struct.pack("<HHI", 338, 3, 1)
    assert content.count(tag + b"\2\0") == 1
    content = content.replace(tag + b"\2\0", tag + b"\1\0")
    assert Image.open(io.BytesIO(content)).mode == "La"
    assert pixels(decode(content, alpha_background=(0, 0, 0))) == [(50, 50, 50)]


PALETTE = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255]))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # An alpha for each colour, which Pillow keeps as bytes.
        (png((3, 1), 8, 3, b"\0\0\1\2", PALETTE + chunk(b"tRNS", b"\x00\xff")), [BACKGROUND, (0, 255, 0), (0, 0, 255)]),
        (png((2, 1), 8, 3, b"\0\0\1", PALETTE + chunk(b"tRNS", b"\x00\x80")), [BACKGROUND, (5, 138, 15)]),
        # One transparent colour, which Pillow keeps as its number.
        (png((2, 1), 8, 3, b"\0\0\1", PALETTE + chunk(b"tRNS", b"\xff\x00")), [(255, 0, 0), BACKGROUND]),
        (png((2, 1), 8, 2, b"\0\xff\0\0\0\0\xff", transparent(255, 0, 0)), [BACKGROUND, (0, 0, 255)]),
        (
            png((2, 1), 16, 2, b"\0\xff\xff\0\0\0\0\0\0\0\0\xff\xff", transparent(65535, 0, 0)),
            [BACKGROUND, (0, 0, 255)],
        ),
        (png((2, 1), 8, 0, b"\0\x07\x08", transparent(7)), [BACKGROUND, (8, 8, 8)]),
        (png((2, 1), 4, 0, b"\0\x07", transparent(7)), [(0, 0, 0), BACKGROUND]),
        (png((2, 1), 2, 0, b"\0\x10", transparent(1)), [(0, 0, 0), BACKGROUND]),
        (png((2, 1), 1, 0, b"\0\x40", transparent(1)), [(0, 0, 0), BACKGROUND]),
        (png((2, 1), 16, 0, b"\0\x00\x07\x80\x00", transparent(7)), [BACKGROUND, (128, 128, 128)]),
    ],
    ids=["palette", "palette half", "palette one", "rgb8", "rgb16", "grey8", "grey4", "grey2", "grey1", "grey16"],
)
def test_transparent_colours_of_a_png_show_the_background(decode, content, expected):
    assert pixels(decode(content, alpha_background=BACKGROUND, high_bit_depth="scale")) == expected


def test_a_transparent_gif_shows_the_background(decode):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    tensor = decode(encode(image, "GIF", transparency=0), alpha_background=BACKGROUND)
    assert pixels(tensor) == [BACKGROUND, (0, 0, 255)]


# More than 8 bits

RAMP = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)


def deep(values: np.ndarray, format: str) -> bytes:
    return encode(Image.fromarray(values), format)


DEEP_RAMPS = {
    "png": deep(RAMP, "PNG"),
    "tiff": deep(RAMP, "TIFF"),
    "big-endian tiff": deep(RAMP.astype(">u2"), "TIFF"),
    "32-bit tiff": deep(RAMP.astype(np.int32), "TIFF"),
    "float tiff": deep((RAMP / 65535).astype(np.float32), "TIFF"),
    "pgm": b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes(),
    "jpeg2000": deep(RAMP, "JPEG2000"),
}


@pytest.mark.parametrize("content", DEEP_RAMPS.values(), ids=DEEP_RAMPS)
def test_deep_greys_are_scaled_by_the_range_of_their_type(decode, content):
    tensor = decode(content, high_bit_depth="scale")
    assert is_picture(tensor)
    assert tensor.float().mean() / 255 == pytest.approx(0.5, abs=0.01)
    line = tensor[0].flatten().int()
    assert (line.diff() >= 0).all()
    assert (line[0], line[-1]) == (0, 255)


@pytest.mark.parametrize("content", DEEP_RAMPS.values(), ids=DEEP_RAMPS)
def test_deep_greys_are_refused_with_the_key_that_accepts_them(reason, content):
    assert "data.high_bit_depth=scale" in reason(content)
    assert "mode I" in reason(content) or "mode F" in reason(content)


@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 2), 300.0, np.float32),
        np.full((2, 2), -0.5, np.float32),
        np.full((2, 2), np.nan, np.float32),
        np.full((2, 2), 70_000, np.int32),
        np.full((2, 2), -1, np.int32),
    ],
    ids=["over 1", "negative", "nan", "over 16 bits", "negative integer"],
)
def test_values_without_a_known_range_are_refused(reason, values):
    assert "not in 0 to" in reason(deep(values, "TIFF"), high_bit_depth="scale")


def test_a_deep_tiff_with_0_for_white_is_refused(reason):
    content = deep(RAMP, "TIFF")
    start = content.index(struct.pack("<HHI", 262, 3, 1))
    content = content[: start + 8] + struct.pack("<H", 0) + content[start + 10 :]
    assert "0 for white" in reason(content, high_bit_depth="scale")


# Bad files

JPEG = encode(Image.fromarray(noise()), "JPEG")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file (0 bytes)"),
        (b" \n\n", r"not an image (starts with ' \n\n')"),
        (b"hello world", "not an image (starts with 'hello')"),
        (encode(Image.fromarray(noise()), "TGA"), "not an image"),
    ],
    ids=["empty", "blank", "text", "no signature"],
)
def test_files_that_are_no_pictures_are_named_with_what_they_are(reason, content, expected):
    assert reason(content).startswith(expected)


@pytest.mark.parametrize("content", [JPEG[:400], JPEG[:-3], JPEG[:20], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\x00"])
def test_damaged_pictures_are_called_so(reason, content):
    assert reason(content).startswith("truncated or corrupt (")


def test_a_jpeg_cut_anywhere_before_its_end_mark_is_refused(reason):
    for end in range(0, len(JPEG) - 2, 12):
        assert reason(JPEG[:end])


# How many last bytes hold no pixels, so that a file may do without them.
@pytest.mark.parametrize(
    ("format", "spare"), [("JPEG", 2), ("PNG", 22), ("GIF", 2), ("WEBP", 0), ("TIFF", 0), ("BMP", 0)]
)
# Pillow warns of cut metadata before it finds the cut pixels.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_cut_picture_is_refused_unless_no_pixel_was_lost(decode, format, spare):
    content = encode(Image.fromarray(noise(12, 16)), format)
    whole = decode(content)
    for end in range(0, len(content) - spare, 5):
        with pytest.raises(BadImageError):
            decode(content[:end])
    for end in range(len(content) - spare, len(content)):
        with suppress(BadImageError):
            assert torch.equal(decode(content[:end]), whole)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
# Damaged metadata is warned of.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_files_give_a_picture_or_the_error_and_nothing_else(tmp_path, format):
    content = encode(Image.fromarray(noise(12, 16)), format)
    random = np.random.default_rng(7)
    decoder = Decoder(max_pixels=100_000)
    decoded = 0
    for number in range(400):
        mutated = bytearray(content)
        for place in random.integers(0, len(content), random.integers(1, 8)):
            mutated[place] = random.integers(0, 256)
        file = tmp_path / f"mutated_{number}.jpg"
        file.write_bytes(mutated)
        with suppress(BadImageError):
            assert is_picture(decoder(file))
            decoded += 1
            continue
        with pytest.raises(BadImageError, match=file.name):
            decoder(file)
    assert 0 < decoded < 400


@pytest.mark.parametrize("error", [RuntimeError("broken codec"), ValueError("odd"), RecursionError("deep"), OSError()])
def test_any_failure_of_a_decoder_is_about_the_file(reason, monkeypatch, error):
    def fail(self: ImageFile.ImageFile) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert type(error).__name__ in reason(encode(Image.fromarray(noise()), "PNG"))


def test_missing_memory_is_about_the_file_but_not_its_fault(reason, monkeypatch):
    def fail(self: ImageFile.ImageFile) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert reason(encode(Image.fromarray(noise()), "PNG")) == "not enough memory to decode it"


def test_an_interrupt_is_not_swallowed(decode, monkeypatch):
    def interrupt(self: ImageFile.ImageFile) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile.ImageFile, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(encode(Image.fromarray(noise()), "PNG"))


@pytest.mark.parametrize("name", ["missing.jpg", "broken_link.jpg", "no_folder/missing.jpg"])
def test_a_missing_file_is_named(tmp_path, name):
    (tmp_path / "broken_link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(BadImageError) as caught:
        Decoder()(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: no such file"


@pytest.mark.parametrize("name", ["self_link.jpg", "nul\0.jpg", "n" * 300])
def test_a_name_that_cannot_be_opened_is_an_error_about_the_file(tmp_path, name):
    (tmp_path / "self_link.jpg").symlink_to(tmp_path / "self_link.jpg")
    with pytest.raises(BadImageError, match="cannot be read"):
        Decoder()(tmp_path / name)


# A FIFO that were opened would hold this test for ever.
@pytest.mark.timeout(60)
def test_what_is_not_a_regular_file_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("fifo.jpg", "folder.jpg"):
        with pytest.raises(BadImageError, match=f"{name}: not a regular file"):
            Decoder()(tmp_path / name)


# JPEG, by torchvision or by Pillow


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    """Give a picture of blocks under some noise: it has edges, flat places and chroma."""
    blocks = np.kron(noise(-(-height // 8), -(-width // 8), seed), np.ones((8, 8, 1), np.uint8))[:height, :width]
    return Image.fromarray((blocks * 0.8).astype(np.uint8) + noise(height, width, seed + 1) // 5)


def with_segment(content: bytes, marker: int, payload: bytes) -> bytes:
    return content[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + content[2:]


PLAIN = encode(smooth(61, 83), "JPEG")
JPEGS = {
    "4:2:0": PLAIN,
    "4:2:2": encode(smooth(61, 83), "JPEG", subsampling=1),
    "4:4:4": encode(smooth(61, 83), "JPEG", subsampling=0, quality=98),
    "low quality": encode(smooth(61, 83), "JPEG", quality=5),
    "grey": encode(smooth(61, 83).convert("L"), "JPEG"),
    "progressive": encode(smooth(61, 83), "JPEG", progressive=True),
    "progressive grey": encode(smooth(61, 83).convert("L"), "JPEG", progressive=True),
    "optimised": encode(smooth(200, 150), "JPEG", optimize=True),
    "restarts": encode(smooth(61, 83), "JPEG", restart_marker_blocks=2),
    "rgb": encode(smooth(61, 83), "JPEG", keep_rgb=True),
    "one pixel": encode(smooth(1, 1), "JPEG"),
    "one row": encode(smooth(1, 50), "JPEG"),
    "one column": encode(smooth(50, 1), "JPEG"),
    "colour profile": encode(smooth(61, 83), "JPEG", icc_profile=bytes(range(256)) * 300),
    "comment": encode(smooth(61, 83), "JPEG", comment=b"\xff\xd8\xff"),
    "upright": encode(smooth(61, 83), "JPEG", exif=orientation_tag(1)),
    "turned": encode(smooth(61, 83), "JPEG", exif=orientation_tag(6)),
    "turned by xmp": encode(smooth(61, 83), "JPEG", xmp=b'<rdf:Description tiff:Orientation="3"/>'),
    "broken exif": encode(smooth(61, 83), "JPEG", exif=b"Exif\0\0broken"),
    "cmyk": encode(smooth(61, 83).convert("CMYK"), "JPEG"),
    "mpo": encode(smooth(61, 83), "MPO", save_all=True, append_images=[smooth(61, 83, 5)]),
    "thumbnail": with_segment(PLAIN, 0xE1, b"Exif\0\0" + encode(smooth(9, 9), "JPEG")),
    "padded": PLAIN[:2] + b"\xff\xff" + PLAIN[2:],
    "junk in between": PLAIN[:20] + b"junk" + PLAIN[20:],
    "junk behind": PLAIN + b"junk" * 100,
    "two pictures": PLAIN + encode(smooth(10, 10), "JPEG"),
}


@pytest.fixture
def both_ways(decode: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Tensor | str]]:
    """Give a function that decodes bytes, and decodes them by Pillow alone: a tensor or a reason for each."""

    def outcomes(content: bytes, **options: object) -> list[Tensor | str]:
        found: list[Tensor | str] = []
        for by_pillow in (False, True):
            with monkeypatch.context() as patch:
                if by_pillow:
                    patch.setattr(decoding, "_decode_plain_jpeg", lambda stream, image: None)
                try:
                    found.append(decode(content, "both_ways.jpg", **options))
                except BadImageError as error:
                    found.append(error.reason)
        return found

    return outcomes


def same(one: Tensor | str, other: Tensor | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and one == other
    return torch.equal(one, other)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Collect what torchvision decodes."""
    decoded: list[Tensor] = []
    original = torch.ops.image.decode_jpeg

    def counting(content: Tensor, mode: int) -> Tensor:
        decoded.append(original(content, mode))
        return decoded[-1]

    monkeypatch.setattr(torch.ops.image, "decode_jpeg", counting)
    return decoded


@pytest.mark.parametrize("kind", JPEGS)
def test_every_kind_of_jpeg_gives_the_pixels_of_pillow(both_ways, kind):
    one, other = both_ways(JPEGS[kind])
    assert is_picture(one)
    assert torch.equal(one, other)


@pytest.mark.parametrize("height", [7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_sizes_beside_whole_blocks_give_the_pixels_of_pillow(both_ways, height, subsampling):
    for width in (1, 8, 15, 16, 17, 33):
        one, other = both_ways(encode(smooth(height, width), "JPEG", subsampling=subsampling))
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("kind", "fast"), [("4:2:0", 1), ("grey", 1), ("progressive", 1), ("upright", 1), ("turned", 0), ("cmyk", 0)]
)
def test_ordinary_jpegs_are_decoded_by_torchvision_and_others_by_pillow(decode, monkeypatch, kind, fast):
    decoded = counted(monkeypatch)
    decode(JPEGS[kind])
    assert len(decoded) == fast


@pytest.mark.parametrize("kind", ["4:2:0", "grey", "turned", "cmyk"])
def test_a_decoded_jpeg_has_its_channels_last_in_memory(decode, kind):
    assert decode(JPEGS[kind]).permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("error", [RuntimeError("not compiled with JPEG support"), AttributeError("decode_jpeg")])
def test_without_torchvision_s_decoder_pillow_decodes(decode, monkeypatch, error):
    expected = decode(PLAIN)

    def fail(content: Tensor, mode: int) -> Tensor:
        raise error

    monkeypatch.setattr(torch.ops.image, "decode_jpeg", fail)
    assert torch.equal(decode(PLAIN), expected)


def test_a_picture_of_another_size_than_its_header_says_is_pillows(decode, monkeypatch):
    monkeypatch.setattr(torch.ops.image, "decode_jpeg", lambda content, mode: torch.zeros(3, 5, 5, dtype=torch.uint8))
    assert decode(PLAIN).shape == (3, 61, 83)


def test_a_jpeg_over_the_limit_is_refused_by_its_header(reason, monkeypatch):
    decoded = counted(monkeypatch)
    place = PLAIN.index(b"\xff\xc0") + 5
    content = PLAIN[:place] + struct.pack(">HH", 20_000, 20_000) + PLAIN[place + 4 :]
    assert "20000x20000" in reason(content)
    assert "83x61" in reason(PLAIN, max_pixels=83 * 61 - 1)
    assert decoded == []


@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "grey", "progressive", "restarts", "colour profile", "upright"])
# Pillow warns of cut metadata.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_jpeg_cut_anywhere_has_the_outcome_of_pillow(both_ways, kind):
    content = JPEGS[kind]
    for end in {*range(3, len(content), max(1, len(content) // 60)), *range(len(content) - 20, len(content))}:
        one, other = both_ways(content[:end])
        assert same(one, other), end
        assert isinstance(one, str) or end >= len(content) - 2
        # An end mark behind the cut makes libjpeg fill up the rest.
        assert same(*both_ways(content[:end] + b"\xff\xd9")), end


@pytest.mark.parametrize("kind", ["4:2:0", "4:4:4", "grey", "progressive", "restarts", "rgb", "upright", "turned"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_jpeg_has_the_outcome_of_pillow(both_ways, kind):
    content, random = JPEGS[kind], np.random.default_rng(3)
    headers = content.index(b"\xff\xda") + 14
    pictures = 0
    for number in range(150):
        damaged = bytearray(content)
        # Half of the damage to the headers, which are the smaller part
        for place in random.integers(0, headers if number % 2 else len(content), random.integers(1, 5)):
            damaged[place] = random.integers(0, 256)
        one, other = both_ways(bytes(damaged), max_pixels=100_000)
        assert same(one, other), number
        pictures += isinstance(one, Tensor)
    assert 0 < pictures < 150


@pytest.mark.parametrize("kind", ["4:2:0", "progressive"])
def test_a_changed_kind_of_frame_or_depth_has_the_outcome_of_pillow(both_ways, kind):
    content = JPEGS[kind]
    place = content.index(b"\xff\xc0" if kind == "4:2:0" else b"\xff\xc2") + 1
    for marker in range(0xC0, 0xD0):
        assert same(*both_ways(content[:place] + bytes([marker]) + content[place + 1 :])), marker
    for depth in range(17):
        assert same(*both_ways(content[: place + 3] + bytes([depth]) + content[place + 4 :])), depth
    for components in range(6):
        assert same(*both_ways(content[: place + 8] + bytes([components]) + content[place + 9 :])), components


# Size


@pytest.mark.parametrize("side", [11_000, 20_000], ids=["120 megapixels", "400 megapixels"])
def test_a_picture_over_the_limit_is_refused_by_its_header(reason, monkeypatch, side):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    found = reason(png((side, side), 8, 0, bytes(1000)))
    assert f"{side}x{side}" in found
    assert "data.max_pixels" in found


def test_a_limit_that_pillow_keeps_inside_a_file_is_named_with_the_key(reason, monkeypatch):
    def refuse(self: ImageFile.ImageFile) -> None:
        raise Image.DecompressionBombError("Image size (200000000 pixels) exceeds limit")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    found = reason(encode(Image.fromarray(noise()), "PNG"))
    assert "200000000 pixels" in found
    assert "data.max_pixels" in found


def test_the_limit_counts_pixels_exactly(decode, reason):
    content = encode(Image.fromarray(noise(10, 20)), "PNG")
    assert decode(content, max_pixels=200).shape == (3, 10, 20)
    assert "20x10" in reason(content, max_pixels=199)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "GIF"])
def test_a_raised_limit_lets_a_picture_over_pillows_own_limit_through(decode, monkeypatch, format):
    content = encode(Image.fromarray(noise(10, 20)), format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert decode(content, max_pixels=200).shape == (3, 10, 20)


def test_pillows_own_limit_stays_for_other_code(decode, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    decode(encode(Image.fromarray(noise()), "PNG"), max_pixels=10_000)
    assert Image.MAX_IMAGE_PIXELS == 1_000_000


# The decoder as a value


def test_a_decoder_travels_to_workers_and_can_be_compared():
    decoder = Decoder(max_pixels=99, alpha_background=[1, 2, 3], high_bit_depth="scale")
    assert decoder.alpha_background == (1, 2, 3)
    assert pickle.loads(pickle.dumps(decoder)) == decoder
    assert hash(decoder) == hash(Decoder(99, (1, 2, 3), "scale"))
    assert decoder != Decoder()


def test_an_option_that_is_not_used_leaves_the_keys_of_caches_as_they_were():
    key = {"max_pixels": 99, "alpha_background": (1, 2, 3), "high_bit_depth": "error"}
    assert Decoder(99, (1, 2, 3)).key() == key
    assert Decoder(high_bit_depth="scale", bit_depth=12).key() != Decoder(high_bit_depth="scale").key()


def test_a_bit_depth_that_would_have_no_effect_is_refused():
    with pytest.raises(ConfigError, match=r"data\.bit_depth=12 needs data\.high_bit_depth=scale"):
        Decoder(bit_depth=12)


def test_threads_decode_side_by_side_without_touching_the_warning_filters(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    files = []
    for number in range(40):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(noise(seed=number)).save(files[-1])
    filters = list(warnings.filters)
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=start.wait) as pool:
        tensors = list(pool.map(Decoder(), files))
    assert warnings.filters == filters
    for number, tensor in enumerate(tensors):
        assert torch.equal(tensor, torch.from_numpy(noise(seed=number)).permute(2, 0, 1))


@pytest.mark.shared
@pytest.mark.parametrize("folder", ["hymenoptera/val", "cat_dog/test"])
def test_real_photographs_give_the_pixels_of_pillow(shared, monkeypatch, folder):
    files = sorted((shared / "data" / folder).rglob("*.jpg"))
    assert len(files) > 100
    found = [Decoder()(file) for file in files]
    monkeypatch.setattr(decoding, "_decode_plain_jpeg", lambda stream, image: None)
    for file, picture in zip(files, found, strict=True):
        assert is_picture(picture)
        assert torch.equal(picture, Decoder()(file)), file


def test_a_jpeg_without_content_for_its_pixels_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    Image.new("RGB", (400, 300), "white").save(tmp_path / "blank.jpg", progressive=True, optimize=True)
    monkeypatch.setattr(decoding, "_LARGE", 100_000)
    assert Decoder()(tmp_path / "blank.jpg").shape == (3, 300, 400)
    monkeypatch.setattr(decoding, "_MOST_PIXELS_A_BYTE", 50)
    with pytest.raises(BadImageError, match=r"400x300 pixels in [\d,]+ bytes: a JPEG made to fill the memory"):
        Decoder()(tmp_path / "blank.jpg")
