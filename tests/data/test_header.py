"""What a file is that is taken for an image, by its first bytes; and HEIC with the extra and without."""

import io
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import draw
from tlearn.data.decode import Decoder
from tlearn.data.header import heif_version, image_size
from tlearn.errors import BadImageError

HEIC_BRANDS = [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0mif1heix", b"msf1\0\0\0\0hevcmsf1"]


def boxed(brands: bytes) -> bytes:
    return (len(brands) + 8).to_bytes(4, "big") + b"ftyp" + brands + bytes(300)


def reason(folder: Path, content: bytes, name: str = "refused.jpg") -> str:
    (folder / name).write_bytes(content)
    with pytest.raises(BadImageError) as caught:
        Decoder()(folder / name)
    assert image_size(folder / name) is None
    return caught.value.reason


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--0.jpg\n", "a git-annex pointer", "git annex get"),
        (b"\n<script>location='/login'</script>", "a web page", "download"),
        (b"{\\rtf1\\ansi", "a text document", "export"),
        (b"v/1\1" + bytes(40), "an OpenEXR picture", "save it as PNG"),
        (b"#?RADIANCE\n", "a Radiance picture", "save it as PNG"),
        (b"(\0\0\0" + bytes(60), "a bitmap without its header", "save it as PNG"),
        (b"8BPS\0\1" + bytes(600), "a Photoshop document (PSD)", "PNG"),
        (b"8BPS\0\2" + bytes(600), "a Photoshop document (PSD)", "PNG"),
        (b"%PDF-1.7\n%", "a PDF document", "pdftoppm"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript drawing", "PNG"),
        (boxed(b"isom\0\0\2\0isomiso2avc1mp41"), "a video", "ffmpeg"),
        (boxed(b"qt  \0\0\2\0qt  "), "a video", "ffmpeg"),
        (b"RIFF\0\0\1\0AVI LIST" + bytes(600), "a video", "ffmpeg"),
        (b"\x1aE\xdf\xa3" + bytes(600), "a video", "ffmpeg"),
        (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "a web page", "download"),
        (b"\xef\xbb\xbf\n <HTML><head>", "a web page", "download"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML text", "download"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "a drawing (SVG)", "PNG"),
        (b'{"message": "Not Found"}', "a JSON text", "download"),
        (b"PK\3\4" + bytes(600), "a ZIP archive", "unpack"),
        (b"\x1f\x8b\x08" + bytes(600), "a gzip archive", "unpack"),
        (b"\xff\x0a" + bytes(600), "a JPEG XL picture", "PNG"),
        (bytes(128) + b"DICM" + bytes(600), "a DICOM file", "PNG"),
        (b"\x93NUMPY\1\0" + bytes(600), "a NumPy array", "PNG"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "what macOS keeps", "delete"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(600), "a camera's raw picture", "JPEG"),
        (boxed(b"crx \0\0\0\1crx isom"), "a camera's raw picture", "JPEG"),
        (bytes(4096), "only zeros", "fetch it again"),
    ],
)
def test_files_of_other_kinds_are_named_with_the_remedy(tmp_path, content, kind, remedy):
    found = reason(tmp_path, content)
    assert found.startswith(kind)
    assert remedy in found


@pytest.mark.parametrize("brands", HEIC_BRANDS)
def test_heic_without_the_extra_names_it(tmp_path, monkeypatch, brands):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    found = reason(tmp_path, boxed(brands))
    assert found == 'a HEIC picture: pip install "tlearn[heif]" reads it, or convert it to JPEG'


@pytest.mark.parametrize("brands", HEIC_BRANDS)
def test_a_damaged_heic_is_called_so_with_the_extra(tmp_path, brands):
    pytest.importorskip("pillow_heif")
    assert reason(tmp_path, boxed(brands)).startswith("a HEIC picture that is truncated or corrupt")


def test_heic_is_read_upright_with_the_extra_whatever_it_is_called(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    picture = Image.new("RGB", (64, 48), (200, 100, 50))
    picture.paste((20, 40, 220), (0, 0, 64, 12))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    heif.from_pillow(picture).save(buffer, quality=-1, exif=exif.tobytes())
    for name in ("IMG_0001.HEIC", "IMG_0001.jpg"):
        (tmp_path / name).write_bytes(buffer.getvalue())
        pixels = Decoder()(tmp_path / name).float()
        assert pixels.shape == (3, 64, 48)
        # Turned by a quarter: what was on top is on the right.
        assert torch.allclose(pixels[:, 30, 44], torch.tensor([20.0, 40, 220]), atol=6)
        assert torch.allclose(pixels[:, 30, 4], torch.tensor([200.0, 100, 50]), atol=6)
        assert set(image_size(tmp_path / name)) == {48, 64}
    with pytest.raises(BadImageError, match="too many pixels"):
        Decoder(max_pixels=48 * 64 - 1)(tmp_path / name)
    (tmp_path / name).write_bytes(buffer.getvalue()[:-100])
    with pytest.raises(BadImageError):
        Decoder()(tmp_path / name)


def test_the_reader_of_heic_is_part_of_keys_only_where_files_are_named_so():
    pytest.importorskip("pillow_heif")
    assert heif_version(["a.jpg", "b.png"]) == {}
    assert list(heif_version(["a.jpg", Path("b.HEIC")])) == ["pillow-heif"]


def test_the_size_is_that_of_the_header_as_stored(tmp_path):
    assert image_size(draw(tmp_path / "a.png", (1, 2, 3))) == (40, 32)
    assert image_size(tmp_path / "lost.png") is None
