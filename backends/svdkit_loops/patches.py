"""Convolutions in patches: what each result sees is laid out as a row, and rows are multiplied by the weights.

For what Winograd's tiles (`winograd`) do not take: steps of more than one, other kernels, few channels. Patches are
ordered as weights are stored, so weights stay as they are.
"""

from __future__ import annotations

from math import prod

from .compiled import compiled
from .product import multiply, multiply_size
from .room import Floats, empty
from .stored import Stored
from .threads import share

PATCHES = 2**22
"""Numbers that are laid out at a time, 16 MB, so that they are still in a cache when they are multiplied."""


def convolve_patches(
    x: Floats,
    weight: Stored,
    bias: Floats,
    stride: int,
    before: tuple[int, int],
    out: Floats,
    plus: Floats | None = None,
) -> None:
    """The convolution of maps `(N, H, W, I)` with weights `(O, I, h, w)`, plus a bias, into `(N, H', W', O)`.

    Args:
        stride: from one result to the next, along both axes.
        before: zeros above and left of a map. As many follow it as results need.
        plus: what else is added, of the result's shape.
    """
    columns, channels, *kernel = weight.shape
    fits = x.shape[0] == out.shape[0] and (x.shape[3], out.shape[3]) == (channels, columns)
    if not fits or (plus is not None and plus.shape != out.shape):
        raise ValueError(f"{x.shape} and weights {weight.shape} do not fit {out.shape}.")
    height, width, down, across = *out.shape[1:3], *kernel
    rows, matrix = out.reshape(-1, columns), weight.reshape(columns, -1)
    more, step = None if plus is None else plus.reshape(rows.shape), rows_at_once(matrix.shape[1])
    patches = empty(min(step, len(rows)), channels, down * across)
    for start in range(0, len(rows), step):
        some = patches[: len(rows) - start]

        def work(i: int, j: int, start: int = start) -> None:
            _lay_out(x, down, across, stride, *before, height, width, start, patches, i, j)

        share(work, len(some), matrix.shape[1])
        here = slice(start, start + len(some))
        multiply(some.reshape(len(some), -1), matrix, bias, rows[here], None if more is None else more[here])


def rows_at_once(size: int) -> int:
    """Patches of so many numbers that are laid out at a time."""
    return max(1, PATCHES // size)


def patches_size(weight: tuple[int, ...], rows: int) -> int:
    """Numbers that are held for so many results of a convolution."""
    columns, size = weight[0], prod(weight[1:])
    rows = min(rows, rows_at_once(size))
    return rows * size + multiply_size(rows, size, columns, gated=False)


@compiled
def _lay_out(
    x: Floats,
    down: int,
    across: int,
    stride: int,
    above: int,
    left: int,
    height: int,
    width: int,
    start: int,
    patches: Floats,
    i: int,
    j: int,
) -> None:
    for k in range(i, j):
        n, position = divmod(start + k, height * width)
        top, first = position // width * stride - above, position % width * stride - left
        for tap in range(down * across):
            row, column = top + tap // across, first + tap % across
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                for c in range(x.shape[3]):
                    patches[k, c, tap] = x[n, row, column, c]
            else:
                for c in range(x.shape[3]):
                    patches[k, c, tap] = 0
