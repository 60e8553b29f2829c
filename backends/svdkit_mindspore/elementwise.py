"""What is done element by element, by NumPy in MindSpore's own memory: in pieces that stay in the cache, on all cores.

An operator goes through its whole arrays and takes 0.04 to 0.1 ms to launch, so a GELU of 16 operators on 10 million
elements takes 48 ms, most of it for memory. NumPy launches in a microsecond and takes 14 ms, two biases and the product
of a gated layer included. Matrices are multiplied by MindSpore: this module is for what comes between products.

`traced` has the same functions for graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mindspore as ms
import numpy as np
from mindspore import mint

from svdkit.backend import Array, Host

from .threads import share

PIECE = 2**18
"""Elements of a piece: 1 MB. In smaller ones threads wait for Python's lock: 32 ms for a GELU in pieces of 2^15."""
WIDTH = 2**11
"""Elements of rows that are narrow otherwise."""

_GELU = (
    *(-3.61130496e-09, 2.66896020e-07, -7.93827032e-06, 1.10480687e-04, 6.62587852e-05, -7.26685656e-02),
    -1.595768432,
)
"""Minimax fit of -logit(Phi(x)) / x over 0 < x < 5.8, highest power of x^2 first: off by 6e-7 in x * Phi(x)."""


def empty(*shape: int) -> Array:
    """A tensor whose elements are still to be written."""
    return mint.empty(shape, dtype=ms.float32)


def part(x: Array, start: int, count: int) -> Array:
    """So many rows along the second axis, or as many as there are, copied."""
    rows = x.asnumpy()[:, start : start + count]
    result = mint.empty(rows.shape, dtype=x.dtype)
    y = result.asnumpy()
    share(lambda i: np.copyto(y[i], rows[i]), ((i,) for i in range(len(rows))))
    return result


def add_bias(x: Array, bias: Array) -> Array:
    """`x` `(R, C)` with a bias added, in the memory of `x`."""
    y, b = _folded(x.asnumpy(), bias.asnumpy())

    def add(i: int, j: int) -> None:
        y[i:j] += b

    share(add, _pieces(*y.shape))
    return x


def add_rows(x: Array, rows: Array) -> Array:
    """`x` `(V, R, C)` plus a row of `(V, C)` each."""
    result = empty(*x.shape)
    (a, b), (y,) = _folded(x.asnumpy(), rows.asnumpy()), _folded(result.asnumpy())
    share(lambda u, v, i, j: np.add(a[u:v, i:j], b[u:v, None], out=y[u:v, i:j]), _pieces_of_each(a.shape))
    return result


def gelu(x: Array) -> Array:
    """Of `(R, C)`."""
    result = empty(*x.shape)
    a, y = x.asnumpy(), result.asnumpy()
    share(lambda i, j: np.multiply(a[i:j], _phi(a[i:j]), out=y[i:j]), _pieces(*a.shape))
    return result


def geglu(value: Array, value_bias: Array, gate: Array, gate_bias: Array) -> Array:
    """`(value + value_bias) * gelu(gate + gate_bias)` of `(R, C)`, in the memory of the gate."""
    (a, b), (g, c) = (_folded(x.asnumpy(), y.asnumpy()) for x, y in ((value, value_bias), (gate, gate_bias)))

    def multiply(i: int, j: int) -> None:
        y = np.add(g[i:j], c, out=g[i:j])
        y *= _phi(y)
        a[i:j] += b
        y *= a[i:j]

    share(multiply, _pieces(*g.shape))
    return gate


def group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float, silu: bool) -> Array:
    """Of `(V, R, C)`, each of V by the statistics of its R rows."""
    result = empty(*x.shape)
    (a, w, b), (y,) = _folded(x.asnumpy(), weight.asnumpy(), bias.asnumpy()), _folded(result.asnumpy())
    pieces = list(_pieces_of_each(a.shape))

    def mean(part: Callable[[int, int, int, int], Host]) -> Host:
        """Over rows, then over groups of channels, of the sums that `part` gives of a piece: `(V, C)`, folded."""
        sums = np.zeros((len(a), a.shape[2]))
        for (u, v, *_), rows in zip(pieces, share(part, pieces), strict=True):
            sums[u:v] += rows
        channels = sums.reshape(len(a), -1, groups, x.shape[2] // groups)
        means = channels.mean((1, 3), keepdims=True) / a.shape[1]
        return np.broadcast_to(means, channels.shape).reshape(sums.shape)

    def squares(u: int, v: int, i: int, j: int) -> Host:
        centred = a[u:v, i:j] - centre[u:v, None]
        sums: Host = np.einsum("vrc,vrc->vc", centred, centred)
        return sums

    def apply(u: int, v: int, i: int, j: int) -> None:
        # Centred first: the difference of two large numbers would lose the digits of a small spread.
        rows = np.subtract(a[u:v, i:j], centre[u:v, None], out=y[u:v, i:j])
        rows *= gain[u:v, None]
        rows += b
        if silu:
            rows /= 1 + np.exp(-rows)

    centre = mean(lambda u, v, i, j: a[u:v, i:j].sum(1)).astype(np.float32)
    gain = (w / np.sqrt(mean(squares) + eps)).astype(np.float32)
    share(apply, pieces)
    return result


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Of the rows of `(R, C)`."""
    result = empty(*x.shape)
    a, w, b, y = x.asnumpy(), weight.asnumpy(), bias.asnumpy(), result.asnumpy()

    def apply(i: int, j: int) -> None:
        rows = np.subtract(a[i:j], a[i:j].mean(1, keepdims=True), out=y[i:j])
        rows *= 1 / np.sqrt(np.einsum("rc,rc->r", rows, rows)[:, None] / rows.shape[1] + np.float32(eps))
        rows *= w
        rows += b

    share(apply, _pieces(*a.shape))
    return result


def _phi(x: Host) -> Host:
    """The Gaussian distribution function, as 1 / (1 + exp(x p(x^2)))."""
    square = x * x
    p = square * np.float32(_GELU[0])
    p += np.float32(_GELU[1])
    for coefficient in _GELU[2:]:
        p *= square
        p += np.float32(coefficient)
    p *= x
    np.exp(p, out=p)
    p += 1
    return np.divide(1, p, out=p)


def _folded(rows: Host, *vectors: Host) -> tuple[Host, ...]:
    """Rows of `(…, R, C)`, several as one, and vectors of `(…, C)` to match: NumPy takes 10 ns to begin each row.

    Sums over fewer rows are also more exact, since NumPy adds one after another.
    """
    count, channels = rows.shape[-2:]
    fold = next(n for n in range(max(1, WIDTH // channels), 0, -1) if count % n == 0)
    return rows.reshape(*rows.shape[:-2], count // fold, fold * channels), *(np.tile(v, fold) for v in vectors)


def _pieces(rows: int, channels: int) -> Iterator[tuple[int, int]]:
    step = max(1, PIECE // channels)
    return ((i, min(i + step, rows)) for i in range(0, rows, step))


def _pieces_of_each(shape: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """From u to v along the first axis, from i to j along the second: several of the first if they are small."""
    several = max(1, PIECE // (shape[1] * shape[2]))
    for u in range(0, shape[0], several):
        for i, j in _pieces(*shape[1:]):
            yield u, min(u + several, shape[0]), i, j
