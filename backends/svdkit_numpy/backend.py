"""Every kernel as its definition. Maps are `(N, C, H, W)`; slow, exact, and what other backends are held to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import erf, expit

from svdkit.backend import Array, Backend, Call, Host, Layer, Map, added, mix_share
from svdkit.memory.malloc import keep_freed_memory

from . import memory

SCORE_ELEMENTS = 2**24
"""A block of attention scores, which there are three of at a time: 64 MB in float32."""


class NumpyBackend(Backend):
    """NumPy on the host."""

    name = "numpy"
    devices = ("cpu",)
    dtypes = ("float32", "float64")
    views = memory.VIEWS

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        keep_freed_memory()
        super().__init__(device, dtype)

    def scratch(self, call: Call) -> Sequence[int]:
        return [memory.scratch(call, SCORE_ELEMENTS) * call.itemsize]

    def array(self, values: Host, dtype: str | None = None) -> Array:
        return np.ascontiguousarray(values, dtype or self.dtype)

    def numpy(self, x: Array) -> Host:
        return np.asarray(x)

    def cast(self, x: Array, dtype: str | None = None) -> Array:
        return np.asarray(x, dtype or self.dtype)

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return np.concatenate(arrays, axis)

    def all_finite(self, x: Array) -> bool:
        return bool(np.isfinite(x).all())

    def to_map(self, x: Array) -> Map:
        return x

    def from_map(self, x: Map) -> Array:
        return x

    def tokens(self, x: Map) -> Array:
        return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)

    def from_tokens(self, x: Array, height: int, width: int) -> Map:
        return x.swapaxes(1, 2).reshape(x.shape[0], -1, height, width)

    def size(self, x: Map) -> tuple[int, int]:
        return x.shape[2], x.shape[3]

    def concat_channels(self, a: Map, b: Map) -> Map:
        return np.concatenate([a, b], axis=1)

    def upsample(self, x: Map, height: int, width: int) -> Map:
        rows = np.arange(height) * x.shape[2] // height
        columns = np.arange(width) * x.shape[3] // width
        return x[:, :, rows[:, None], columns]

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        kernel = weight.shape[2]
        matrix = self.array(weight).reshape(weight.shape[0], -1)
        offset = self.array(np.zeros(weight.shape[0]) if bias is None else bias)

        def apply(x: Map, plus: Map | None = None) -> Map:
            padded = np.pad(x, [(0, 0), (0, 0), padding, padding])
            windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))  # type: ignore[call-overload]
            windows = windows[:, :, ::stride, ::stride]
            n, _, height, width = windows.shape[:4]
            patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, height * width, -1)
            return added(self.from_tokens(patches @ matrix.T + offset, height, width), plus)

        return apply

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        taps = self.array(weight[:, :, :, 0, 0])
        reach = taps.shape[2] // 2
        offset = self.array(bias)[:, None, None]

        def apply(x: Map, frames: int, plus: Map | None = None) -> Map:
            videos = x.reshape(-1, frames, *x.shape[1:])
            padded = np.pad(videos, [(0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)])
            out = sum(
                np.einsum("oc,vfchw->vfohw", taps[:, :, i], padded[:, i : i + frames], optimize=True)
                for i in range(taps.shape[2])
            )
            return added(np.asarray(out + offset).reshape(x.shape[0], -1, *x.shape[2:]), plus)

        return apply

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        matrix = self.array(weight).T
        offset = self.array(np.zeros(weight.shape[0]) if bias is None else bias)
        return lambda x, plus=None: added(x @ matrix + offset, plus)

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        scale, shift = (self.array(a).reshape(-1, 1, 1) for a in (weight, bias))

        def apply(x: Map, frames: int = 1) -> Map:
            grouped = x.reshape(-1, frames, groups, x.shape[1] // groups, *x.shape[2:])
            y = _normalised(grouped, (1, 3, 4, 5), eps).reshape(x.shape) * scale + shift
            return self.silu(y) if silu else y

        return apply

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        scale, shift = self.array(weight), self.array(bias)

        def apply(x: Array) -> Array:
            return _normalised(x, (-1,), eps) * scale + shift

        return apply

    def mix(self, factor: Host, flip: bool) -> Layer:
        share = mix_share(factor, flip)
        return lambda a, b: share * a + (1 - share) * b

    def silu(self, x: Array) -> Array:
        return x * expit(x)

    def gelu(self, x: Array) -> Array:
        return 0.5 * x * (1 + erf(x * 0.5**0.5))

    def quick_gelu(self, x: Array) -> Array:
        return x * expit(1.702 * x)

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        def split(x: Array) -> Array:
            return x.reshape(x.shape[0], x.shape[1], heads, -1).swapaxes(1, 2)

        q, k, v = split(q) * (q.shape[-1] // heads) ** -0.5, split(k), split(v)
        out = np.empty_like(q)
        rows = max(1, SCORE_ELEMENTS // k.shape[2])
        for n, head in np.ndindex(q.shape[:2]):
            for start in range(0, q.shape[2], rows):
                block = np.s_[n, head, start : start + rows]
                scores = q[block] @ k[n, head].T
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                out[block] = scores @ v[n, head] / scores.sum(-1, keepdims=True)
        return out.swapaxes(1, 2).reshape(out.shape[0], out.shape[2], -1)

    def swap_axes(self, x: Array, videos: int) -> Array:
        a, b, channels = x.shape[0] // videos, x.shape[1], x.shape[2]
        return x.reshape(videos, a, b, channels).swapaxes(1, 2).reshape(videos * b, a, channels)

    def add_rows(self, x: Array | Map, rows: Array) -> Array | Map:
        rows = np.repeat(rows, x.shape[0] // rows.shape[0], axis=0)
        return x + (rows[:, None] if x.ndim == 3 else rows[:, :, None, None])


def _normalised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """Statistics are float64: what float32 leaves of a constant, divided by the root of `eps`, would be 2e-4."""
    centred = x - x.mean(axes, np.float64, keepdims=True).astype(x.dtype)
    variance = (centred**2).mean(axes, np.float64, keepdims=True)
    return centred / np.sqrt(variance + eps).astype(x.dtype)
