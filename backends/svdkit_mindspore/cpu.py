"""MindSpore on a CPU. Nearly all kernels are compiled loops (`eager`), which take weights as they are stored.

Maps are `(N, H, W, C)`, so tokens are the same memory. In graphs they are composed of the few operators that are fast
here (`traced`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from svdkit.backend import Array, Call, Host, Layer, Map, mix_share
from svdkit.memory.malloc import keep_freed_memory
from svdkit_loops.stored import stored_size

from . import eager, memory, tables, traced
from .base import IN_GRAPH, MindSporeBackend
from .host import memory_of, tensor_of
from .threads import keep_workers_apart
from .weight import Weight


def reshaped(x: Array, *shape: int) -> Array:
    """The same memory in another shape.

    What `Tensor.reshape` gives is a view, and each operator that takes one copies it first: 4 ms where this takes 0.01.
    """
    if IN_GRAPH.get():
        return x.reshape(shape)
    return tensor_of(memory_of(x).reshape(shape))


def _kernels() -> Any:
    """The module whose functions layers take: that of compiled loops, or that of operators which a graph can hold."""
    return traced if IN_GRAPH.get() else eager


class MindSporeCPU(MindSporeBackend):
    """Kernels that are compiled loops, or, in graphs, composed of the operators that are fast on a CPU."""

    devices = ("cpu",)
    dtypes = ("float32",)  # no kernels for bfloat16; in float16 convolution and norms are slower than in float32
    views = memory.VIEWS

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        super().__init__(device, dtype)
        if ms.get_context("device_target") != "CPU":
            ms.set_device("CPU")
        # Asynchronous launch keeps a core spinning and halves the speed of matrix products on two. The setting is
        # the process's, and MindSpore heeds it only before its first operator: it is made here and left so.
        ms.runtime.launch_blocking()
        keep_workers_apart()
        keep_freed_memory()

    def scratch(self, call: Call) -> Sequence[int]:
        return [call.itemsize * n for n in memory.scratch(call)]

    @property
    def maps_weights(self) -> bool:
        return True

    def held(self, weight: Host, stride: int = 1) -> int:
        return stored_size(weight)

    def kept(self, call: Call) -> Iterable[tuple[Hashable, int]]:
        return memory.tables(call)

    def to_map(self, x: Array) -> Map:
        return x.transpose(0, 2, 3, 1)

    def from_map(self, x: Map) -> Array:
        return x.transpose(0, 3, 1, 2)

    def tokens(self, x: Map) -> Array:
        return reshaped(x, x.shape[0], -1, x.shape[3])

    def from_tokens(self, x: Array, height: int, width: int) -> Map:
        return reshaped(x, x.shape[0], height, width, x.shape[2])

    def size(self, x: Map) -> tuple[int, int]:
        return x.shape[1], x.shape[2]

    def concat_channels(self, a: Map, b: Map) -> Map:
        return _kernels().concat_channels(a, b)

    def upsample(self, x: Map, height: int, width: int) -> Map:
        n, h, w, channels = x.shape
        table = tables.kept(lambda: tables.nearest(h, w, height, width), "upsample", h, w, height, width)
        return reshaped(ops.gather(reshaped(x, n, h * w, channels), table, 1), n, height, width, channels)

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        if weight.shape[2] == stride == 1 and padding == (0, 0):
            return self.linear(weight[:, :, 0, 0], bias)
        taps, offset = Weight(weight), Weight(np.zeros(len(weight)) if bias is None else bias)
        return lambda x, plus=None: _kernels().conv2d(x, taps, offset, stride, padding, plus)

    def upsample_conv2d(self, weight: Host, bias: Host) -> Layer:
        composed, taps, offset = super().upsample_conv2d(weight, bias), Weight(weight), Weight(bias)

        def apply(x: Map, height: int, width: int) -> Map:
            doubles = (height, width) == (2 * x.shape[1], 2 * x.shape[2])
            if IN_GRAPH.get() or not doubles or not eager.in_tiles(weight.shape):
                return composed(x, height, width)
            return eager.upsample_conv2d(x, taps, offset)

        return apply

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        middle = self.linear(weight[:, :, weight.shape[2] // 2, 0, 0], bias)
        taps, offset = Weight(weight), Weight(bias)

        def apply(x: Map, frames: int, plus: Map | None = None) -> Map:
            if frames == 1:  # beside which is nothing
                return middle(x, plus)
            return _kernels().temporal_conv(x, frames, taps, offset, plus)

        return apply

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        matrix, offset = Weight(weight), None if bias is None else Weight(bias)
        return lambda x, plus=None: _kernels().linear(x, matrix, offset, plus)

    def geglu(self, weight: Host, bias: Host) -> Layer:
        matrix, offset = Weight(weight), Weight(bias)
        return lambda x: _kernels().geglu(x, matrix, offset)

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        scale, shift = Weight(weight), Weight(bias)
        return lambda x, frames=1: _kernels().group_norm(x, x.shape[0] // frames, scale, shift, groups, eps, silu)

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        scale, shift = Weight(weight), Weight(bias)
        return lambda x: _kernels().layer_norm(x, scale, shift, eps)

    def mix(self, factor: Host, flip: bool) -> Layer:
        weight = mix_share(factor, flip)
        return lambda a, b: _kernels().mix(a, b, weight)

    def gelu(self, x: Array) -> Array:
        return _kernels().gelu(x)

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        return _kernels().attention(q, k, v, heads, 1)

    def temporal_attention(self, q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
        # Softmax over a single key is 1.
        return v if frames == 1 else _kernels().attention(q, k, v, heads, frames)

    def add_rows(self, x: Array | Map, rows: Array) -> Array | Map:
        return _kernels().add_rows(x, rows)
