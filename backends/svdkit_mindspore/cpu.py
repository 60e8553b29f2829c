"""MindSpore on a CPU, where only some operators are fast; times below are for 5.9 M elements on two cores.

Maps are `(N, H, W, C)`, so tokens are the same memory. Convolutions are Winograd's where that pays, over time too, and
else products of gathered patches with the weights, since the stock `conv2d` is a reference loop here (44 s where
patches take 0.15). Strided copies take 20 ms where gathering whole rows takes 2: rows are therefore shuffled and padded
by gathering them with index tables, which are made once for each shape. What is done element by element compiled loops
do (`elementwise`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt
from mindspore import Parameter, ops

from svdkit import winograd
from svdkit.backend import Array, Call, Host, Layer, Map, Shape, mix_share
from svdkit_loops import winograd as loops
from svdkit_loops.weights import to_float32

from . import elementwise, memory, tables, traced
from .base import IN_GRAPH, MindSporeBackend, constant
from .threads import keep_workers_apart

PATCH_ELEMENTS = 2**25
"""Patches gathered at a time: 128 MB. Smaller pieces are no faster, larger ones no longer fit beside the weights."""
SCORE_ELEMENTS = 2**26
"""Attention scores held at a time: 256 MB, and again for their softmax."""
WINOGRAD_CHANNELS = 64
"""From how many on convolutions are Winograd's; patches are the alternative."""

_matmul = ops.MatMul()
_matmul_t = ops.MatMul(transpose_b=True)
_bmm = ops.BatchMatMul()
_bmm_t = ops.BatchMatMul(transpose_b=True)
_softmax = ops.Softmax(-1)


def reshaped(x: Array, *shape: int) -> Array:
    """The same memory in another shape.

    What `Tensor.reshape` gives is a view, and each operator that takes one copies it first: 4 ms where this takes 0.01.
    """
    if IN_GRAPH.get():
        return x.reshape(shape)
    return ms.Tensor.from_numpy(x.asnumpy().reshape(shape))


def _part(x: Array, start: int, count: int, axis: int = 0) -> Array:
    """So many rows along the first or second axis; a slice would be a view, even of the whole array."""
    if count >= x.shape[axis]:
        return x
    if IN_GRAPH.get():
        return x[:, start : start + count] if axis else x[start : start + count]
    if axis:
        return elementwise.part(x, start, count)
    return ms.Tensor.from_numpy(x.asnumpy()[start : start + count])


def _each() -> Any:
    """The module of what is done element by element."""
    return traced if IN_GRAPH.get() else elementwise


