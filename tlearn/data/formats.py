"""The kinds of image files that tlearn reads, and what other files are that are taken for images."""

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


def is_image_name(name: str) -> bool:
    """Return whether a file counts as an image in a folder, by its name alone."""
    return name.lower().endswith(ENDINGS) and name.lower() != _PLACEHOLDER
