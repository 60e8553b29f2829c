"""The functions of `elementwise` for graphs, which are recorded while arrays have no values.

In MindSpore's own operators, as short as they can be written: on a CPU a graph is not what is fast.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from mindspore import Parameter, ops

from svdkit import winograd
from svdkit.backend import Array

from . import tables
from .base import constant

add_bias = ops.BiasAdd()
_bmm_t = ops.BatchMatMul(transpose_b=True)


def add_rows(x: Array, rows: Array) -> Array:
    """`x` `(V, R, C)` plus a row of `(V, C)` each."""
    return x + rows.expand_dims(1)


def gelu(x: Array) -> Array:
    """Of any shape."""
    return x * (0.5 + 0.5 * ops.erf(x * 0.5**0.5))


def geglu(value: Array, value_bias: Array, gate: Array, gate_bias: Array) -> Array:
    """`(value + value_bias) * gelu(gate + gate_bias)` of `(R, C)`."""
    return add_bias(value, value_bias) * gelu(add_bias(gate, gate_bias))


def group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float, silu: bool) -> Array:
    """Of `(V, R, C)`, each of V by the statistics of its R rows."""
    videos, rows, channels = x.shape
    y = x.reshape(videos, rows, groups, channels // groups)
    y = y - y.mean((1, 3), keep_dims=True)
    y = y * ops.rsqrt((y * y).mean((1, 3), keep_dims=True) + eps)
    y = y.reshape(videos, rows, channels) * weight + bias
    return ops.silu(y) if silu else y


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Of the rows of `(R, C)`."""
    return ops.LayerNorm(begin_norm_axis=1, begin_params_axis=1, epsilon=eps)(x, weight, bias)[0]


def mix(a: Array, b: Array, weight: float) -> Array:
    """`weight * a + (1 - weight) * b`, of any shape."""
    return b + (a - b) * weight


def conv2d(x: Array, factors: Array, bias: Array, m: int) -> Array:
    """Of `(N, H, W, C)`, padded by 1, in Winograd's tiles of m x m results; factors `((m + 2)^2, O, C)`."""
    n, h, w, channels = x.shape
    taps, out, _ = factors.shape
    gather, scatter, forth, back = _tiling(n, h, w, m)
    rows = ops.concat((x.reshape(-1, channels), ops.zeros((1, channels), x.dtype)), 0)
    tiles = ops.matmul(forth, ops.gather(rows, gather, 0).reshape(taps, -1)).reshape(taps, -1, channels)
    y = ops.matmul(back, _bmm_t(tiles, factors).reshape(taps, -1)).reshape(-1, out)
    return add_bias(ops.gather(y, scatter, 0), bias).reshape(n, h, w, out)


def temporal_conv(x: Array, frames: int, factors: Array, bias: Array, m: int) -> Array:
    """Of videos `(V * F, P, C)`, in Winograd's tiles of m frames; factors `(m + 2, O, C)`."""
    count, positions, channels = x.shape
    taps, out, _ = factors.shape
    forth, back = _time_matrices(count // frames, frames, m)
    tiles = ops.matmul(forth, x.reshape(count, -1)).reshape(taps, -1, channels)
    y = ops.matmul(back, _bmm_t(tiles, factors).reshape(back.shape[1], -1))
    return add_bias(y.reshape(-1, out), bias).reshape(count, positions, out)


@cache
def _tiling(n: int, h: int, w: int, m: int) -> tuple[Parameter, ...]:
    a, _, b = winograd.matrices(m)
    indices = tables.tiles(n, h, w, m), tables.untiles(n, h, w, m)
    matrices = np.kron(b, b), np.kron(a, a)
    return *(constant(x, "int32") for x in indices), *(constant(x, "float32") for x in matrices)


@cache
def _time_matrices(videos: int, frames: int, m: int) -> tuple[Parameter, Parameter]:
    forth, back = winograd.time_matrices(videos, frames, m)
    return constant(forth, "float32"), constant(back, "float32")
