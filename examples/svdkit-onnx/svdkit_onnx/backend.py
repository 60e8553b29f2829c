"""Every kernel as operators of ONNX: what svdkit's networks do on this backend is to write down what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from svdkit.backend import Backend, F, Host, Layer, added

from .formula import Formula, apply, constant, integers, variable
from .graph import Session, evaluate

KEPT = 2
"""Sessions that a compiled function keeps, each for other shapes: onnxruntime reorders weights, which takes a copy."""


class OnnxBackend(Backend):
    """Arrays are formulas, maps those of shape `(N, C, H, W)`. `numpy` computes one, `compile` makes a graph."""

    name = "onnx"
    devices = ("cpu",)
    dtypes = ("float32",)

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"compile"})

    def array(self, values: Host, dtype: str | None = None) -> Formula:
        return constant(np.ascontiguousarray(values, dtype or self.dtype))

    def numpy(self, x: Formula) -> Host:
        return evaluate([x])[0] if x.values is None else x.values

    def cast(self, x: Formula, dtype: str | None = None) -> Formula:
        return x  # there is one dtype

    def concat(self, arrays: Sequence[Formula], axis: int) -> Formula:
        shape = list(arrays[0].shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        return apply("Concat", *arrays, shape=tuple(shape), axis=axis)

    def all_finite(self, x: Formula) -> bool:
        return bool(np.isfinite(self.numpy(x)).all())

    def compile(self, function: F) -> F:
        sessions: dict[Any, Session] = {}

        def compiled(*arguments: Any) -> Formula:
            shapes = nested(lambda x: x.shape, arguments)
            if shapes not in sessions:
                inputs = nested(lambda x: variable(x.shape), arguments)
                while len(sessions) >= KEPT:
                    del sessions[next(iter(sessions))]
                sessions[shapes] = Session(list(leaves(inputs)), [function(*inputs)])
            (result,) = sessions[shapes].run(*map(self.numpy, leaves(arguments)))
            return self.array(result)

        return compiled  # type: ignore[return-value]

    def to_map(self, x: Formula) -> Formula:
        return x

    def from_map(self, x: Formula) -> Formula:
        return x

    def tokens(self, x: Formula) -> Formula:
        return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)

    def from_tokens(self, x: Formula, height: int, width: int) -> Formula:
        return x.transpose(0, 2, 1).reshape(x.shape[0], x.shape[2], height, width)

    def size(self, x: Formula) -> tuple[int, int]:
        return x.shape[2], x.shape[3]

    def concat_channels(self, a: Formula, b: Formula) -> Formula:
        return self.concat([a, b], 1)

    def upsample(self, x: Formula, height: int, width: int) -> Formula:
        for axis, length in ((2, height), (3, width)):
            sources = integers([i * x.shape[axis] // length for i in range(length)])
            x = apply("Gather", x, sources, shape=(*x.shape[:axis], length, *x.shape[axis + 1 :]), axis=axis)
        return x

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        out, _, kernel, _ = weight.shape
        weights = [self.array(a) for a in (weight, bias) if a is not None]
        before, after = padding

        def conv(x: Formula, plus: Formula | None = None) -> Formula:
            height, width = ((n + before + after - kernel) // stride + 1 for n in x.shape[2:])
            shape, pads = (x.shape[0], out, height, width), [before, before, after, after]
            return added(apply("Conv", x, *weights, shape=shape, strides=[stride, stride], pads=pads), plus)

        return conv

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        out, reach = weight.shape[0], weight.shape[2] // 2
        weights = self.array(weight[..., 0]), self.array(bias)

        def conv(x: Formula, frames: int, plus: Formula | None = None) -> Formula:
            videos = over_time(x, frames)
            shape = (videos.shape[0], out, *videos.shape[2:])
            y = apply("Conv", videos, *weights, shape=shape, pads=[reach, 0, reach, 0])
            return added(y.transpose(0, 2, 1, 3).reshape(x.shape[0], out, *x.shape[2:]), plus)

        return conv

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        matrix = self.array(weight.T)
        offset = None if bias is None else self.array(bias)

        def linear(x: Formula, plus: Formula | None = None) -> Formula:
            y = apply("MatMul", x, matrix, shape=(*x.shape[:-1], matrix.shape[1]))
            return added(added(y, offset), plus)

        return linear

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        scale, shift = (self.array(a.reshape(-1, 1, 1)) for a in (weight, bias))
        one, zero = self.array(np.ones(groups)), self.array(np.zeros(groups))

        def norm(x: Formula, frames: int = 1) -> Formula:
            videos = x if frames == 1 else over_time(x, frames)
            grouped = videos.reshape(videos.shape[0], groups, -1)
            y = apply("InstanceNormalization", grouped, one, zero, shape=grouped.shape, epsilon=eps)
            y = y.reshape(videos.shape) * scale + shift
            y = self.silu(y) if silu else y
            return y if frames == 1 else y.transpose(0, 2, 1, 3).reshape(x.shape)

        return norm

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        affine = self.array(weight), self.array(bias)
        return lambda x: apply("LayerNormalization", x, *affine, shape=x.shape, epsilon=eps)

    def mix(self, factor: Host, flip: bool) -> Layer:
        share = 1 / (1 + math.exp(factor[0] if flip else -factor[0]))
        return lambda a, b: share * a + (1 - share) * b

    def silu(self, x: Formula) -> Formula:
        return x * apply("Sigmoid", x, shape=x.shape)

    def gelu(self, x: Formula) -> Formula:
        return apply("Gelu", x, shape=x.shape)

    def quick_gelu(self, x: Formula) -> Formula:
        return x * apply("Sigmoid", 1.702 * x, shape=x.shape)

    def attention(self, q: Formula, k: Formula, v: Formula, heads: int) -> Formula:
        # ONNX's own would hold all scores at once.
        return apply("MultiHeadAttention", q, k, v, shape=q.shape, num_heads=heads)

    def swap_axes(self, x: Formula, videos: int) -> Formula:
        a, b, channels = x.shape[0] // videos, x.shape[1], x.shape[2]
        return x.reshape(videos, a, b, channels).transpose(0, 2, 1, 3).reshape(videos * b, a, channels)

    def add_rows(self, x: Formula, rows: Formula) -> Formula:
        runs, channels = rows.shape
        shape = (runs, 1, 1, channels) if len(x.shape) == 3 else (runs, 1, channels, 1, 1)
        return (x.reshape(runs, -1, *x.shape[1:]) + rows.reshape(shape)).reshape(x.shape)


def over_time(x: Formula, frames: int) -> Formula:
    """Maps as `(videos, C, frames, H * W)`."""
    n, channels, height, width = x.shape
    return x.reshape(n // frames, frames, channels, height * width).transpose(0, 2, 1, 3)


def nested(function: Callable[[Formula], Any], x: Any) -> Any:
    """The same nesting of tuples, with `function` of each formula."""
    return tuple(nested(function, y) for y in x) if isinstance(x, tuple) else function(x)


def leaves(x: Any) -> Iterator[Formula]:
    """The formulas of nested tuples."""
    if isinstance(x, tuple):
        for y in x:
            yield from leaves(y)
    else:
        yield x
