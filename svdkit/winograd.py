"""The matrices of Winograd's convolutions F(m x m, 3 x 3) and F(m, 3), by Cook and Toom (arXiv:1509.09308, section 4).

A tile of m x m results of a 3x3 convolution is `A (G w G' . B d B') A'`, with d the (m + 2) x (m + 2) inputs that it
sees and `.` elementwise: (m + 2)^2 products instead of 9 m^2, 2.25 times fewer for m = 2 and 4 times for m = 4. Over
time a tile is m frames, and it is `A (G w . B d)`: m + 2 products instead of 3 m, 1.5 and 2 times fewer.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

DEEP_CHANNELS = 1280
"""From how many on tiles are 2x2: on the small maps that have so many, 4x4 is no faster, and its weights are 4 times
those of the checkpoint instead of 1.8 times."""

POINTS = {
    2: (0, 1, -1),
    4: (0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}
"""Where polynomials are evaluated, besides at infinity, by m.

For m = 4 the usual 0, 1, -1, 2, -2 is off by 2.5e-6 in float32 on maps of 320 channels; these are off by 1.2e-6, and
patches by 0.4e-6.
"""


def tile(weight: tuple[int, ...], channels: int, stride: int = 1) -> int:
    """The m of the tiles that suit a convolution padded by 1; 0 if it should be done another way.

    Args:
        weight: its shape, `(O, I, k, k)` or, over time, `(O, I, k, 1, 1)`.
        channels: of either side from which on transforms cost less than they save.
        stride: of it.
    """
    out, into, *kernel = weight
    if kernel not in ([3, 3], [3, 1, 1]) or stride != 1 or min(out, into) < channels:
        return 0
    return 2 if out >= DEEP_CHANNELS else 4


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


def of_one_frame(m: int) -> Matrix:
    """How much of each factor `(m + 2, O, I)` a frame without neighbours is multiplied by: `(m + 2,)`."""
    a, _, b = matrices(m)
    return np.asarray(a[0] * b[:, 1])


def time_matrices(videos: int, frames: int, m: int) -> tuple[Matrix, Matrix]:
    """What takes the frames of videos to the inputs of tiles of m frames, transformed, and their products back.

    Returns:
        `((m + 2) * tiles, videos * frames)`, beyond whose ends is zero, and `(videos * frames, (m + 2) * tiles)`.
    """
    a, _, b = matrices(m)
    count = -(-frames // m)
    forth, back = np.zeros((m + 2, count, m * count + 2)), np.zeros((m * count, m + 2, count))
    for i in range(count):
        forth[:, i, m * i : m * i + m + 2] = b
        back[m * i : m * i + m, :, i] = a
    each = np.eye(videos)
    # From every video to its own tiles, which lie one after another within a tap.
    return (
        np.einsum("vw,tif->tviwf", each, forth[:, :, 1 : frames + 1]).reshape(-1, videos * frames),
        np.einsum("vw,fti->vftwi", each, back[:frames]).reshape(videos * frames, -1),
    )
