"""Which reader an image file needs, by its first bytes alone; or what the file is instead."""

import os
import stat
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, TiffImagePlugin

from tlearn.data.formats import FORMATS, HEAD, HEIF_ENDINGS, RAW, foreign_kind, is_heic
from tlearn.data.tiff import unsupported_tiff

# Some depend on how Pillow was built.
Image.init()
_OPENERS = [Image.OPEN[name] for name in FORMATS if name in Image.OPEN]


class RefusedError(Exception):
    """The reason to refuse a file, still without the file's name."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading, or raise RefusedError; never wait for a pipe."""
    try:
        # Checked before opening: opening a FIFO waits for a writer that may never come.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise RefusedError("not a regular file")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise RefusedError("no such file") from error
    except (OSError, ValueError) as error:
        raise RefusedError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def open_header(stream: BinaryIO) -> ImageFile.ImageFile:
    """Read the header with the reader chosen by the first bytes, whatever the file is called.

    Not `Image.open`: it warns about large images, and only `catch_warnings`, which is not thread-safe, could hide it.
    """
    head = stream.read(HEAD)
    if not head:
        raise RefusedError("empty file (0 bytes)")
    if is_heic(head):
        return _open_heic(stream)
    # A TIFF by its first bytes
    if head.startswith(b"II*\0") and head.startswith(b"CR", 8):
        raise RefusedError(RAW)
    for read_header, accepts in _OPENERS:
        verdict = accepts is None or accepts(head[:16])
        if isinstance(verdict, str):
            raise RefusedError(verdict)
        if verdict:
            stream.seek(0)
            try:
                # No file name: Pillow would memory-map the file, and truncating a mapped file kills the process.
                return read_header(stream, "")
            except Exception as error:
                if read_header is TiffImagePlugin.TiffImageFile and (kind := unsupported_tiff(stream)):
                    raise RefusedError(kind) from error
                raise
    if kind := foreign_kind(head):
        raise RefusedError(kind)
    words = head[:16].split() if head[:16].isascii() and head[:16].strip() else []
    shown = words[0] if words and words[0].decode().isprintable() else head[:16]
    raise RefusedError(f"not an image (starts with {repr(shown)[1:]})")


def _open_heic(stream: BinaryIO) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise RefusedError('a HEIC picture: pip install "tlearn[heif]" reads it, or convert it to JPEG') from error
    stream.seek(0)
    try:
        return HeifImageFile(stream, "")
    # A damaged one is called so when its pixels are read, too.
    except SyntaxError as error:
        raise RefusedError(f"a HEIC picture that is truncated or corrupt ({error}): convert it to JPEG") from error


def heif_version(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return the version of the reader of HEIC, for the keys of caches, if one of the files is named so."""
    named = any(str(path).lower().endswith(HEIF_ENDINGS) for path in paths)
    try:
        return {"pillow-heif": version("pillow-heif")} if named else {}
    except PackageNotFoundError:
        return {}


def image_size(path: str | Path) -> tuple[int, int] | None:
    """Read width and height in pixels, as stored, from the header; None for an unreadable file."""
    try:
        with open_regular(path) as stream:
            return open_header(stream).size
    # As in decoding, damaged bytes raise errors of many types.
    except Exception:
        return None
