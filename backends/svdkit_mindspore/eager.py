"""What compiled loops (`svdkit_loops`) do, on MindSpore's tensors: most of the network, products included.

An operator of MindSpore goes through its whole arrays and takes 0.04 to 0.1 ms to launch: a GELU of 16 operators on 10
million elements takes 48 ms, the same loop 3 ms. Its products reach 150 to 200 GFLOP/s where loops reach 200 to 220.

`traced` has the same functions for graphs, but convolutions.
"""

from __future__ import annotations

from svdkit.backend import Array, Host
from svdkit_loops import elementwise, product
from svdkit_loops.attention import attend, attend_in_time
from svdkit_loops.room import empty
from svdkit_loops.winograd import Frames, Maps, convolve, convolve_doubled

from .host import memory_of, tensor_of
from .weight import Weight


def add_rows(x: Array, rows: Array) -> Array:
    """Plus a row of `(V, C)` to each of V parts of `(…, C)`."""
    values, row = memory_of(x), memory_of(rows)
    result = empty(*values.shape)
    shape = len(row), -1, row.shape[1]
    elementwise.add_rows(values.reshape(shape), row, result.reshape(shape))
    return tensor_of(result)


def mix(a: Array, b: Array, weight: float) -> Array:
    """`weight * a + (1 - weight) * b`, of any shape."""
    first, second = memory_of(a), memory_of(b)
    result = empty(*first.shape)
    elementwise.mix(first, second, weight, result)
    return tensor_of(result)


def gelu(x: Array) -> Array:
    """Of any shape."""
    values = memory_of(x)
    result = empty(*values.shape)
    elementwise.gelu(values, result)
    return tensor_of(result)


def linear(x: Array, weight: Weight, bias: Weight | None, plus: Array | None = None) -> Array:
    """`x @ weight.T`, plus a bias, if there is one, plus an array, if there is one, of `(…, I)`: `(…, O)`."""
    rows, matrix = memory_of(x), weight.stored
    result = empty(*rows.shape[:-1], len(matrix))
    offset, more = None if bias is None else bias.numbers, None if plus is None else _rows(memory_of(plus))
    product.multiply(_rows(rows), matrix, offset, _rows(result), more)
    return tensor_of(result)


def geglu(x: Array, weight: Weight, bias: Weight) -> Array:
    """`a * gelu(b)`, where `x @ weight.T + bias` of `(…, I)` is a beside b."""
    rows, matrix, offset = memory_of(x), weight.stored, bias.numbers
    half = len(matrix) // 2
    result = empty(*rows.shape[:-1], half)
    product.multiply_gated(_rows(rows), matrix[:half], offset[:half], matrix[half:], offset[half:], _rows(result))
    return tensor_of(result)


def group_norm(x: Array, videos: int, weight: Weight, bias: Weight, groups: int, eps: float, silu: bool) -> Array:
    """Of `(…, C)`, each of so many parts by the statistics of its rows."""
    values = memory_of(x)
    result = empty(*values.shape)
    rows, out = (a.reshape(videos, -1, values.shape[-1]) for a in (values, result))
    elementwise.group_norm(rows, weight.numbers, bias.numbers, groups, eps, silu, out)
    return tensor_of(result)


def layer_norm(x: Array, weight: Weight, bias: Weight, eps: float) -> Array:
    """Of the rows of `(…, C)`."""
    values = memory_of(x)
    result = empty(*values.shape)
    elementwise.layer_norm(_rows(values), weight.numbers, bias.numbers, eps, _rows(result))
    return tensor_of(result)


def conv2d(x: Array, weight: Weight, bias: Weight, plus: Array | None) -> Array:
    """By weights `(O, I, 3, 3)` of `(N, H, W, I)`, padded by 1, plus an array, if there is one."""
    maps = memory_of(x)
    return _convolve(Maps.of(maps.shape), maps, weight, bias, plus)


def upsample_conv2d(x: Array, weight: Weight, bias: Weight) -> Array:
    """The same of maps whose rows and columns are each doubled first: `(N, 2 H, 2 W, O)`."""
    maps = memory_of(x)
    n, height, width, _ = maps.shape
    result = empty(n, 2 * height, 2 * width, len(bias.numbers))
    convolve_doubled(maps, weight.stored, bias.numbers, result)
    return tensor_of(result)


def temporal_conv(x: Array, frames: int, weight: Weight, bias: Weight, plus: Array | None) -> Array:
    """By weights `(O, I, 3, 1, 1)` of videos `(V * F, H, W, I)`, plus an array, if there is one."""
    maps = memory_of(x)
    n, height, width, channels = maps.shape
    return _convolve(Frames.of((n, height * width, channels), frames), maps, weight, bias, plus)


def _convolve(tiling: Maps | Frames, x: Host, weight: Weight, bias: Weight, plus: Array | None) -> Array:
    result = empty(*x.shape[:-1], len(bias.numbers))
    shape = *tiling.shape[:-1], result.shape[-1]
    more = None if plus is None else memory_of(plus).reshape(shape)
    convolve(tiling, x.reshape(tiling.shape), weight.stored, bias.numbers, result.reshape(shape), more)
    return tensor_of(result)


def attention(q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
    """Along positions, or, of more than one frame, along the frames of videos."""
    queries, keys, values = memory_of(q), memory_of(k), memory_of(v)
    result = empty(*queries.shape)
    if frames > 1:
        attend_in_time(queries, keys, values, heads, frames, result)
    else:
        attend(queries, keys, values, heads, result)
    return tensor_of(result)


def _rows(x: Host) -> Host:
    return x.reshape(-1, x.shape[-1])
