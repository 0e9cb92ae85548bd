"""The outlines of the built-in silhouettes, as formulas with one free proportion."""

from collections.abc import Callable

import numpy as np

# An outline as complex numbers, x to the right and iy down, and whether it adds to the silhouette or cuts from it.
Piece = tuple[np.ndarray, bool]
# The pieces of a class, varied by one free proportion from 0 to 1.
Silhouette = Callable[[float], list[Piece]]


def _poly(*numbers: float) -> Piece:
    return np.array(numbers[::2]) + 1j * np.array(numbers[1::2]), True


def _box(left: float, top: float, right: float, bottom: float) -> Piece:
    return _poly(left, top, right, top, right, bottom, left, bottom)


def _arc(start: float, end: float, count: int = 48) -> np.ndarray:
    """Return points of the unit circle between two parts of a turn."""
    return np.exp(2j * np.pi * np.linspace(start, end, count))


def _disc(x: float, y: float, radius: float) -> Piece:
    return radius * _arc(0, 1) + x + 1j * y, True


def _cut(piece: Piece) -> Piece:
    return piece[0], False


def _polar(radius: Callable[[np.ndarray], np.ndarray]) -> Piece:
    """Return the outline whose radius is a function of the part of a turn."""
    turn = np.linspace(0, 1, 240, endpoint=False)
    return radius(turn) * np.exp(2j * np.pi * turn), True


def _flower(petals: int, depth: float) -> Piece:
    return _polar(lambda turn: 1 + depth * np.cos(2 * np.pi * petals * turn))


def _star(tips: int, inner: float) -> Piece:
    return np.tile([1, inner], tips) * _arc(0, 1 - 0.5 / tips, 2 * tips), True


def _stroke(points: np.ndarray, width: float) -> Piece:
    """Return the outline of a smooth line of a width."""
    along = np.gradient(points)
    across = 0.5j * width * along / abs(along)
    return np.concatenate([points + across, (points - across)[::-1]]), True


def _lens(width: float) -> Piece:
    x = np.linspace(-1, 1, 30)
    half = width * np.cos(np.pi / 2 * x)
    return np.concatenate([x + 1j * half, (x - 1j * half)[::-1]]), True


def _blocks(rows: str, wider: float) -> list[Piece]:
    """Build a figure of cells, written row by row, with every second row and column wider than the others."""
    lines = rows.split()
    edges = np.cumsum([0.0] + [1 + wider * (index % 2) for index in range(max(len(lines), len(lines[0])))])
    return [
        _box(edges[column], edges[row], edges[column + 1], edges[row + 1])
        for row, line in enumerate(lines)
        for column, cell in enumerate(line)
        if cell == "#"
    ]


def _spiral(turns: float) -> Piece:
    turn = np.linspace(0.3, turns, 120)
    return _stroke(turn * np.exp(2j * np.pi * turn), 0.45)


def _wave(height: float) -> Piece:
    x = np.linspace(-1, 1, 80)
    return _stroke(x + 1j * height * np.sin(3 * np.pi * x), 0.22)


def _heart(depth: float) -> Piece:
    a = 2 * np.pi * np.linspace(0, 1, 80)
    y = depth * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    return 16 * np.sin(a) ** 3 - 1j * y, True


def _pinwheel(width: float) -> list[Piece]:
    return [(np.array([0, 1, width * (1 + 1j)]) * blade, True) for blade in (1, 1j, -1, -1j)]


