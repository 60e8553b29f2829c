"""What compiled loops (`svdkit_loops`) do, on MindSpore's tensors: most of the network, products included.

An operator of MindSpore goes through its whole arrays and takes 0.04 to 0.1 ms to launch: a GELU of 16 operators on 10
million elements takes 48 ms, the same loop 3 ms. Its products reach 150 to 200 GFLOP/s where loops reach 200 to 220.

`traced` has the same functions for graphs, but convolutions.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np

from svdkit.backend import Array, Host
from svdkit_loops import elementwise, product
from svdkit_loops.attention import attend, attend_in_time
from svdkit_loops.stored import Stored
from svdkit_loops.winograd import Frames, Maps, convolve

from .weight import Weight


def empty(*shape: int) -> Array:
    """A tensor whose elements are still to be written.

    In NumPy's memory, which is in large pages where the system has them: a step takes 2 % longer in MindSpore's.
    """
    return ms.Tensor.from_numpy(np.empty(shape, np.float32))


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


def linear(x: Array, weight: Weight, bias: Array | None) -> Array:
    """`x @ weight.T`, plus a bias, if there is one, of `(R, I)`: `(R, O)`."""
    result = empty(len(x), len(weight.stored))
    product.multiply(_host(x), weight.stored, None if bias is None else _host(bias), result.asnumpy())
    return result


def geglu(x: Array, weight: Weight, bias: Array) -> Array:
    """`a * gelu(b)`, where `x @ weight.T + bias` of `(R, I)` is a beside b."""
    half, offset = len(bias) // 2, _host(bias)
    value, gate = weight.stored[:half], weight.stored[half:]
    result = empty(len(x), half)
    product.multiply_gated(_host(x), value, offset[:half], gate, offset[half:], result.asnumpy())
    return result


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


def conv2d(x: Array, weight: Stored, bias: Array) -> Array:
    """By weights `(O, I, 3, 3)` of `(N, H, W, I)`, padded by 1."""
    return _convolve(Maps.of(x.shape), x, weight, bias)


def temporal_conv(x: Array, frames: int, weight: Stored, bias: Array) -> Array:
    """By weights `(O, I, 3, 1, 1)` of videos `(V * F, P, I)`."""
    return _convolve(Frames.of(x.shape, frames), x, weight, bias)


def _convolve(tiling: Maps | Frames, x: Array, weight: Stored, bias: Array) -> Array:
    result = empty(*x.shape[:-1], len(bias))
    convolve(tiling, _host(x), weight, _host(bias), result.asnumpy())
    return result


def attention(q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
    """Along positions, or, of more than one frame, along the frames of videos."""
    result = empty(*q.shape)
    rows = _host(q), _host(k), _host(v), heads
    if frames > 1:
        attend_in_time(*rows, frames, result.asnumpy())
    else:
        attend(*rows, result.asnumpy())
    return result


def _host(x: Array) -> Host:
    """The memory of a tensor, or of a copy if the tensor is a view of another order."""
    return np.ascontiguousarray(x.asnumpy())