class MindSporeCPU(MindSporeBackend):
    """Kernels composed of the operators that are fast on a CPU."""

    devices = ("cpu",)
    dtypes = ("float32",)  # no kernels for bfloat16; in float16 convolution and norms are slower than in float32
    views = memory.VIEWS
    pooled = True

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        super().__init__(device, dtype)
        if ms.get_context("device_target") != "CPU":
            ms.set_device("CPU")
        # Asynchronous launch keeps a core spinning and halves the speed of matrix products on two. The setting is
        # the process's, and MindSpore heeds it only before its first operator: it is made here and left so.
        ms.runtime.launch_blocking()
        keep_workers_apart()

    def scratch(self, call: Call) -> Sequence[int]:
        bounds = WINOGRAD_CHANNELS, PATCH_ELEMENTS, elementwise.TILE_ELEMENTS, SCORE_ELEMENTS
        return [call.itemsize * n for n in memory.scratch(call, *bounds)]

    def held(self, kernel: str, weight: Shape, stride: int = 1) -> int:
        m = winograd.tile(weight, WINOGRAD_CHANNELS, stride)
        return winograd.transformed_size(weight, m) if m else super().held(kernel, weight)

    def kept(self, call: Call) -> Iterable[tuple[Hashable, int]]:
        return memory.tables(call, WINOGRAD_CHANNELS)

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
        return ops.concat((a, b), -1)

    def upsample(self, x: Map, height: int, width: int) -> Map:
        n, h, w, channels = x.shape
        table = _table(lambda: tables.nearest(h, w, height, width), "upsample", h, w, height, width)
        return reshaped(ops.gather(reshaped(x, n, h * w, channels), table, 1), n, height, width, channels)

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        out, channels, kernel, _ = weight.shape
        if kernel == stride == 1 and padding == (0, 0):
            return self.linear(weight[:, :, 0, 0], bias)
        if padding == (1, 1) and (m := winograd.tile(weight.shape, WINOGRAD_CHANNELS, stride)):
            return self._winograd(weight, bias, m)
        matrix = _weight(weight.transpose(0, 2, 3, 1).reshape(out, -1))
        offset = _weight(np.zeros(out) if bias is None else bias)
        before, after = padding

        def apply(x: Map) -> Map:
            n, h, w, _ = x.shape
            height, width = ((size + before + after - kernel) // stride + 1 for size in (h, w))
            table = _table(
                lambda: tables.patches(h, w, height, width, kernel, stride, before),
                *("patches", h, w, kernel, stride, padding),
            )
            y = self._patch_product(reshaped(x, n, h * w, channels), table, kernel**2, matrix, offset)
            return reshaped(y, n, height, width, out)

        return apply

    def _winograd(self, weight: Host, bias: Host | None, m: int) -> Layer:
        factors = _weight(loops.transform_weights(weight, m))
        offset = _weight(np.zeros(len(weight)) if bias is None else bias)
        return lambda x: _each().conv2d(x, factors, offset, m)

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        out, channels, kernel = weight.shape[:3]
        if m := winograd.tile(weight.shape, WINOGRAD_CHANNELS):
            return self._winograd_in_time(weight, bias, m)
        matrix = _weight(weight[..., 0, 0].transpose(0, 2, 1).reshape(out, -1))
        offset = _weight(bias)

        def apply(x: Map, frames: int) -> Map:
            n, h, w, _ = x.shape
            table = _table(lambda: tables.frame_patches(frames, h * w, kernel), "frames", frames, h * w, kernel)
            rows = reshaped(x, n // frames, frames * h * w, channels)
            return reshaped(self._patch_product(rows, table, kernel, matrix, offset), n, h, w, out)

        return apply

    def _winograd_in_time(self, weight: Host, bias: Host, m: int) -> Layer:
        factors = _weight(loops.transform_weights(weight, m))
        offset = _weight(bias)
        alone = _weight(winograd.of_one_frame(m)[None])

        def apply(x: Map, frames: int) -> Map:
            n, h, w, channels = x.shape
            if frames == 1:
                matrix = _matmul(alone, reshaped(factors, m + 2, -1))
                y = _matmul_t(reshaped(x, -1, channels), reshaped(matrix, -1, channels))
                y = _each().add_bias(y, offset)
            else:
                y = _each().temporal_conv(reshaped(x, n, h * w, channels), frames, factors, offset, m)
            return reshaped(y, n, h, w, factors.shape[1])

        return apply

    def _patch_product(self, rows: Array, table: Array, taps: int, matrix: Array, offset: Array) -> Array:
        """Patches `(G, P, taps * C)` of rows `(G, L, C)`, times the weights: `(G, P, O)`.

        The table has the rows of one patch after another; row L is what lies outside.
        """
        groups, _, channels = rows.shape
        rows = ops.concat((rows, ops.zeros((groups, 1, channels), rows.dtype)), 1)
        step = taps * max(1, PATCH_ELEMENTS // (groups * taps * channels))
        pieces = []
        for start in range(0, table.shape[0], step):
            part = _part(table, start, step)
            patches = reshaped(ops.gather(rows, part, 1), -1, taps * channels)
            pieces.append(reshaped(_each().add_bias(_matmul_t(patches, matrix), offset), groups, -1, matrix.shape[0]))
        return self.concat(pieces, 1)

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        # `ops.dense` takes 250 ms where the product takes 74.
        matrix = _weight(weight)
        offset = None if bias is None else _weight(bias)

        def apply(x: Array) -> Array:
            y = _matmul_t(reshaped(x, -1, x.shape[-1]), matrix)
            if offset is not None:
                y = _each().add_bias(y, offset)
            return reshaped(y, *x.shape[:-1], matrix.shape[0])

        return apply

    def geglu(self, weight: Host, bias: Host) -> Layer:
        # Two products: the halves of one would not be contiguous.
        half = weight.shape[0] // 2
        value, gate, b, c = (_weight(w) for x in (weight, bias) for w in (x[:half], x[half:]))

        def apply(x: Array) -> Array:
            rows = reshaped(x, -1, x.shape[-1])
            y = _each().geglu(_matmul_t(rows, value), b, _matmul_t(rows, gate), c)
            return reshaped(y, *x.shape[:-1], half)

        return apply

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        scale, shift = _weight(weight), _weight(bias)

        def apply(x: Map, frames: int = 1) -> Map:
            rows = reshaped(x, x.shape[0] // frames, -1, x.shape[-1])
            return reshaped(_each().group_norm(rows, scale, shift, groups, eps, silu), *x.shape)

        return apply

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        scale, shift = _weight(weight), _weight(bias)
        return lambda x: reshaped(_each().layer_norm(reshaped(x, -1, x.shape[-1]), scale, shift, eps), *x.shape)

    def mix(self, factor: Host, flip: bool) -> Layer:
        weight = mix_share(factor, flip)
        return lambda a, b: _each().mix(a, b, weight)

    def gelu(self, x: Array) -> Array:
        return _each().gelu(x)

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        return self._attention(q, k, v, 1, heads)

    def temporal_attention(self, q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
        if frames == 1:  # softmax over a single key is 1
            return v
        return self._attention(q, k, v, frames, heads)

    def add_rows(self, x: Array | Map, rows: Array) -> Array | Map:
        return reshaped(_each().add_rows(reshaped(x, rows.shape[0], -1, rows.shape[1]), rows), *x.shape)

    def _attention(self, q: Array, k: Array, v: Array, frames: int, heads: int) -> Array:
        """Attention along positions, or, with frames, along the frames at each position.

        Splitting heads, and frames from positions, is one gather of head-sized rows: 3 ms, a transpose takes 14.
        """
        shape = q.shape
        if frames > 1:  # all frames of a video in one sequence, `frames` runs of positions
            q, k, v = (reshaped(x, x.shape[0] // frames, -1, x.shape[2]) for x in (q, k, v))

        def split(x: Array) -> Array:
            n, rows, channels = x.shape
            table = _table(lambda: tables.split(rows, frames, heads), "split", rows, frames, heads)
            length = frames if frames > 1 else rows
            heads_apart = ops.gather(reshaped(x, n, rows * heads, -1), table, 1)
            return reshaped(heads_apart, -1, length, channels // heads)

        q, k, v = split(q * (shape[2] // heads) ** -0.5), split(k), split(v)
        count, length, _ = q.shape
        batch = max(1, SCORE_ELEMENTS // (length * k.shape[1]))
        block = max(1, SCORE_ELEMENTS // k.shape[1])
        pieces = []
        for i in range(0, count, batch):
            queries, keys, values = (_part(x, i, batch) for x in (q, k, v))
            blocks = [
                _bmm(_softmax(_bmm_t(_part(queries, j, block, 1), keys)), values) for j in range(0, length, block)
            ]
            pieces.append(self.concat(blocks, 1))
        y = self.concat(pieces, 0)
        rows = shape[1] * frames if frames > 1 else shape[1]
        table = _table(lambda: np.argsort(tables.split(rows, frames, heads)), "merge", rows, frames, heads)
        return reshaped(ops.gather(reshaped(y, -1, rows * heads, y.shape[2]), table, 1), *shape)


def _weight(values: Host) -> Array:
    return constant(to_float32(values), "float32")


_TABLES: dict[tuple[object, ...], Parameter] = {}


def _table(make: Callable[[], npt.NDArray[np.int64]], *key: object) -> Parameter:
    """An index table, kept for the shapes that ask for it again at every step."""
    if key not in _TABLES:
        _TABLES[key] = constant(make().astype(np.int32), "int32")
    return _TABLES[key]
