"""The matrices of Winograd's convolutions F(m x m, r x r) and F(m, r), by Cook and Toom (arXiv:1509.09308, section 4).

A tile of m x m results of a 3x3 convolution is `A (G w G' . B d B') A'`, with d the (m + 2) x (m + 2) inputs that it
sees and `.` elementwise: (m + 2)^2 products instead of 9 m^2, 2.25 times fewer for m = 2 and 4 times for m = 4. Over
time a tile is m frames, and it is `A (G w . B d)`: m + 2 products instead of 3 m, 1.5 and 2 times fewer.

Of a map whose rows and columns are each doubled first, as nearest neighbours do, even results see only two inputs along
an axis, `w0 x[i - 1] + (w1 + w2) x[i]`, and so do odd ones, `(w0 + w1) x[i] + w2 x[i + 1]`. Each of the four kinds is a
2x2 convolution of the map as it was: tiles of (m + 1)^2 products, and no larger map in memory.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

POINTS = {
    3: (0, -1),
    4: (0, 1, -1),
    5: (0, -1, Fraction(1, 2), Fraction(3, 2)),
    6: (0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}
"""Where polynomials are evaluated, besides at infinity, by how many products there are along an axis.

For 6 the usual 0, 1, -1, 2, -2 is off by 2.5e-6 in float32 on maps of 320 channels; these are off by 1.2e-6, those for
5 by 0.9e-6, and patches by 0.4e-6.
"""
SIZES = 2, 4
"""The m that there are."""

ALL, EVEN, ODD = 0, 1, 2
"""Results along an axis: all of a map, or those of even or of odd index of one that is doubled first."""
SEEN = {ALL: ((1, 0, 0), (0, 1, 0), (0, 0, 1)), EVEN: ((1, 0, 0), (0, 1, 1)), ODD: ((1, 1, 0), (0, 0, 1))}
"""Which of three weights are added up for each input that such a result sees."""


def suits(weight: tuple[int, ...], stride: int = 1) -> bool:
    """Whether a convolution padded by 1 can be done in tiles, by the shape `(O, I, k, k)` or, over time,
    `(O, I, k, 1, 1)` of its weights. Transforms cost less than they save where there are many channels.
    """
    return weight[2:] in ((3, 3), (3, 1, 1)) and stride == 1


def tile(*lengths: int, results: int = ALL) -> int:
    """The m of the tiles that take the fewest products for so many results along each axis."""
    return min(SIZES, key=lambda m: math.prod(-(-length // m) * products(m, results) for length in lengths))


def products(m: int, results: int = ALL) -> int:
    """Along an axis of a tile: inputs that m results see."""
    return m + len(SEEN[results]) - 1


@cache
def matrices(m: int, results: int = ALL) -> tuple[Matrix, Matrix, Matrix]:
    """A `(m, n)`, G `(n, 3)`, B `(n, n)`: `A (G w . B d)` is m results on n inputs."""
    seen = np.array(SEEN[results], np.float64)
    n = products(m, results)
    points = [Fraction(p) for p in POINTS[n]]

    def evaluate(length: int) -> list[list[Fraction]]:
        """Polynomials of so many coefficients at the points; at infinity, the last coefficient."""
        return [[p**j for j in range(length)] for p in points] + [
            [Fraction(int(j == length - 1)) for j in range(length)]
        ]

    transform = np.array(_inverse(evaluate(n)), np.float64).T
    weights = np.array(evaluate(len(seen)), np.float64) @ seen
    # Powers of two, which round nothing, share the size of the numbers out between inputs and weights.
    sizes = 2.0 ** np.round(np.log2(np.abs(transform).max(1, keepdims=True)))
    return np.array(evaluate(m), np.float64).T, weights * sizes, transform / sizes


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """By Gauss and Jordan, exactly."""
    n = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next(k for k in range(i, n) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(n):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]
