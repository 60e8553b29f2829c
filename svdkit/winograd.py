"""The matrices of Winograd's convolutions F(m x m, 3 x 3) and F(m, 3), by Cook and Toom (arXiv:1509.09308, section 4).

A tile of m x m results of a 3x3 convolution is `A (G w G' . B d B') A'`, with d the (m + 2) x (m + 2) inputs that it
sees and `.` elementwise: (m + 2)^2 products instead of 9 m^2, 2.25 times fewer for m = 2 and 4 times for m = 4. Over
time a tile is m frames, and it is `A (G w . B d)`: m + 2 products instead of 3 m, 1.5 and 2 times fewer.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

POINTS = {
    2: (0, 1, -1),
    4: (0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}
"""Where polynomials are evaluated, besides at infinity, by m.

For m = 4 the usual 0, 1, -1, 2, -2 is off by 2.5e-6 in float32 on maps of 320 channels; these are off by 1.2e-6, and
patches by 0.4e-6.
"""


def suits(weight: tuple[int, ...], channels: int, stride: int = 1) -> bool:
    """Whether a convolution padded by 1 may be done in tiles.

    Args:
        weight: its shape, `(O, I, k, k)` or, over time, `(O, I, k, 1, 1)`.
        channels: of either side from which on transforms cost less than they save.
        stride: of it.
    """
    out, into, *kernel = weight
    return kernel in ([3, 3], [3, 1, 1]) and stride == 1 and min(out, into) >= channels


def tile(*lengths: int) -> int:
    """The m of the tiles that take the fewest products for so many results along each axis."""
    return min(POINTS, key=lambda m: math.prod(-(-length // m) * (m + 2) for length in lengths))


@cache
def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """A `(m, m + 2)`, G `(m + 2, 3)`, B `(m + 2, m + 2)`: `A (G w . B d)` is m results on m + 2 inputs."""
    points = [Fraction(p) for p in POINTS[m]]
    n = m + 2

    def evaluate(length: int) -> list[list[Fraction]]:
        """Polynomials of so many coefficients at the points; at infinity, the last coefficient."""
        return [[p**j for j in range(length)] for p in points] + [
            [Fraction(int(j == length - 1)) for j in range(length)]
        ]

    transform = np.array(_inverse(evaluate(n)), np.float64).T
    weights = np.array(evaluate(3), np.float64)
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
