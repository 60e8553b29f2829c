"""MindSpore on an Ascend NPU: the fused operators that MindSpore 2.10 documents for that device.

Maps are `(N, C, H, W)`, what Ascend's convolutions take. Who computes in what:

| | float16 | bfloat16 | float32 |
|---|---|---|---|
| linear layers, 2D convolutions, GELU, resizing | float16 | bfloat16 | float32 (1) |
| convolution over time | float16 | float16 | float16 (2) |
| flash attention | float16 | bfloat16 | none (3) |
| softmax elsewhere, normalisation, SiLU and sigmoid (4), learned mixture | float32 | float32 | float32 |

1. CANN rounds the factors of float32 convolutions to HF32 unless the program forbids it, by
   `mindspore.device_context.ascend.op_precision.conv_allow_hf32(False)`: a setting of the whole process.
2. The one dtype of `Conv3D` that all documents agree on. Its range suffices: these layers read the output
   of a normalisation, or the decoded picture, and add to a stream that keeps the model's dtype.
3. The operator takes 16-bit floats, and heads of a multiple of 16 channels; the rest is a softmax in pieces.
4. Documented for float16 and float32 only.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import mint, ops

from svdkit.backend import Array, Host, Layer, Map, added, mix_share
from svdkit.errors import InputError

from .base import MindSporeBackend, constant

TIME_DTYPE = "float16"
FLASH_BATCH, FLASH_HEADS, FLASH_LENGTH = 2000, 256, 512_000
"""Documented bounds of flash attention: "2k" and "512k", read the safe way."""
FLASH_WIDTH = 256
"""Documented for 512 too; only the VAE has such a head, in a single layer that mostly runs in float32."""
SCORE_ELEMENTS = 2**26
"""Attention scores held at a time outside of flash attention: 256 MB in float32."""


class MindSporeAscend(MindSporeBackend):
    """Kernels of Ascend's own operators."""

    devices = ("ascend",)
    dtypes = ("float16", "bfloat16", "float32")

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        super().__init__(device, dtype)
        _claim(self.device)

    def to_map(self, x: Array) -> Map:
        return x

    def from_map(self, x: Map) -> Array:
        return x

    def tokens(self, x: Map) -> Array:
        return x.reshape(x.shape[0], x.shape[1], -1).transpose(0, 2, 1)

    def from_tokens(self, x: Array, height: int, width: int) -> Map:
        return x.transpose(0, 2, 1).reshape(x.shape[0], x.shape[2], height, width)

    def size(self, x: Map) -> tuple[int, int]:
        return x.shape[2], x.shape[3]

    def concat_channels(self, a: Map, b: Map) -> Map:
        return self.concat((a, b), 1)

    def upsample(self, x: Map, height: int, width: int) -> Map:
        return mint.nn.functional.interpolate(x, size=(height, width), mode="nearest")

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        kernel = constant(weight, self.dtype)
        offset = None if bias is None else constant(bias, self.dtype)
        before, after = padding

        def apply(x: Map, plus: Map | None = None) -> Map:
            if before == after:
                return added(mint.nn.functional.conv2d(x, kernel, offset, stride=stride, padding=before), plus)
            # The operator's own padding is the same on both sides.
            x = mint.nn.functional.pad(x, (before, after, before, after))
            return added(mint.nn.functional.conv2d(x, kernel, offset, stride=stride, padding=0), plus)

        return apply

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        kernel, offset = constant(weight, TIME_DTYPE), constant(bias, TIME_DTYPE)
        padding = (weight.shape[2] // 2, 0, 0)

        def apply(x: Map, frames: int, plus: Map | None = None) -> Map:
            videos = _gather_frames(self.cast(x, TIME_DTYPE), frames)
            y = mint.nn.functional.conv3d(videos, kernel, offset, padding=padding)
            return added(self.cast(_part_frames(y)), plus)

        return apply

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        matrix = constant(weight, self.dtype)
        offset = None if bias is None else constant(bias, self.dtype)
        return lambda x, plus=None: added(mint.nn.functional.linear(x, matrix, offset), plus)

    def geglu(self, weight: Host, bias: Host) -> Layer:
        # One product reads the tokens once; its halves are views.
        both, half = self.linear(weight, bias), weight.shape[0] // 2

        def apply(x: Array) -> Array:
            value, gate = mint.split(both(x), half, dim=-1)
            return value * self.gelu(gate)

        return apply

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        scale, shift = constant(weight, "float32"), constant(bias, "float32")

        def apply(x: Map, frames: int = 1) -> Map:
            videos = self.cast(_gather_frames(x, frames), "float32")
            y = mint.nn.functional.group_norm(videos, groups, scale, shift, eps)
            return _part_frames(self.cast(mint.nn.functional.silu(y) if silu else y))

        return apply

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        scale, shift = constant(weight, "float32"), constant(bias, "float32")
        shape = weight.shape
        return lambda x: self.cast(mint.nn.functional.layer_norm(self.cast(x, "float32"), shape, scale, shift, eps))

    def mix(self, factor: Host, flip: bool) -> Layer:
        share = mix_share(factor, flip)
        return lambda a, b: self.cast(share * self.cast(a, "float32") + (1 - share) * self.cast(b, "float32"))

    def silu(self, x: Array) -> Array:
        return self.cast(mint.nn.functional.silu(self.cast(x, "float32")))

    def gelu(self, x: Array) -> Array:
        return mint.nn.functional.gelu(x)

    def quick_gelu(self, x: Array) -> Array:
        x = self.cast(x, "float32")
        return self.cast(x * mint.nn.functional.sigmoid(1.702 * x))

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        width = q.shape[2] // heads
        if (
            self.dtype == "float32"
            or width % 16
            or width > FLASH_WIDTH
            or heads > FLASH_HEADS
            or max(q.shape[1], k.shape[1]) > FLASH_LENGTH
        ):
            return self._softmax_attention(q, k, v, heads)
        pieces = (slice(i, i + FLASH_BATCH) for i in range(0, q.shape[0], FLASH_BATCH))
        return self.concat(
            [
                ops.flash_attention_score(
                    q[piece], k[piece], v[piece], heads, scalar_value=width**-0.5, input_layout="BSH"
                )
                for piece in pieces
            ],
            0,
        )

    def temporal_attention(self, q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
        # Positions outnumber the sequences that flash attention takes. Neighbours attend apart just as heads do,
        # so groups of them pass for further heads: few calls instead of many, and longer rows change places.
        shape, length, channels = q.shape, q.shape[1], q.shape[2]
        group = max(g for g in range(1, max(1, FLASH_HEADS // heads) + 1) if length % g == 0)
        q, k, v = (x.reshape(x.shape[0], length // group, group * channels) for x in (q, k, v))
        return super().temporal_attention(q, k, v, heads * group, frames).reshape(shape)

    def add_rows(self, x: Array | Map, rows: Array) -> Array | Map:
        runs, channels = rows.shape
        if x.ndim == 3:
            y = x.reshape(runs, -1, channels) + rows.reshape(runs, 1, channels)
        else:
            y = x.reshape(runs, -1, channels, x.shape[2] * x.shape[3]) + rows.reshape(runs, 1, channels, 1)
        return y.reshape(x.shape)

    def _softmax_attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        """Attention by its definition, on as many heads or queries at a time as `SCORE_ELEMENTS` allows."""
        n, length, channels = q.shape
        width = channels // heads

        def split(x: Array) -> Array:
            return x.reshape(n, -1, heads, width).transpose(0, 2, 1, 3).reshape(n * heads, -1, width)

        # Scores are float32 from the start: in 16 bits those of a few tens would be off by tenths.
        q, k = (split(self.cast(x, "float32")) for x in (q, k))
        q, k, v = q * width**-0.5, k.transpose(0, 2, 1), split(v)
        batch = max(1, SCORE_ELEMENTS // (length * k.shape[2]))
        block = max(1, SCORE_ELEMENTS // k.shape[2])

        def attend(head: slice, rows: slice) -> Array:
            scores = mint.bmm(q[head, rows], k[head])
            return mint.bmm(self.cast(mint.nn.functional.softmax(scores, dim=-1, dtype=ms.float32)), v[head])

        def heads_from(i: int) -> Array:
            head = slice(i, i + batch)
            return self.concat([attend(head, slice(j, j + block)) for j in range(0, length, block)], 1)

        y = self.concat([heads_from(i) for i in range(0, n * heads, batch)], 0)
        return y.reshape(n, heads, length, width).transpose(0, 2, 1, 3).reshape(n, length, channels)


def _gather_frames(x: Map, frames: int) -> Array:
    """`(videos * frames, C, H, W)` to `(videos, C, frames, H, W)`."""
    n, channels, height, width = x.shape
    if frames == 1:  # a view, where the transpose would be followed by a copy
        return x.reshape(n, channels, 1, height, width)
    return x.reshape(n // frames, frames, channels, height, width).transpose(0, 2, 1, 3, 4)


def _part_frames(x: Array) -> Map:
    """`(videos, C, frames, H, W)` to `(videos * frames, C, H, W)`."""
    videos, channels, frames, height, width = x.shape
    if frames > 1:
        x = x.transpose(0, 2, 1, 3, 4)
    return x.reshape(videos * frames, channels, height, width)


def _claim(device: str) -> None:
    """Make the NPU this process's device: MindSpore wants that done once, before the first operator."""
    _, _, index = device.partition(":")
    try:
        if not index:  # what the program or its launcher has chosen stays
            if ms.get_current_device().device_target != "Ascend":
                ms.set_device("Ascend")
            return
        # MindSpore would notice at the first operator, when no other can be chosen any more.
        if int(index) >= (count := ms.device_context.ascend.device_count()):
            raise InputError(f"There is no {device!r}: this machine has {count} NPUs, counted from ascend:0.")
        ms.set_device("Ascend", int(index))  # may be said twice, of the same NPU
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise InputError(
            f"MindSpore cannot use {device!r} ({reason}). Without an NPU, its driver and CANN, choose device "
            "'cpu'. With them, choose the device before anything is computed: a process keeps its first one."
        ) from None
