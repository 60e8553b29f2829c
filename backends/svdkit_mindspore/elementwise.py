"""What is done element by element: compiled loops (`svdkit_loops`) in MindSpore's own memory.

An operator goes through its whole arrays and takes 0.04 to 0.1 ms to launch: a GELU of 16 operators on 10 million
elements takes 48 ms, the same loop 3 ms. Matrices are multiplied by MindSpore: this module is for what comes between.

`traced` has the same functions for graphs.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import mint, ops

from svdkit.backend import Array, Host
from svdkit_loops import elementwise
from svdkit_loops.threads import share
from svdkit_loops.winograd import Frames, Maps, tiles_at_a_time

TILE_ELEMENTS = 2**25
"""Numbers in the tiles of Winograd's convolutions at a time: 128 MB. In half of that a decode takes 5 % longer."""

_bmm_t = ops.BatchMatMul(transpose_b=True)


def empty(*shape: int) -> Array:
    """A tensor whose elements are still to be written."""
    return mint.empty(shape, dtype=ms.float32)


def part(x: Array, start: int, count: int) -> Array:
    """So many rows along the second axis, or as many as there are, copied."""
    rows = x.asnumpy()[:, start : start + count]
    result = mint.empty(rows.shape, dtype=x.dtype)
    y = result.asnumpy()
    share(lambda i, j: np.copyto(y[i:j], rows[i:j]), len(rows), rows[0].size)
    return result


def add_bias(x: Array, bias: Array) -> Array:
    """`x` `(R, C)` with a bias added, in the memory of `x`."""
    elementwise.add_bias(x.asnumpy(), _host(bias))
    return x


def add_rows(x: Array, rows: Array) -> Array:
    """`x` `(V, R, C)` plus a row of `(V, C)` each."""
    result = empty(*x.shape)
    elementwise.add_rows(_host(x), _host(rows), result.asnumpy())
    return result


def mix(a: Array, b: Array, weight: float) -> Array:
    """`weight * a + (1 - weight) * b`, of any shape."""
    result = empty(*a.shape)
    elementwise.mix(_host(a), _host(b), weight, result.asnumpy())
    return result


def gelu(x: Array) -> Array:
    """Of any shape."""
    result = empty(*x.shape)
    elementwise.gelu(_host(x), result.asnumpy())
    return result


def geglu(value: Array, value_bias: Array, gate: Array, gate_bias: Array) -> Array:
    """`(value + value_bias) * gelu(gate + gate_bias)` of `(R, C)`, in the memory of the gate."""
    elementwise.geglu(_host(value), _host(value_bias), gate.asnumpy(), _host(gate_bias))
    return gate


def group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float, silu: bool) -> Array:
    """Of `(V, R, C)`, each of V by the statistics of its R rows."""
    result = empty(*x.shape)
    elementwise.group_norm(_host(x), _host(weight), _host(bias), groups, eps, silu, result.asnumpy())
    return result


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Of the rows of `(R, C)`."""
    result = empty(*x.shape)
    elementwise.layer_norm(_host(x), _host(weight), _host(bias), eps, result.asnumpy())
    return result


def conv2d(x: Array, factors: Array, bias: Array, m: int) -> Array:
    """Of `(N, H, W, C)`, padded by 1, in Winograd's tiles of m x m results; factors `((m + 2)^2, O, C)`."""
    return _in_tiles(Maps(x.shape, m), x, factors, bias)


def temporal_conv(x: Array, frames: int, factors: Array, bias: Array, m: int) -> Array:
    """Of videos `(V * F, P, C)`, in Winograd's tiles of m frames; factors `(m + 2, O, C)`."""
    return _in_tiles(Frames(x.shape, frames, m), x, factors, bias)


def _in_tiles(tiling: Maps | Frames, x: Array, factors: Array, bias: Array) -> Array:
    taps, out, channels = factors.shape
    result = empty(*x.shape[:-1], out)
    rows, offset, y = _host(x), _host(bias), result.asnumpy()
    step = tiles_at_a_time(tiling, max(channels, out), TILE_ELEMENTS)
    for start in range(0, tiling.count, step):
        tiles = empty(taps, min(step, tiling.count - start), channels)
        tiling.cut(rows, start, tiles.asnumpy())
        tiling.put(_bmm_t(tiles, factors).asnumpy(), start, offset, y)
    return result


def _host(x: Array) -> Host:
    """The memory of a tensor, or of a copy if the tensor is a view of another order."""
    return np.ascontiguousarray(x.asnumpy())
