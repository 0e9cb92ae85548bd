"""Nearest neighbours by features, and near-duplicates across splits."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tlearn.analysis.linear_probe import Standardisation
from tlearn.analysis.outputs import Outputs
from tlearn.data.decode import Decoder
from tlearn.errors import BadImageError
from tlearn.machine import available_cpus

# Similarities that are in memory at once
_CHUNK = 16_000_000
# Images whose features are in memory once more
_ROWS = 4096
# Pairs x features that are compared: about 30 s on one thread
_PRODUCTS = 5e11
# Neighbours of an image that may be copies of it; the distance of the last of them is the local scale.
_COPIES, _SCALE = 3, 20
# Stop after this many pairs in a row that are not the same photo: nearer pairs come first.
_PATIENCE, _BATCH = 100, 50
# Side in pixels of small versions of images, and of the parts that are compared
_SMALL, _SIDE = 64, 24
# Share of width and height that a cropped copy may keep
_LEFT = ((0, 1), (0.025, 0.975), (0, 0.95), (0.05, 1), (0.05, 0.95), (0.1, 1), (0, 0.9), (0.1, 0.9))
# Recompressed, resized and cropped copies of photos had at least 0.82, different photos at most 0.49.
_SAME = 0.8
_DECODE = Decoder(high_bit_depth="scale")


def nearest(
    queries: Tensor, bank: Tensor, count: int, prepare: Callable[[Tensor], Tensor] = Tensor.float
) -> tuple[Tensor, Tensor]:
    """Find the `count` rows of `bank` that are most similar to each query, or all where it has fewer.

    Args:
        queries: features [N, F].
        bank: features [M, F].
        prepare: applied to blocks [n, F] of both before they are compared.

    Returns cosine similarities [N, count], highest first, and indices into the bank [N, count].
    """
    count, side = min(count, len(bank)), max(1, math.isqrt(_CHUNK))
    rows, found = max(side, _CHUNK // max(1, len(bank))), []
    for part in queries.split(rows):
        directions = F.normalize(prepare(part))
        values, indices = torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.long)
        for start in range(0, len(bank), side):
            block = F.normalize(prepare(bank[start : start + side]))
            best = (directions @ block.T).topk(min(count, len(block)))
            values, indices = torch.cat([values, best.values], 1), torch.cat([indices, best.indices + start], 1)
            values, places = values.topk(min(count, values.shape[1]))
            indices = indices.gather(1, places)
        found.append((values, indices))
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def compared_splits(outputs: Sequence[Outputs]) -> tuple[list[Outputs], str]:
    """Choose the images that `near_duplicates` compares, and say which it leaves out, if any.

    All, unless pairs x features are so many that they would take minutes: then every k-th image of each split but the
    largest, each with all images of that. So the share of copies among them estimates that of all.
    """
    parts = [part for part in outputs if len(part)]
    features = [part.features for part in parts if part.features is not None]
    pairs = sum(len(one) * len(other) for one, other in combinations(parts, 2))
    step = math.ceil(pairs * features[0].shape[1] / _PRODUCTS) if features else 1
    if step <= 1 or len(features) < len(parts):
        return parts, ""
    largest = max(parts, key=len)
    thinned = [part if part is largest else _every(part, step) for part in parts]
    taken = " and ".join(
        f"{len(some):,} of {len(part):,} images of {part.split}"
        for some, part in zip(thinned, parts, strict=True)
        if some is not part
    )
    return thinned, f"near-duplicates: {taken} were compared with the others, as all pairs would take minutes"


def _every(part: Outputs, step: int) -> Outputs:
    features = None if part.features is None else part.features[::step]
    return replace(
        part, paths=part.paths[::step], targets=part.targets[::step], logits=part.logits[::step], features=features
    )


def near_duplicates(outputs: Sequence[Outputs], limit: int = 2000) -> list[dict[str, Any]]:
    """List pairs of images in different splits that show the same photo, most similar first.

    Finds copies in other formats, qualities and sizes, with up to 10 % cropped from a side or 20 % from both, mirrored,
    grey or brighter, and equally similar frames of one scene. Does not find stronger crops, rotated images, wide
    borders, images without structure in the middle, and more than a few copies of one image in a split. Small drawn
    symbols can be so similar that different ones are listed.

    Features only rank candidate pairs, by distance relative to other neighbours, so that the scale of a backbone's
    features does not matter; pixels decide. At most `limit` pairs are compared by pixels, and by features those of
    `compared_splits`.

    Each row has similarity (of the pixels, up to 1), split, path, other_split, other_path and same_class. Raises
    ValueError where features were not kept.
    """
    parts, _ = compared_splits(outputs)
    rows: list[dict[str, Any]] = []
    pairs, misses = _candidates(parts, limit), 0
    with ThreadPoolExecutor(available_cpus()) as pool:
        while pairs and misses < _PATIENCE:
            batch, pairs = pairs[:_BATCH], pairs[_BATCH:]
            places = list(dict.fromkeys(place for pair in batch for place in pair))
            looks = pool.map(_look, (parts[split].root / parts[split].paths[at] for split, at in places))
            look_of = dict(zip(places, looks, strict=True))
            for place, other_place in batch:
                similarity = _similarity(look_of[place], look_of[other_place])
                misses = 0 if similarity >= _SAME else misses + 1
                if similarity >= _SAME:
                    rows.append({"similarity": similarity, **_row(parts, place, other_place)})
    return sorted(rows, key=lambda row: -row["similarity"])


# Index of a split and of an image
_Place = tuple[int, int]


def _row(parts: Sequence[Outputs], place: _Place, other_place: _Place) -> dict[str, Any]:
    (one, at), (other, other_at) = ((parts[split], index) for split, index in (place, other_place))
    row: dict[str, Any] = {"split": one.split, "path": one.paths[at]}
    row |= {"other_split": other.split, "other_path": other.paths[other_at]}
    return {**row, "same_class": bool(one.targets[at] == other.targets[other_at])}


def _candidates(parts: Sequence[Outputs], limit: int) -> list[tuple[_Place, _Place]]:
    """List the nearest pairs of images in different splits by features, nearest first."""
    features = [part.features for part in parts if part.features is not None]
    if len(features) < len(parts):
        raise ValueError("near duplicates are looked for by features, and these were not kept")
    if not features:
        return []
    # Of all splits together
    standardise = Standardisation.of(block.float() for part in features for block in part.split(_ROWS))
    found: list[tuple[float, _Place, _Place]] = []
    for first, second in combinations(range(len(parts)), 2):
        ratios, ends = _neighbours(features[first], features[second], standardise)
        # Most pairs occur twice, as each image is the other's neighbour.
        for at in ratios.argsort(stable=True)[: 2 * limit].tolist():
            found.append((float(ratios[at]), (first, int(ends[0, at])), (second, int(ends[1, at]))))
    return list(dict.fromkeys((one, other) for _, one, other in sorted(found)))[:limit]


def _neighbours(one: Tensor, other: Tensor, standardise: Standardisation) -> tuple[Tensor, Tensor]:
    """Pair each image with the nearest of the other split; return relative distances [pairs], indices [2, pairs]."""

    def prepare(block: Tensor) -> Tensor:
        return standardise(block.float())

    (forth, to), (back, fro) = nearest(one, other, _SCALE, prepare), nearest(other, one, _SCALE, prepare)
    forth, back = ((2 - 2 * similarities).clamp_min(1e-12).sqrt() for similarities in (forth, back))
    to, fro = to[:, :_COPIES], fro[:, :_COPIES]
    left = torch.cat([torch.arange(len(to))[:, None].expand_as(to).flatten(), fro.flatten()])
    right = torch.cat([to.flatten(), torch.arange(len(fro))[:, None].expand_as(fro).flatten()])
    distances = torch.cat([forth[:, :_COPIES].flatten(), back[:, :_COPIES].flatten()])
    # Relative to the scales of both images: in dense regions, small distances mean little.
    return distances / (forth[left, -1] * back[right, -1]).sqrt(), torch.stack([left, right])


@dataclass(frozen=True)
class _Look:
    """The descriptor of an image: differences of neighbouring pixels, everywhere and in the middle.

    For each crop that a copy may be, the whole first, and for its mirror image, [parts, ...] each. They do not depend
    on brightness and contrast, and different photos that are bright in the same places do not match.
    """

    parts: tuple[Tensor, Tensor]
    mirrored: tuple[Tensor, Tensor]


def _look(path: Path) -> _Look | None:
    """Decode an image and make it small and greyscale; None where it cannot be read."""
    try:
        pixels = _DECODE(path).float()
    except BadImageError:
        return None
    grey = torch.einsum("chw,c->hw", pixels, torch.tensor([0.299, 0.587, 0.114]))
    small = F.interpolate(grey[None, None], (_SMALL, _SMALL), mode="bilinear", antialias=True)
    return _Look(_edges(small, _windows()), _edges(small.flip(-1), _windows()[:1]))


def _similarity(one: _Look | None, other: _Look | None) -> float:
    """Compute the highest correlation of one whole image, mirrored or not, with a crop of the other.

    The middle must correlate by itself: different images can share frames, bars and captions.
    """
    if one is None or other is None:
        return 0.0
    best = 0.0
    for look, parted in ((one, other), (other, one)):
        for whole in (look.parts, look.mirrored):
            agreeing = (part @ alone[0] for part, alone in zip(parted.parts, whole, strict=True))
            best = max(best, float(torch.minimum(*agreeing).max()))
    return best


def _edges(small: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Crop an image [1, 1, S, S] and return the normalised differences of each crop, everywhere and in the middle."""
    parts = F.grid_sample(small.expand(len(grid), -1, -1, -1), grid, padding_mode="border", align_corners=False)
    parts = F.avg_pool2d(parts, 2)[:, 0]
    across, down = parts[:, :-1, 1:] - parts[:, :-1, :-1], parts[:, 1:, :-1] - parts[:, :-1, :-1]
    both, quarter = torch.stack([across, down], 1), _SIDE // 4
    return _unit(both.flatten(1)), _unit(both[..., quarter:-quarter, quarter:-quarter].flatten(1))


def _unit(values: Tensor) -> Tensor:
    centred = values - values.mean(1, keepdim=True)
    # Differences below one grey level are noise and must not match anything.
    return centred / centred.norm(dim=1, keepdim=True).clamp_min(0.1 * values.shape[1] ** 0.5)


@cache
def _windows() -> Tensor:
    """Return the sampling grids of the crops that a copy may be, the whole first, [parts, 2 side, 2 side, 2]."""
    theta = torch.tensor(
        [
            [[right - left, 0, right + left - 1], [0, low - top, low + top - 1]]
            for left, right in _LEFT
            for top, low in _LEFT
        ]
    )
    return F.affine_grid(theta, [len(theta), 1, 2 * _SIDE, 2 * _SIDE], align_corners=False)
