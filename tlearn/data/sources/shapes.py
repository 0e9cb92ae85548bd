"""The built-in data sets: images of silhouettes, drawn by formula from a seed, in ordinary class folders."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tlearn.console import say
from tlearn.data.sources.base import SPLITS, Listing
from tlearn.data.sources.folder import FolderSource
from tlearn.data.sources.silhouettes import SETS, SOURCE, TARGET, Piece
from tlearn.errors import DataError, OutputError, typed
from tlearn.files import temporary_beside
from tlearn.ranges import DRAWN, one_of, require

SIZE = 96
# Part of what a drawn folder is named after: raise it when the same options give other images.
_FORMAT = 1
# Silhouettes are drawn at twice the size, which smooths their edges.
_FINE = 2 * SIZE
# Least distance of figure and background in weighted RGB of 0 to 255: with less, people have to search.
_CONTRAST = 100
_Y, _X = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j].astype(np.float32)

Colour = tuple[int, int, int]


def draw(label: str, seed: int, split: str, number: int) -> Image.Image:
    """Draw one image, RGB [SIZE, SIZE], that depends on nothing but the arguments."""
    rng = _generator(f"{_FORMAT}/{seed}/{label}/{split}/{number}")
    silhouette = (SOURCE | TARGET)[label]
    ground, figure = _colours(rng)
    mask = _outlined(rng, silhouette(rng.uniform()))
    picture = _textured(rng, ground)
    _scatter(rng, picture, figure, int(rng.integers(3, 8)), 0.11)
    if rng.uniform() < 0.4:
        shadow = mask.filter(ImageFilter.GaussianBlur(3)).point([int(level * 0.4) for level in range(256)])
        picture.paste(0, tuple(rng.integers(-5, 6, 2).tolist()), shadow)
    picture.paste(_textured(rng, figure), mask=mask)
    _scatter(rng, picture, figure, int(rng.integers(0, 4)), 0.08)
    return _photographed(rng, picture)


def _generator(text: str) -> np.random.Generator:
    # not hash(): Python salts it anew for every process
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest))))


def _colours(rng: np.random.Generator) -> tuple[list[Colour], list[Colour]]:
    """Draw two similar colours for the background and two for the figure, well apart from those."""
    tries = rng.uniform(0, 255, (160, 4, 3))
    grey = tries.mean(2, keepdims=True)
    tries = grey + rng.uniform(0.2, 1, (160, 1, 1)) * (tries - grey)
    tries[:, 1::2] = 0.65 * tries[:, ::2] + 0.35 * tries[:, 1::2]
    # the eye's weights of red, green and blue
    apart = (tries[:, :2, None] - tries[:, None, 2:]) * np.sqrt((0.3, 0.59, 0.11))
    nearest = np.sqrt((apart**2).sum(-1)).min((1, 2))
    # the first that is far enough, or else the farthest
    best = np.argmax(np.minimum(nearest, _CONTRAST))
    chosen = [(int(red), int(green), int(blue)) for red, green, blue in tries[best]]
    return chosen[:2], chosen[2:]


def _outlined(rng: np.random.Generator, pieces: list[Piece]) -> Image.Image:
    """Draw a silhouette in a random pose as a mask."""
    outlines = [_dense(outline) for outline, _ in pieces]
    every = np.concatenate(outlines)
    low, high = every.min(0), every.max(0)
    matrix, bend, phase = _pose(rng), rng.uniform(-0.18, 0.18, 2), rng.uniform(0, 2 * np.pi, 2)
    sway, scale = rng.uniform(0, 0.05), rng.uniform(0.32, 0.46) * _FINE
    place = _FINE / 2 + rng.uniform(-0.5, 0.5, 2) * (_FINE - 1.9 * scale)
    mask = Image.new("L", (_FINE, _FINE))
    brush = ImageDraw.Draw(mask)
    for outline, (_, adds) in zip(outlines, pieces, strict=True):
        flat = (2 * outline - low - high) / np.hypot(*(high - low))
        flat = flat + sway * np.sin(3 * flat[:, ::-1] + phase)
        flat = flat @ matrix.T / (1 + flat @ bend)[:, None]
        brush.polygon((flat * scale + place).ravel().tolist(), fill=255 * adds)
    return mask.reduce(2)


def _dense(outline: np.ndarray) -> np.ndarray:
    """Return an outline as [N, 2], with more points on the long edges, which can then bend."""
    between = np.linspace(0, 1, 1 + 48 // len(outline), endpoint=False)
    points = (outline[:, None] + between * (np.roll(outline, -1) - outline)[:, None]).ravel()
    return np.stack([points.real, points.imag], axis=1)


def _pose(rng: np.random.Generator) -> np.ndarray:
    """Draw a random turn, shear, stretch and mirroring, [2, 2]."""
    turn = np.deg2rad(rng.uniform(-60, 60))
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    return rotation @ np.array([(rng.choice((-1, 1)) * stretch, rng.uniform(-0.25, 0.25)), (0, 1 / stretch)])


def _textured(rng: np.random.Generator, colours: list[Colour]) -> Image.Image:
    """Mix two colours in a random pattern."""
    turn, wide = rng.uniform(0, np.pi), rng.uniform(6, 26)
    rough = _noise(rng, int(rng.integers(3, 7)))
    u = np.cos(turn) * _X + np.sin(turn) * _Y + rng.uniform(0, 0.12) * rough
    v = np.cos(turn) * _Y - np.sin(turn) * _X
    match rng.integers(6):
        case 0:
            pattern = u
        case 1:
            pattern = rng.uniform(1, 4) * np.sin(wide * u)
        case 2:
            pattern = 4 * (np.sin(wide * u) * np.sin(wide * v) - 0.3)
        case 3:
            pattern = 4 * np.sin(wide * u) * np.sin(wide * v)
        case 4:
            pattern = rough
        case _:
            pattern = 2 * _noise(rng, int(rng.integers(10, 24)))
    mask = Image.fromarray((127.5 + 127.5 * np.clip(pattern, -1, 1)).astype(np.uint8))
    one, other = (Image.new("RGB", (SIZE, SIZE), colour) for colour in colours)
    return Image.composite(one, other, mask)


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Draw smooth noise around 0, [SIZE, SIZE] float32, with about `cells` bumps a side."""
    coarse = Image.fromarray(rng.normal(0, 0.6, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _scatter(rng: np.random.Generator, picture: Image.Image, figure: list[Colour], count: int, largest: float) -> None:
    """Lay small pieces on an image, in colours of their own or of the figure."""
    layer = Image.new("RGBA", (_FINE, _FINE))
    brush = ImageDraw.Draw(layer)
    for _ in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        radius = rng.uniform(0.4, 1) * largest * _FINE * np.exp(rng.uniform(-0.7, 0.7, 2))
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + rng.uniform(0, _FINE, 2)
        red, green, blue = figure[rng.integers(2)] if rng.uniform() < 0.4 else rng.integers(0, 256, 3).tolist()
        brush.polygon(points.ravel().tolist(), fill=(red, green, blue, 255))
    pieces = layer.reduce(2)
    picture.paste(pieces, mask=pieces)


def _photographed(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Blur an image, light it from one side and add grain."""
    across, down = rng.uniform(-0.3, 0.3, 2)
    light = (rng.uniform(0.7, 1.15) * (1 + across * _X + down * _Y)).astype(np.float32)
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1))), np.float32)
    grain = rng.uniform(0, 8) * rng.standard_normal((SIZE, SIZE, 1), np.float32)
    return Image.fromarray(np.clip(blurred * light[:, :, None] + grain, 0, 255).astype(np.uint8))


class ShapesSource:
    """One of the built-in sets, drawn below the cache when it is first needed; a given root is used as it is."""

    def __init__(
        self, name: str, root: str | Path | None, cache: str | Path, counts: Mapping[str, int], seed: int = 0
    ) -> None:
        require("data.source.name", name, one_of(*SETS))
        for split in (*SPLITS, *counts):
            require("data.counts", split, one_of(*SPLITS))
            require(f"data.counts.{split}", counts.get(split), DRAWN)
        self.name, self.seed = name, seed
        self.counts = {split: counts[split] for split in SPLITS}
        self.given = root is not None
        drawn = Path(os.path.expanduser(cache)) / "shapes" / f"{name}-{self._digest()}"
        self.root = drawn if root is None else Path(os.path.expanduser(root))

    def prepare(self) -> None:
        """Draw the images unless a root was given or they are there; raise OutputError."""
        if self.given or os.path.isdir(self.root):
            return
        total = len(SETS[self.name]) * sum(self.counts.values())
        say(f"drawing {total} images in {self.root}")
        # A folder beside it, renamed when whole: an interrupted drawing is never taken for the set.
        part = temporary_beside(self.root)
        try:
            self._draw(part)
            part.rename(self.root)
        except OSError as error:
            # Another process may have been faster.
            if not os.path.isdir(self.root):
                reason = f"cannot draw {self.name} in {self.root}: {error.strerror or error}"
                raise OutputError(f"{reason}; set TLEARN_CACHE to a folder that can be written") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def listing(self) -> Listing:
        """List the images; raise DataError where they are not drawn yet."""
        if not self.given and not os.path.isdir(self.root):
            raise DataError(f"{self.root} is not drawn yet: prepare() draws it")
        found = FolderSource(self.root).listing()
        if strange := sorted({sample.label for sample in found.samples} - {*SETS[self.name]}):
            raise DataError(
                f"{self.root} has the class {strange[0]}, which is none of data={self.name}: for images of your own "
                f"type {typed('data.root', self.root)} data=folder"
            )
        return found

    def _digest(self) -> str:
        made_of = f"{_FORMAT} {SIZE} {self.seed} {self.counts}"
        return hashlib.sha256(made_of.encode()).hexdigest()[:12]

    def _draw(self, folder: Path) -> None:
        for label in SETS[self.name]:
            for split, count in self.counts.items():
                (folder / split / label).mkdir(parents=True)
                for number in range(1, count + 1):
                    picture = draw(label, self.seed, split, number)
                    picture.save(folder / split / label / f"{number:04d}.jpg", quality=90)
