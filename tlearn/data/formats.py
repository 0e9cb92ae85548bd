"""The kinds of image files that tlearn reads, and what other files are that are taken for images."""

import os

# Pillow's name of each raster format that is decoded -> its endings. Pillow reads more, but some of those start other
# programs (EPS), some have no signature, so that any bytes pass for them (TGA), and some decorate folders (ICO).
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
    "QOI": (".qoi",),
    "PCX": (".pcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
}
# Read with the extra "heif"; without it they are named as what they are
HEIF_ENDINGS = (".heic", ".heif", ".hif")
# What a file's name ends in, in any case, that counts as an image in a folder
ENDINGS = (*(ending for endings in FORMATS.values() for ending in endings), *HEIF_ENDINGS)
# What stands for a picture that could not be fetched, in the sets that were collected from ImageNet's addresses: one
# of the ants of PyTorch's transfer-learning tutorial is this file.
_PLACEHOLDER = "imagenotfound.gif"
# What systems keep in folders: thumbnails, the bin, what was found after a crash
_SYSTEM = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "#recycle", "@Recycle", "@Recently-Snapshot", "lost+found"}
_SYSTEM |= {"$RECYCLE.BIN", "System Volume Information"}


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of a user's: its name starts with a dot, or a system keeps it."""
    return name.startswith(".") or name in _SYSTEM


def is_image_name(name: str) -> bool:
    """Return whether a file counts as an image in a folder, by its name alone."""
    return name.lower().endswith(ENDINGS) and name.lower() != _PLACEHOLDER


def ending(name: str) -> str:
    """Return the ending of a file name for messages, and the whole name of what stands for a missing picture."""
    if name.lower() == _PLACEHOLDER:
        return f"{name}, which stands for a missing picture"
    return os.path.splitext(name)[1].lower() or "(no ending)"


_FRAMES = "save the frames that you need as pictures: ffmpeg -i FILE frame_%04d.png"
_VIDEO = f"a video, not a picture: {_FRAMES}"
RAW = "a camera's raw picture: develop it and save it as JPEG, PNG or TIFF"
_AS_PNG = "save it as PNG"
_PAGE = "a web page saved in place of the picture: download the picture itself"
_UNPACK = "unpack it and give the folder"
# Where they stand, the first bytes, and what a file is that has them, with the remedy
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the picture: git lfs pull fetches it"),
    (0, b"8BPS", "a Photoshop document (PSD): export it as PNG"),
    (0, b"gimp xcf", "a GIMP document (XCF): export it as PNG"),
    (0, b"%PDF", "a PDF document: save its pages as pictures: pdftoppm -png FILE page"),
    (0, b"%!PS", f"a PostScript drawing: {_AS_PNG}"),
    (0, b"\xff\x0a", f"a JPEG XL picture: {_AS_PNG}"),
    (0, b"\0\0\0\x0cJXL ", f"a JPEG XL picture: {_AS_PNG}"),
    (0, b"II\xbc\x01", f"a JPEG XR picture: {_AS_PNG}"),
    (0, b"\0\0\1\0", f"an icon (ICO): {_AS_PNG}"),
    (0, b"DDS ", f"a texture (DDS): {_AS_PNG}"),
    (128, b"DICM", "a DICOM file: save its picture as PNG, with the window that shows it"),
    (0, b"SIMPLE  =", "a FITS file: save its picture as PNG, with the range that shows it"),
    (0, b"v/1\1", "an OpenEXR picture: save it as PNG, with the range that shows it"),
    (0, b"#?RADIANCE", "a Radiance picture (HDR): save it as PNG, with the range that shows it"),
    (0, b"(\0\0\0", f"a bitmap without its header (DIB): {_AS_PNG}"),
    (0, b"\x93NUMPY", "a NumPy array: save it as PNG"),
    (0, b"\x89HDF", "an HDF5 file: save its pictures as PNG"),
    (0, b"PK\3\4", f"a ZIP archive or an Office document: {_UNPACK}"),
    (0, b"Rar!", f"a RAR archive: {_UNPACK}"),
    (0, b"7z\xbc\xaf", f"a 7z archive: {_UNPACK}"),
    (0, b"\x1f\x8b", f"a gzip archive: {_UNPACK}"),
    (0, b"\xd0\xcf\x11\xe0", "a Microsoft Office document of the older kind: export its content"),
    (0, b"\0\5\x16\7", "what macOS keeps about another file, not a picture: delete it"),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIU\0", RAW),
    (8, b"CR\2\0", RAW),
    (4, b"ftypcrx ", RAW),
    (4, b"ftyp", _VIDEO),
    (4, b"moov", _VIDEO),
    (4, b"mdat", _VIDEO),
    (8, b"AVI LIST", _VIDEO),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (0, b"\0\0\1\xba", _VIDEO),
    (0, b"\0\0\1\xb3", _VIDEO),
    (0, b"FLV\1", _VIDEO),
    (0, b"0&\xb2u\x8ef\xcf\x11", _VIDEO),
)
# What a text starts with, without its byte-order mark, blanks and capitals
_TEXTS: tuple[tuple[bytes, str], ...] = (
    (b"<svg", f"a drawing (SVG): {_AS_PNG}"),
    (b"/annex/objects/", "a git-annex pointer in place of the picture: git annex get fetches it"),
    *((start, _PAGE) for start in (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")),
    (b"{\\rtf", "a text document (RTF): export its pictures"),
    (b"<?xml", "an XML text, perhaps a server's error message: download the picture itself"),
    (b"{", "a JSON text, perhaps a server's error message: download the picture itself"),
)
# Bytes that `foreign_kind` and `is_heic` look at
HEAD = 512


def foreign_kind(head: bytes) -> str | None:
    """Return what a file of another kind is and what to do, from its first `HEAD` bytes; None if they do not tell."""
    if not head.strip(b"\0"):
        return "only zeros, as an interrupted download or copy leaves them: fetch it again"
    for place, signature, kind in _SIGNATURES:
        if head.startswith(signature, place):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<?xml", b"<!--")) and b"<svg" in text:
        text = b"<svg"
    return next((kind for start, kind in _TEXTS if text.startswith(start)), None)


def is_heic(head: bytes) -> bool:
    """Return whether a file's first `HEAD` bytes are those of a HEIC or other HEIF picture that is not AVIF."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[place : place + 4] for place in range(16, min(size, len(head)), 4))}
    coded = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
    general = head[8:12] in (b"mif1", b"msf1") and not brands & {b"avif", b"avis"}
    return head[4:8] == b"ftyp" and (general or head[8:12] in coded)
