"""The functions of `elementwise` for graphs, which are recorded while arrays have no values.

In MindSpore's own operators, as short as they can be written: on a CPU a graph is not what is fast.
"""

from __future__ import annotations

from mindspore import ops

from svdkit.backend import Array

add_bias = ops.BiasAdd()


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
