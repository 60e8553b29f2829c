"""What compiled loops (`svdkit_loops`) do, on MindSpore's tensors: most of the network, products included.

An operator of MindSpore goes through its whole arrays and takes 0.04 to 0.1 ms to launch: a GELU of 16 operators on 10
million elements takes 48 ms, the same loop 3 ms. Its products reach 150 to 200 GFLOP/s where loops reach 200 to 220.

`traced` has the same functions for graphs, but of doubled maps.
"""

from __future__ import annotations

from svdkit import winograd
from svdkit.backend import Array, Host
from svdkit_loops import elementwise, product
from svdkit_loops.attention import attend, attend_in_time
from svdkit_loops.patches import convolve_patches
from svdkit_loops.room import empty
from svdkit_loops.winograd import Frames, Maps, convolve, convolve_doubled

from .host import memory_of, tensor_of
from .weight import Weight

CHANNELS = 64
"""Of inputs, from how many on convolutions are Winograd's; of outputs any: of 128 to 3 at 256x256 44 ms, not 260."""


def add_rows(x: Array, rows: Array) -> Array:
    """Plus a row of `(V, C)` to each of V parts of `(…, C)`."""
    values, row = memory_of(x), memory_of(rows)
    result = empty(*values.shape)
    shape = len(row), -1, row.shape[1]
    elementwise.add_rows(values.reshape(shape), row, result.reshape(shape))
    return tensor_of(result)


def concat_channels(a: Array, b: Array) -> Array:
    """The channels of one map, then those of another."""
    first, second = memory_of(a), memory_of(b)
    result = empty(*first.shape[:-1], first.shape[-1] + second.shape[-1])
    elementwise.concat(_rows(first), _rows(second), _rows(result))
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


def in_tiles(weight: tuple[int, ...], stride: int = 1, padding: tuple[int, int] = (1, 1)) -> bool:
    """Whether a convolution by weights of this shape is Winograd's; else it is one of patches."""
    return padding == (1, 1) and winograd.suits(weight, stride) and weight[1] >= CHANNELS


def conv2d(
    x: Array, weight: Weight, bias: Weight, stride: int, padding: tuple[int, int], plus: Array | None = None
) -> Array:
    """By weights `(O, I, k, k)` of padded `(N, H, W, I)`, plus an array, if there is one."""
    maps, more = memory_of(x), None if plus is None else memory_of(plus)
    kernel, (before, after) = weight.shape[2], padding
    height, width = ((size + before + after - kernel) // stride + 1 for size in maps.shape[1:3])
    result = empty(maps.shape[0], height, width, weight.shape[0])
    if in_tiles(weight.shape, stride, padding):
        convolve(Maps.of(maps.shape), maps, weight.stored, bias.numbers, result, more)
    else:
        convolve_patches(maps, weight.stored, bias.numbers, stride, (before, before), result, more)
    return tensor_of(result)


def upsample_conv2d(x: Array, weight: Weight, bias: Weight) -> Array:
    """By weights `(O, I, 3, 3)` of maps whose rows and columns are each doubled first: `(N, 2 H, 2 W, O)`."""
    maps = memory_of(x)
    n, height, width, _ = maps.shape
    result = empty(n, 2 * height, 2 * width, weight.shape[0])
    convolve_doubled(maps, weight.stored, bias.numbers, result)
    return tensor_of(result)


def temporal_conv(x: Array, frames: int, weight: Weight, bias: Weight, plus: Array | None = None) -> Array:
    """By weights `(O, I, k, 1, 1)` of videos `(V * F, H, W, I)`, plus an array, if there is one.

    Frames by positions are maps too.
    """
    maps, more = memory_of(x), None if plus is None else memory_of(plus)
    n, height, width, _ = maps.shape
    result, tiles = empty(n, height, width, weight.shape[0]), in_tiles(weight.shape)
    shape = (n, height * width) if tiles else (n // frames, frames, height * width)

    def rows(y: Host) -> Host:
        return y.reshape(*shape, y.shape[-1])

    videos, out, sums = rows(maps), rows(result), None if more is None else rows(more)
    if tiles:
        convolve(Frames.of(videos.shape, frames), videos, weight.stored, bias.numbers, out, sums)
    else:
        before = weight.shape[2] // 2, 0
        convolve_patches(videos, weight.stored[..., 0], bias.numbers, 1, before, out, sums)
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
