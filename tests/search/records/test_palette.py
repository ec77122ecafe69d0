"""Colours of sweeps under deuteranopia and in greyscale; what greyscale leaves close has another symbol."""

import math
from itertools import combinations

from search.records.palette import BASELINES, PALETTE, SYMBOLS, color, symbol

DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
"""On linear RGB: Machado, Oliveira and Fernandes 2009, table 1, severity 1.0."""
LUMINANCE = (0.2126, 0.7152, 0.0722)  # IEC 61966-2-1
XYZ = ((0.4124, 0.3576, 0.1805), LUMINANCE, (0.0193, 0.1192, 0.9505))
WHITE = (0.9505, 1.0, 1.089)
LEAST_DEUTERANOPIA, LEAST_GREY = 7.0, 3.0
"""Least distance in CIELAB (1976): 2.3 is a just noticeable difference (Mahy, van Eycken, Oosterlinck 1994)."""

Triple = tuple[float, ...]


def linear(hue: str) -> Triple:
    """Return a colour in linear RGB, IEC 61966-2-1."""
    parts = (int(hue[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)


def times(matrix: tuple[Triple, ...], vector: Triple) -> Triple:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def lab(rgb: Triple) -> Triple:
    """Return a linear RGB colour in CIELAB."""
    ratios = [max(0.0, part) / white for part, white in zip(times(XYZ, rgb), WHITE, strict=True)]
    x, y, z = (ratio ** (1 / 3) if ratio > (6 / 29) ** 3 else ratio * (29 / 6) ** 2 / 3 + 4 / 29 for ratio in ratios)
    return (116 * y - 16, 500 * (x - y), 200 * (y - z))


def simulated(hue: str) -> Triple:
    return lab(tuple(min(1.0, max(0.0, part)) for part in times(DEUTERANOPIA, linear(hue))))


def test_deuteranopia_leaves_the_colours_apart() -> None:
    for first, second in combinations((*PALETTE, BASELINES), 2):
        assert math.dist(simulated(first), simulated(second)) >= LEAST_DEUTERANOPIA, (first, second)


def test_greyscale_leaves_the_first_four_sweeps_apart() -> None:
    greys = [lab(times((LUMINANCE,) * 3, linear(color(i)))) for i in range(4)]
    for (i, first), (j, second) in combinations(enumerate(greys), 2):
        assert math.dist(first, second) >= LEAST_GREY, (i, j)


def test_sweeps_have_other_symbols_where_greyscale_leaves_their_colours_close() -> None:
    assert len(set(SYMBOLS)) == len(SYMBOLS) == len(PALETTE)
    looks = [(color(i), symbol(i)) for i in range(len(PALETTE) ** 2)]
    assert len(set(looks)) == len(looks)
    assert len({symbol(i) for i in range(len(PALETTE))}) == len(PALETTE)
