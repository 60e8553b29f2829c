"""The functions of `eager` for graphs, which are recorded while arrays have no values.

In MindSpore's own operators, as short as they can be written: on a CPU a graph is not what is fast.
"""

from __future__ import annotations

from math import prod

from mindspore import ops

from svdkit.backend import Array, added

from . import tables
from .weight import Weight

add_bias = ops.BiasAdd()
_matmul = ops.MatMul(transpose_b=True)
_bmm = ops.BatchMatMul()
_bmm_t = ops.BatchMatMul(transpose_b=True)

PATCH_ELEMENTS = 2**25
"""Patches gathered at a time: 128 MB. Smaller pieces are no faster, larger ones no longer fit beside the weights."""
SCORE_ELEMENTS = 2**26
"""Attention scores held at a time: 256 MB, and again for their softmax."""


def add_rows(x: Array, rows: Array) -> Array:
    """Plus a row of `(V, C)` to each of V parts of `(…, C)`."""
    videos, channels = rows.shape
    return (x.reshape(videos, -1, channels) + rows.expand_dims(1)).reshape(x.shape)


def gelu(x: Array) -> Array:
    """Of any shape."""
    return x * (0.5 + 0.5 * ops.erf(x * 0.5**0.5))


def linear(x: Array, weight: Weight, bias: Weight | None, plus: Array | None = None) -> Array:
    """`x @ weight.T`, plus a bias, if there is one, plus an array, if there is one, of `(…, I)`: `(…, O)`."""
    return added(_product(x, weight.parameter, bias), plus)


def _product(x: Array, matrix: Array, bias: Weight | None) -> Array:
    y = _matmul(x.reshape(-1, x.shape[-1]), matrix)
    return (y if bias is None else add_bias(y, bias.parameter)).reshape(*x.shape[:-1], -1)


def conv2d(
    x: Array, weight: Weight, bias: Weight, stride: int, padding: tuple[int, int], plus: Array | None = None
) -> Array:
    """By weights `(O, I, k, k)` of padded `(N, H, W, I)`, plus an array, if there is one.

    In patches, since the stock `conv2d` is a reference loop here: 44 s where these take 0.15.
    """
    (n, h, w, channels), kernel, before = x.shape, weight.shape[2], padding[0]
    height, width = ((size + sum(padding) - kernel) // stride + 1 for size in (h, w))
    table = tables.kept(
        lambda: tables.patches(h, w, height, width, kernel, stride, before),
        *("patches", h, w, kernel, stride, padding),
    )
    y = _patch_product(x.reshape(n, h * w, channels), table, weight, bias)
    return added(y.reshape(n, height, width, -1), plus)


def temporal_conv(x: Array, frames: int, weight: Weight, bias: Weight, plus: Array | None = None) -> Array:
    """By weights `(O, I, k, 1, 1)` of videos `(V * F, H, W, I)`, plus an array, if there is one."""
    (n, h, w, channels), kernel = x.shape, weight.shape[2]
    table = tables.kept(lambda: tables.frame_patches(frames, h * w, kernel), "frames", frames, h * w, kernel)
    y = _patch_product(x.reshape(n // frames, frames * h * w, channels), table, weight, bias)
    return added(y.reshape(n, h, w, -1), plus)


def _patch_product(rows: Array, table: Array, weight: Weight, bias: Weight) -> Array:
    """Patches `(G, P, taps * I)` of rows `(G, L, I)`, times the weights: `(G, P, O)`.

    The table has the rows of one patch after another; row L is what lies outside. Strided copies take 20 ms where
    gathering whole rows takes 2, of 5.9 M elements.
    """
    groups, _, channels = rows.shape
    taps = prod(weight.shape[2:])
    rows = ops.concat((rows, ops.zeros((groups, 1, channels), rows.dtype)), 1)
    step = taps * max(1, PATCH_ELEMENTS // (groups * taps * channels))
    pieces = []
    for start in range(0, table.shape[0], step):
        patches = ops.gather(rows, table[start : start + step], 1).reshape(groups, -1, taps * channels)
        pieces.append(_product(patches, weight.in_patches, bias))
    return pieces[0] if len(pieces) == 1 else ops.concat(tuple(pieces), 1)


def geglu(x: Array, weight: Weight, bias: Weight) -> Array:
    """`a * gelu(b)`, where `x @ weight.T + bias` of `(…, I)` is a beside b."""
    y = linear(x, weight, bias)
    half = y.shape[-1] // 2
    return y[..., :half] * gelu(y[..., half:])


def group_norm(x: Array, videos: int, weight: Weight, bias: Weight, groups: int, eps: float, silu: bool) -> Array:
    """Of `(…, C)`, each of so many parts by the statistics of its rows."""
    y = x.reshape(videos, -1, groups, x.shape[-1] // groups)
    y = y - y.mean((1, 3), keep_dims=True)
    y = y * ops.rsqrt((y * y).mean((1, 3), keep_dims=True) + eps)
    y = y.reshape(x.shape) * weight.parameter + bias.parameter
    return ops.silu(y) if silu else y


def layer_norm(x: Array, weight: Weight, bias: Weight, eps: float) -> Array:
    """Of the rows of `(…, C)`."""
    normalise = ops.LayerNorm(begin_norm_axis=x.ndim - 1, begin_params_axis=x.ndim - 1, epsilon=eps)
    return normalise(x, weight.parameter, bias.parameter)[0]


def concat_channels(a: Array, b: Array) -> Array:
    """The channels of one map, then those of another."""
    return ops.concat((a, b), -1)


def mix(a: Array, b: Array, weight: float) -> Array:
    """`weight * a + (1 - weight) * b`, of any shape."""
    return b + (a - b) * weight


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