SOURCE: dict[str, Silhouette] = {
    "anchor": lambda t: [
        _stroke(0.8 * _arc(0.02, 0.48) + 0.1j, 0.24),
        _box(-0.12, -0.6, 0.12, 0.95),
        _box(-0.45 - 0.1 * t, -0.4, 0.45 + 0.1 * t, -0.2),
        _disc(0, -0.75, 0.27),
        _cut(_disc(0, -0.75, 0.12)),
    ],
    "asterisk": lambda t: [_star(6, 0.17 + 0.06 * t)],
    "bottle": lambda t: [
        _poly(-0.4, 1, -0.4, -0.2, -0.15, -0.5, 0.15, -0.5, 0.4, -0.2, 0.4, 1),
        _box(-0.15, -0.9 - 0.2 * t, 0.15, -0.45),
    ],
    "bullseye": lambda t: [_disc(0, 0, 1), _cut(_disc(0, 0, 0.72)), _disc(0, 0, 0.3 + 0.15 * t)],
    "burst": lambda t: [_star(14, 0.62 + 0.1 * t)],
    "chevron": lambda t: [_poly(-1, -0.8, -0.2, -0.8, 0.7, 0, -0.2, 0.8, -1, 0.8, -0.1 - 0.2 * t, 0)],
    "comb": lambda t: _blocks("####### #.#.#.# #.#.#.#", 0.9 * t),
    "cross": lambda t: _blocks(".#. ### .#.", 0.6 - 0.9 * t),
    "disc": lambda t: [_disc(0, 0, 1)],
    "drop": lambda t: [_disc(0, 0.4, 0.6), _poly(-0.57, 0.2, 0, -1.1 - 0.3 * t, 0.57, 0.2)],
    "dumbbell": lambda t: [_disc(-0.7, 0, 0.38), _disc(0.7, 0, 0.38), _box(-0.7, -0.1 - 0.08 * t, 0.7, 0.1 + 0.08 * t)],
    "eight": lambda t: [
        _disc(0, -0.5, 0.5),
        _disc(0, 0.5, 0.6),
        _cut(_disc(0, -0.5, 0.2 + 0.1 * t)),
        _cut(_disc(0, 0.5, 0.25 + 0.1 * t)),
    ],
    "flower_3": lambda t: [_flower(3, 0.4 + 0.2 * t)],
    "flower_4": lambda t: [_flower(4, 0.35 + 0.2 * t)],
    "flower_5": lambda t: [_flower(5, 0.3 + 0.2 * t)],
    "flower_8": lambda t: [_flower(8, 0.25 + 0.2 * t), _cut(_disc(0, 0, 0.25 + 0.1 * t))],
    "frame": lambda t: _blocks("### #.# ###", 0.5 + 2 * t),
    "gear": lambda t: [
        _polar(lambda turn: 0.85 + 0.15 * np.sign(np.sin(18 * np.pi * turn))),
        _cut(_disc(0, 0, 0.3 + 0.2 * t)),
    ],
    "half_disc": lambda t: [(_arc(0, 0.5 + 0.06 * t), True)],
    "hammer": lambda t: [
        _box(-0.13, -0.6, 0.13, 1),
        _poly(-0.5, -0.9, 0.35, -0.9, 0.8 + 0.2 * t, -0.55, 0.35, -0.45, -0.5, -0.45),
    ],
    "hash": lambda t: _blocks(".#.#. ##### .#.#. ##### .#.#.", 0.3 * t),
    "hourglass": lambda t: [_poly(-0.7, -1, 0.7, -1, 0.1 + 0.1 * t, 0, 0.7, 1, -0.7, 1, -0.1 - 0.1 * t, 0)],
    "ladder": lambda t: _blocks("#.# ### #.# ### #.# ### #.#", 0.9 * t),
    "letter_e": lambda t: _blocks("### #.. ### #.. ###", 0.9 * t),
    "letter_h": lambda t: _blocks("#.# #.# ### #.# #.#", 0.9 * t),
    "letter_l": lambda t: _blocks("#.. #.. #.. ###", 0.9 * t),
    "letter_t": lambda t: _blocks("### .#. .#. .#.", -0.3 * t),
    "letter_u": lambda t: _blocks("#.# #.# #.# ###", 0.9 * t),
    "mushroom": lambda t: [(_arc(0.5, 1), True), _box(-0.22 - 0.1 * t, -0.02, 0.22 + 0.1 * t, 0.8)],
    "pie": lambda t: [(np.append(_arc(0.1 + 0.04 * t, 0.9 - 0.04 * t), 0), True)],
    "pinwheel": lambda t: _pinwheel(0.5 + 0.15 * t),
    "ring": lambda t: [_disc(0, 0, 1), _cut(_disc(0, 0, 0.45 + 0.25 * t))],
    "saw": lambda t: [_polar(lambda turn: 0.65 + 0.1 * t + 0.3 * (8 * turn % 1)), _cut(_disc(0, 0, 0.2))],
    "spiral": lambda t: [_spiral(2.4 + 0.4 * t)],
    "square": lambda t: [_box(-1, -1, 1, 1)],
    "star_4": lambda t: [_star(4, 0.27 + 0.13 * t)],
    "star_5": lambda t: [_star(5, 0.35 + 0.13 * t)],
    "steps": lambda t: _blocks("#... ##.. ###. ####", 0.2 * t),
    "triangle": lambda t: [_star(3, 0.5)],
    "wave": lambda t: [_wave(0.25 + 0.2 * t)],
}
TARGET: dict[str, Silhouette] = {
    "arrow": lambda t: [_box(-1, -0.14 - 0.1 * t, 0.2, 0.14 + 0.1 * t), _poly(0.1, -0.6, 1, 0, 0.1, 0.6)],
    "bolt": lambda t: [_poly(0, -1, -0.6, 0.15, -0.1, 0.15, -0.3, 1, 0.6, -0.25, 0.1, -0.25, 0.4 + 0.1 * t, -1)],
    "crescent": lambda t: [_disc(0, 0, 1), _cut(_disc(0.4 + 0.2 * t, 0, 0.85))],
    "cup": lambda t: [
        _disc(0.6, -0.1, 0.5),
        _cut(_disc(0.6, -0.1, 0.28)),
        _poly(-0.9, -0.8, 0.6, -0.8, 0.45 - 0.1 * t, 0.8, -0.75 + 0.1 * t, 0.8),
    ],
    "fish": lambda t: [
        _lens(0.45 + 0.15 * t),
        _poly(0.6, 0, 1.4, -0.5, 1.2, 0, 1.4, 0.5),
        _cut(_disc(-0.6, -0.08, 0.08)),
    ],
    "heart": lambda t: [_heart(13 - 2 * t)],
    "house": lambda t: [
        _poly(-1, -0.1, 0, -1, 0.35, -0.685, 0.35, -0.95, 0.6, -0.95, 0.6, -0.46, 1, -0.1),
        _box(-0.75, -0.15, 0.75, 0.9),
        _cut(_box(-0.2, 0.3 - 0.1 * t, 0.2, 0.92)),
    ],
    "key": lambda t: [
        _disc(-0.6, 0, 0.42),
        _cut(_disc(-0.6, 0, 0.2)),
        _poly(-0.22, -0.1, 1, -0.1, 1, 0.4, 0.8, 0.4, 0.8, 0.1, -0.22, 0.1),
        _box(0.45, 0, 0.62, 0.25 + 0.12 * t),
    ],
    "leaf": lambda t: [_lens(0.45 + 0.15 * t), _box(0.9, -0.06, 1.5, 0.06), _cut(_box(-0.5, -0.05, 0.95, 0.05))],
    "tree": lambda t: [
        _box(-0.13, 0.6, 0.13, 1.1),
        _poly(-0.4, -0.35, 0, -1.1, 0.4, -0.35),
        _poly(-0.55, 0.15, 0, -0.6, 0.55, 0.15),
        _poly(-0.7 - 0.1 * t, 0.65, 0, -0.1, 0.7 + 0.1 * t, 0.65),
    ],
}
SETS = {"shapes": TARGET, "shapes_source": SOURCE}
