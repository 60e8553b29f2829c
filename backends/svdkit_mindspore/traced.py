"""The functions of `eager` for graphs, which are recorded while arrays have no values.

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
_bmm = ops.BatchMatMul()
_bmm_t = ops.BatchMatMul(transpose_b=True)

SCORE_ELEMENTS = 2**26
"""Attention scores held at a time: 256 MB, and again for their softmax."""


def add_rows(x: Array, rows: Array) -> Array:
    """`x` `(V, R, C)` plus a row of `(V, C)` each."""
    return x + rows.expand_dims(1)


def gelu(x: Array) -> Array:
    """Of any shape."""
    return x * (0.5 + 0.5 * ops.erf(x * 0.5**0.5))


def linear(x: Array, panels: Array, bias: Array | None, out: int) -> Array:
    """`x` `(R, I)` times weights in panels, plus a bias, if there is one: `(R, O)`."""
    y = ops.matmul(x, _columns(panels, out))
    return y if bias is None else add_bias(y, bias)


def geglu(x: Array, value: Array, b: Array, gate: Array, c: Array) -> Array:
    """`(x @ value + b) * gelu(x @ gate + c)` of `(R, I)`, weights in panels."""
    return linear(x, value, b, len(b)) * gelu(linear(x, gate, c, len(c)))


def _columns(panels: Array, out: int) -> Array:
    """Of panels `(…, P, I, W)`, weights `(…, I, O)`."""
    *batch, count, size, width = panels.shape
    columns = panels.reshape(-1, count, size, width).transpose(0, 2, 1, 3).reshape(*batch, size, count * width)
    return columns[..., :out]


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


def conv2d(x: Array, weights: Array, bias: Array, m: int) -> Array:
    """Of `(N, H, W, C)`, padded by 1, in Winograd's tiles of m x m results, with transformed weights."""
    n, h, w, channels = x.shape
    factors = _columns(weights, len(bias))
    taps, _, out = factors.shape
    gather, scatter, forth, back = _tiling(n, h, w, m)
    rows = ops.concat((x.reshape(-1, channels), ops.zeros((1, channels), x.dtype)), 0)
    tiles = ops.matmul(forth, ops.gather(rows, gather, 0).reshape(taps, -1)).reshape(taps, -1, channels)
    y = ops.matmul(back, _bmm(tiles, factors).reshape(taps, -1)).reshape(-1, out)
    return add_bias(ops.gather(y, scatter, 0), bias).reshape(n, h, w, out)


def temporal_conv(x: Array, frames: int, weights: Array, bias: Array, m: int) -> Array:
    """Of videos `(V * F, P, C)`, in Winograd's tiles of m frames, with transformed weights."""
    count, positions, channels = x.shape
    factors = _columns(weights, len(bias))
    taps, _, out = factors.shape
    forth, back = _time_matrices(count // frames, frames, m)
    tiles = ops.matmul(forth, x.reshape(count, -1)).reshape(taps, -1, channels)
    y = ops.matmul(back, _bmm(tiles, factors).reshape(back.shape[1], -1))
    return add_bias(y.reshape(-1, out), bias).reshape(count, positions, out)


def attention(q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
    """Along positions, or, of more than one frame, along the frames of videos."""
    shape, size = q.shape, q.shape[2] // heads

    def split(x: Array) -> Array:
        if frames > 1:
            x = x.reshape(-1, frames, x.shape[1], heads, size).transpose(0, 2, 3, 1, 4)
        else:
            x = x.reshape(*x.shape[:2], heads, size).transpose(0, 2, 1, 3)
        return x.reshape(-1, x.shape[-2], size)

    q, k, v = split(q * size**-0.5), split(k), split(v)
    count, length, _ = q.shape
    step = max(1, SCORE_ELEMENTS // (count * k.shape[1]))
    blocks = [_bmm(ops.softmax(_bmm_t(q[:, i : i + step], k), -1), v) for i in range(0, length, step)]
    y = blocks[0] if len(blocks) == 1 else ops.concat(tuple(blocks), 1)
    if frames > 1:
        return y.reshape(-1, shape[1], heads, frames, size).transpose(0, 3, 1, 2, 4).reshape(shape)
    return y.reshape(-1, heads, length, size).transpose(0, 2, 1, 3).reshape(shape)


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
