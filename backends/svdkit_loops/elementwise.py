"""Activations, biases and norms, each in one pass over memory, or two where statistics come first.

Group norms are of float32, or of bfloat16 with statistics in float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import scalar
from .compiled import compiled, summed_in_lanes
from .numbers import kept, number
from .room import Floats
from .scalar import Float
from .stored import Stored
from .threads import share

ROWS = 64
"""Rows that are summed in float32, before their sums are added up in float64."""


def add_rows(x: Floats, rows: Floats, out: Floats) -> None:
    """`x` `(V, R, C)` plus a row of `(V, C)` each."""
    _check(x.shape == out.shape and rows.shape == x.shape[::2], x, rows, out)
    share(lambda i, j: _add_rows(x, rows, out, i, j), x.shape[0] * x.shape[1], x.shape[2])


def concat(a: Floats, b: Floats, out: Floats) -> None:
    """Rows of `(R, A)`, each before one of `(R, B)`, into `(R, A + B)`."""
    _check(len(a) == len(b) and out.shape == (len(a), a.shape[1] + b.shape[1]), a, b, out)
    share(lambda i, j: _concat(a, b, out, i, j), *out.shape)


def mix(a: Floats, b: Floats, weight: float, out: Floats) -> None:
    """`weight * a + (1 - weight) * b`, of any shape."""
    _check(a.shape == b.shape == out.shape, a, b, out)
    a, b, out, share_of_a = a.ravel(), b.ravel(), out.reshape(-1), np.float32(weight)
    share(lambda i, j: _mix(a, b, share_of_a, out, i, j), out.size, 1)


def gelu(x: Floats, out: Floats) -> None:
    """`x * Phi(x)`, of any shape."""
    _check(x.shape == out.shape, x, out)
    x, out = x.ravel(), out.reshape(-1)
    share(lambda i, j: _gelu_of_each(x, out, i, j), out.size, 1)


def group_norm(x: Stored, weight: Floats, bias: Floats, groups: int, eps: float, silu: bool, out: Stored) -> None:
    """Of `(V, R, C)`, each of V by the statistics of its R rows over groups of channels; then SiLU, if asked for."""
    videos, rows, channels = x.shape
    fits = x.shape == out.shape and weight.shape == bias.shape == (channels,)
    _check(fits and channels % groups == 0, x, weight, out)
    origin, sums = _origin(x), np.zeros((videos, 2, channels))
    for v, part in share(lambda i, j: _moments(x, origin, i, j), videos * rows, channels):
        sums[v : v + len(part)] += part
    centre, gain, shift = _statistics(origin, sums, rows, weight, bias, groups, eps)
    share(lambda i, j: _normalise(x, centre, gain, shift, silu, out, i, j), videos * rows, channels)


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float, out: Floats) -> None:
    """Of the rows of `(R, C)`."""
    _check(x.shape == out.shape and weight.shape == bias.shape == x.shape[1:], x, weight, out)
    share(lambda i, j: _layer_norm(x, weight, bias, np.float32(eps), out, i, j), *x.shape)


def _check(fits: bool, *arrays: Stored) -> None:
    """Loops ask for no shape again, and would read and write what lies beside an array."""
    if not fits:
        raise ValueError(f"Arrays of {', '.join(str(a.shape) for a in arrays)} do not fit each other.")


@compiled
def _add_rows(x: Floats, rows: Floats, out: Floats, i: int, j: int) -> None:
    for r in range(i, j):
        v, k = divmod(r, x.shape[1])
        for c in range(x.shape[2]):
            out[v, k, c] = x[v, k, c] + rows[v, c]


@compiled
def _concat(a: Floats, b: Floats, out: Floats, i: int, j: int) -> None:
    first = a.shape[1]
    for r in range(i, j):
        out[r, :first], out[r, first:] = a[r], b[r]


@compiled
def _mix(a: Floats, b: Floats, weight: Float, out: Floats, i: int, j: int) -> None:
    a, b, out = a[i:j], b[i:j], out[i:j]
    for k in range(out.size):
        out[k] = b[k] + (a[k] - b[k]) * weight


@compiled
def _gelu_of_each(x: Floats, out: Floats, i: int, j: int) -> None:
    x, out = x[i:j], out[i:j]
    for k in range(out.size):
        out[k] = scalar.gelu(x[k])


@compiled
def _origin(x: Stored) -> Floats:
    """What sums of each video are relative to, so that a mean far from zero takes no digits of the spread.

    A row; and the median of three, since one that is far from all others, as a corner of a map may be, would take them
    too. Their places are such that they are corners of no three frames.
    """
    videos, rows, channels = x.shape
    result = np.empty((videos, channels), np.float32)
    for v in range(videos):
        for i in range(channels):
            a, b, c = number(x[v, 0, i]), number(x[v, 5 * rows // 17, i]), number(x[v, 11 * rows // 17, i])
            result[v, i] = max(min(a, b), min(max(a, b), c))
    return result


@compiled
def _statistics(
    origin: Floats, sums: npt.NDArray[np.float64], rows: int, weight: Floats, bias: Floats, groups: int, eps: float
) -> tuple[Floats, Floats, Floats]:
    """Centre, gain and shift of each channel of each video, `(V, C)`: `(x - centre) * gain + shift` is normalised."""
    videos, channels = origin.shape
    each = channels // groups
    centre, gain, shift = np.empty_like(origin), np.empty_like(origin), np.empty_like(origin)
    for v in range(videos):
        for first in range(0, channels, each):
            mean = 0.0
            for c in range(first, first + each):
                mean += (origin[v, c] + sums[v, 0, c] / rows) / each
            variance = 0.0
            for c in range(first, first + each):
                offset = sums[v, 0, c] / rows
                variance += (sums[v, 1, c] / rows - offset**2 + (origin[v, c] + offset - mean) ** 2) / each
            factor = 1 / np.sqrt(variance + eps)
            for c in range(first, first + each):
                # Centred by the mean as float32 has it; what that leaves of the mean goes to the shift.
                centre[v, c] = mean
                gain[v, c] = weight[c] * factor
                shift[v, c] = bias[c] - (mean - centre[v, c]) * (weight[c] * factor)
    return centre, gain, shift


@compiled
def _moments(x: Stored, origin: Floats, i: int, j: int) -> tuple[int, npt.NDArray[np.float64]]:
    """The first video that these rows are of, and of each sums of rows less its origin, and of squares: `(V, 2, C)`."""
    _, rows, channels = x.shape
    first = i // rows
    total = np.zeros(((j - 1) // rows + 1 - first, 2, channels))
    while i < j:
        v, begin = divmod(i, rows)
        end = min(begin + ROWS, rows, begin + j - i)
        sums, squares = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
        for r in range(begin, end):
            for c in range(channels):
                d = number(x[v, r, c]) - origin[v, c]
                sums[c] += d
                squares[c] += d * d
        for c in range(channels):
            total[v - first, 0, c] += sums[c]
            total[v - first, 1, c] += squares[c]
        i += end - begin
    return first, total


@compiled
def _normalise(x: Stored, centre: Floats, gain: Floats, shift: Floats, silu: bool, out: Stored, i: int, j: int) -> None:
    for row in range(i, j):
        v, r = divmod(row, x.shape[1])
        # Centred first: the difference of two large numbers would lose the digits of a small spread.
        if silu:
            for c in range(x.shape[2]):
                y = (number(x[v, r, c]) - centre[v, c]) * gain[v, c] + shift[v, c]
                out[v, r, c] = kept(scalar.silu(y), out)
        else:
            for c in range(x.shape[2]):
                out[v, r, c] = kept((number(x[v, r, c]) - centre[v, c]) * gain[v, c] + shift[v, c], out)


@summed_in_lanes
def _layer_norm(x: Floats, weight: Floats, bias: Floats, eps: Float, out: Floats, i: int, j: int) -> None:
    channels = x.shape[1]
    for r in range(i, j):
        total = np.float32(0)
        for c in range(channels):
            total += x[r, c]
        mean = np.float32(total / channels)
        squares = np.float32(0)
        for c in range(channels):
            squares += (x[r, c] - mean) * (x[r, c] - mean)
        gain = np.float32(1 / np.sqrt(squares / channels + eps))
        for c in range(channels):
            out[r, c] = (x[r, c] - mean) * gain * weight[c] + bias[c]
