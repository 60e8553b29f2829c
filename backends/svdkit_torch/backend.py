"""The kernels in torch. Maps are `(N, H, W, C)`, what torch calls channels last, so tokens and frames are views.

A weight that arrives as a torch tensor, and not as a NumPy array, is being trained: it is used as it is, and
gradients flow to it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from svdkit.backend import Array, Backend, Call, Device, Host, Layer, Map, added, mix_share
from svdkit.backend import F as Function
from svdkit.errors import InputError
from svdkit.memory import Memory
from svdkit.memory.malloc import keep_freed_memory
from svdkit_loops import elementwise, product
from svdkit_loops.attention import attend, attend_in_time
from svdkit_loops.stored import stored_size, to_float32

from . import memory, packed, winograd
from .devices import KINDS, default_dtype, find_device, found_devices
from .host import carrying, empty, memory_of, tensor_of
from .openmp import let_idle_threads_sleep
from .recording import is_recorded

SCORE_ELEMENTS = 2**26
"""Attention scores held at a time where torch has no kernel that needs none."""


class TorchBackend(Backend):
    """torch on a CPU, on NVIDIA (`cuda`) and Apple (`mps`) GPUs, and on Ascend through torch_npu (`npu`)."""

    name = "torch"
    devices = KINDS
    dtypes = ("float32", "bfloat16", "float16", "float64")
    views = memory.VIEWS

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        self._device = find_device(device)
        super().__init__(str(self._device), dtype or default_dtype(self._device))
        if (self._device.type, self.dtype) == ("mps", "float64"):
            raise InputError("Apple GPUs have no float64; choose float32, bfloat16 or float16.")
        self._dtype: torch.dtype = getattr(torch, self.dtype)
        if self._device.type == "cpu":
            keep_freed_memory()
        if self._takes_either():
            let_idle_threads_sleep()
        self._packs = self._device.type == "cpu" and packed.available(self._dtype)

    @property
    def capabilities(self) -> frozenset[str]:
        """`graph_capture` is CUDA graphs."""
        return frozenset({"compile", "gradients"} | ({"graph_capture"} if self._device.type == "cuda" else set()))

    def found_devices(self) -> Iterable[Device]:
        return found_devices()

    # Memory

    def scratch(self, call: Call) -> Sequence[int]:
        loops = self.dtype if self._takes_either() else ""
        return [memory.scratch(call, self._packs, loops)]

    @property
    def maps_weights(self) -> bool:
        """On a CPU in float32, where loops take them as they are."""
        return self._takes_loops()

    def held(self, weight: Host, stride: int = 1) -> int:
        in_loops = winograd.suits(weight.shape, stride) or (self._packs and weight.shape[2:] in ((), (1, 1)))
        return stored_size(weight) if self._takes_loops() and in_loops else super().held(weight)

    def memory(self) -> Memory:
        return memory.device_memory(self._device)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return memory.is_out_of_memory(error)

    # Arrays

    def array(self, values: Host, dtype: str | None = None) -> Array:
        # What enters as an array and not as a layer's weight, such as an embedding, is not trained.
        values = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        return tensor_of(values, copy=True).to(self._device, getattr(torch, dtype or self.dtype))

    def numpy(self, x: Array) -> Host:
        x = x.detach()
        return cast(Host, (x if x.dtype.itemsize > 2 else x.float()).cpu().numpy())

    def cast(self, x: Array, dtype: str | None = None) -> Array:
        # From another device too: components of one pipeline may be on several.
        return x.to(self._device, getattr(torch, dtype or self.dtype))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return torch.cat(list(arrays), axis)

    def all_finite(self, x: Array) -> bool:
        return bool(x.isfinite().all())

    def compile(self, function: Function) -> Function:
        # CUDA graphs hand out the same memory for every result, so each is copied.
        graphs = "graph_capture" in self.capabilities
        compiled = torch.compile(
            function, fullgraph=True, dynamic=False, mode="reduce-overhead" if graphs else "default"
        )

        def run(*args: Any) -> Array:
            try:
                # Each size of video is compiled once; torch would give up after eight.
                with torch._dynamo.config.patch(recompile_limit=256):
                    result = compiled(*args)
            except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
                reason = str(error).strip().splitlines()[0]
                raise InputError(f"torch cannot compile here: {reason} Leave `compile=False`.") from error
            return result.clone() if graphs else result

        return cast(Function, run)

    # Feature maps

    def to_map(self, x: Array) -> Map:
        return x.permute(0, 2, 3, 1).contiguous()

    def from_map(self, x: Map) -> Array:
        return x.permute(0, 3, 1, 2).contiguous()

    def tokens(self, x: Map) -> Array:
        return x.flatten(1, 2)

    def from_tokens(self, x: Array, height: int, width: int) -> Map:
        return x.unflatten(1, (height, width))

    def size(self, x: Map) -> tuple[int, int]:
        return x.shape[1], x.shape[2]

    def concat_channels(self, a: Map, b: Map) -> Map:
        return torch.cat([a, b], -1)

    def upsample(self, x: Map, height: int, width: int) -> Map:
        return F.interpolate(x.permute(0, 3, 1, 2), size=(height, width), mode="nearest").permute(0, 2, 3, 1)

    # Layers

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        before, after = padding
        if weight.shape[2] == stride == 1 and before == after == 0:
            return self.linear(weight[:, :, 0, 0], bias)
        loops = self._takes_either(weight, bias)
        if loops and winograd.suits(weight.shape, stride, padding):
            w, b = self._looped(weight), _numbers(np.zeros(len(weight)) if bias is None else bias)
            return lambda x, plus=None: winograd.convolve(x, w, b, plus, 0)
        if before == after:
            return self._conv2d(weight, bias, stride, (before, before))
        conv = self._conv2d(weight, bias, stride, (0, 0))
        return lambda x, plus=None: conv(F.pad(x, (0, 0, before, after, before, after)), plus)

    def upsample_conv2d(self, weight: Host, bias: Host) -> Layer:
        composed = cache(lambda: Backend.upsample_conv2d(self, weight, bias))
        if not (self._takes_either(weight, bias) and winograd.suits(weight.shape)):
            return composed()
        w, b = self._looped(weight), _numbers(bias)

        def apply(x: Map, height: int, width: int) -> Map:
            if is_recorded(x) or (height, width) != (2 * x.shape[1], 2 * x.shape[2]):
                return composed()(x, height, width)
            return winograd.convolve_doubled(x, w, b)

        return apply

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        out = weight.shape[0]
        if self._takes_loops(weight, bias) and winograd.suits(weight.shape):
            w, b = self._looped(weight), _numbers(bias)

            def in_tiles(x: Map, frames: int, plus: Map | None = None) -> Map:
                if frames == 1:  # beside which is nothing
                    return packed.linear(x, w[:, :, 1, 0, 0].contiguous(), b, plus, out)
                return winograd.convolve(x, w, b, plus, frames)

            return in_tiles
        # Frames by positions are an image too, so this is a 2D convolution of a view: 525 GFLOP/s, nothing copied.
        reach = weight.shape[2] // 2
        conv = self._conv2d(weight[..., 0], bias, 1, (reach, 0))

        def apply(x: Map, frames: int, plus: Map | None = None) -> Map:
            shape = -1, frames, x.shape[1] * x.shape[2]
            more = None if plus is None else plus.reshape(*shape, out)
            return conv(x.reshape(*shape, x.shape[3]), more).reshape(*x.shape[:3], out)

        return apply

    def _takes_loops(self, *weights: Any) -> bool:
        """Whether compiled loops may do what such weights are for; convolutions then are Winograd's."""
        return self._device.type == "cpu" and self._dtype is torch.float32 and not _trained(*weights)

    def _takes_either(self, *weights: Any, size: int = 2) -> bool:
        """The same, or, where the processor multiplies pairs of bfloat16, of so many channels in that."""
        bfloat16 = self._device.type == "cpu" and self._dtype is torch.bfloat16
        return self._takes_loops(*weights) or (bfloat16 and product.takes_pairs(size) and not _trained(*weights))

    def _conv2d(self, weight: Host, bias: Host | None, stride: int, padding: tuple[int, int]) -> Layer:
        b = self._weight(bias)
        if self._packs and not _trained(weight, bias):
            w = self._weight(weight, lambda w: packed.pack_conv2d(w, stride, padding))
            options = weight.shape[0], tuple(weight.shape[2:]), stride, padding

            def convolve(x: Tensor, plus: Tensor | None) -> Any:
                return packed.conv2d(x, w(), b(), plus, *options)
        else:
            w = self._weight(weight, lambda w: w.contiguous(memory_format=torch.channels_last))

            def convolve(x: Tensor, plus: Tensor | None) -> Any:
                return added(F.conv2d(x, w(), b(), stride, padding), plus)

        def apply(x: Map, plus: Map | None = None) -> Map:
            more = None if plus is None else plus.permute(0, 3, 1, 2)
            return convolve(x.permute(0, 3, 1, 2), more).permute(0, 2, 3, 1)

        return apply

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        if self._packs and not _trained(weight, bias):
            (w, b), out = self._packed(weight, bias, self._takes_loops()), weight.shape[0]
            return lambda x, plus=None: packed.linear(x, w, b, plus, out)
        v, c = self._weight(weight), self._weight(bias)
        return lambda x, plus=None: added(F.linear(x, v(), c()), plus)

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        w, b = self._weight(weight), self._weight(bias)
        # Where no loops are, torch's own is exact enough in 16 bits, but its gradients take three times as long.
        exact = self._device.type == "cpu" and (self._dtype.itemsize > 2 or _trained(weight))
        fuses = self._fuses(weight, bias)

        def apply(x: Map, frames: int = 1) -> Map:
            rows = x.reshape(x.shape[0] // frames, -1, x.shape[3])  # all positions of all frames of a video
            if fuses(x):
                return fused().group_norm(rows, groups, w(), b(), eps, silu).reshape(x.shape)
            normalise = _group_norm if exact else _native_group_norm
            y = normalise(rows, groups, w(), b(), eps).reshape(x.shape)
            return F.silu(y) if silu else y

        if not self._takes_either(weight, bias):
            return apply
        scale, shift = memory_of(_numbers(weight)), memory_of(_numbers(bias))

        def in_loops(x: Map, frames: int = 1) -> Map:
            if is_recorded(x):
                return apply(x, frames)
            y, shape = empty(*x.shape, dtype=x.dtype), (x.shape[0] // frames, -1, x.shape[3])
            before, after = memory_of(x).reshape(shape), memory_of(y).reshape(shape)
            elementwise.group_norm(before, scale, shift, groups, eps, silu, after)
            return y

        return in_loops

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        w, b = self._weight(weight), self._weight(bias)
        shape, fuses = tuple(weight.shape), self._fuses(weight, bias)

        def apply(x: Array) -> Array:
            return fused().layer_norm(x, w(), b(), eps) if fuses(x) else F.layer_norm(x, shape, w(), b(), eps)

        return apply

    def mix(self, factor: Host, flip: bool) -> Layer:
        if isinstance(factor, Tensor):
            return lambda a, b: torch.lerp(b, a, torch.sigmoid(-factor if flip else factor).to(a.dtype))
        share = mix_share(factor, flip)
        return lambda a, b: torch.lerp(b, a, share)

    def geglu(self, weight: Host, bias: Host) -> Layer:
        if self._packs and not _trained(weight, bias):
            out = weight.shape[0] // 2
            loops = self._takes_either(size=weight.shape[1])
            value, b = self._packed(weight[:out], bias[:out], loops)
            gate, c = self._packed(weight[out:], bias[out:], loops)
            return lambda x: packed.geglu(x, value, b, gate, c, out)
        wide, fuses = self.linear(weight, bias), self._fuses(weight, bias)

        def apply(x: Array) -> Array:
            y = wide(x)
            if fuses(y):
                return fused().gated(y)
            value, gate = y.chunk(2, -1)
            return value * F.gelu(gate)

        return apply

    def _fuses(self, *weights: Any) -> Callable[[Array], bool]:
        """Whether `fused` has a kernel for what a layer of these weights is given."""
        takes = self._device.type == "cuda" and self._dtype.itemsize <= 4 and not _trained(*weights)
        if not takes or importlib.util.find_spec("triton") is None:
            return lambda x: False
        return lambda x: not is_recorded(x)

    # Functions

    def silu(self, x: Array) -> Array:
        return F.silu(x)

    def gelu(self, x: Array) -> Array:
        return F.gelu(x)

    def quick_gelu(self, x: Array) -> Array:
        return x * torch.sigmoid(1.702 * x)

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        if self._takes_either(size=q.shape[2] // heads) and not is_recorded(q, k, v):
            y = empty(*q.shape, dtype=q.dtype)
            attend(memory_of(q), memory_of(k), memory_of(v), heads, memory_of(y))
            return y
        dtype = q.dtype
        if is_recorded(q, k, v) and self._device.type == "cpu":  # gradients in 16 bits take six times as long
            q, k, v = q.float(), k.float(), v.float()
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        rows = q.shape[2]
        if self._device.type not in ("cpu", "cuda"):
            rows = max(1, SCORE_ELEMENTS // (q.shape[0] * heads * k.shape[2]))
        blocks = [F.scaled_dot_product_attention(block, k, v) for block in q.split(rows, 2)]
        return (blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)).transpose(1, 2).flatten(2).to(dtype)

    def temporal_attention(self, q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
        if frames == 1:  # softmax over a single key is 1
            return v
        if self._takes_either() and not is_recorded(q, k, v):
            y = empty(*q.shape, dtype=q.dtype)
            attend_in_time(memory_of(q), memory_of(k), memory_of(v), heads, frames, memory_of(y))
            return y
        length, channels = q.shape[1:]
        # (videos, positions * heads, frames, channels of a head), as views
        q, k, v = (x.reshape(-1, frames, length * heads, channels // heads).transpose(1, 2) for x in (q, k, v))
        attends = _tiny_attention if self._device.type == "cpu" else F.scaled_dot_product_attention
        return attends(q, k, v).transpose(1, 2).reshape(-1, length, channels)

    def swap_axes(self, x: Array, videos: int) -> Array:
        return x.unflatten(0, (videos, -1)).transpose(1, 2).flatten(0, 1)

    def add_rows(self, x: Array | Map, rows: Array) -> Array | Map:
        return (x.reshape(rows.shape[0], -1, rows.shape[1]) + rows[:, None]).reshape(x.shape)

    # Weights

    def _packed(self, weight: Host, bias: Host | None, loops: bool) -> tuple[Tensor, Any]:
        """A linear layer's `(O, I)` and bias, if it has one, as `packed` takes them: as loops do, or for oneDNN."""
        if loops:
            return self._looped(weight), None if bias is None else _numbers(bias)
        return packed.pack_linear(tensor_of(weight).to(self._dtype)), self._weight(bias)()

    def _looped(self, weight: Host) -> Tensor:
        """A weight as loops take it: as it is stored if it is so in 16 bits, or in bfloat16 if they compute in that."""
        if self._dtype is torch.bfloat16:
            return carrying(tensor_of(weight).to(self._dtype))
        return carrying(tensor_of(weight if weight.dtype.itemsize == 2 else to_float32(weight)))

    def _weight(self, values: Any, arrange: Callable[[Tensor], Tensor] = lambda w: w) -> Callable[[], Any]:
        """A weight as a layer asks for it: arranged once, or, if it is being trained, whenever it is asked for."""
        if _trained(values):
            return lambda: arrange(values.to(self._device, self._dtype))
        fixed = None if values is None else arrange(tensor_of(values).to(self._device, self._dtype))
        return lambda: fixed


def fused() -> ModuleType:
    """The module of that name, which only CUDA has what it needs for."""
    return importlib.import_module(".fused", __package__)


def _trained(*weights: Any) -> bool:
    return any(isinstance(weight, Tensor) for weight in weights)


def _numbers(bias: Host) -> Tensor:
    """A bias, or what else is small, as loops take it."""
    return carrying(tensor_of(to_float32(bias)))


def _native_group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Torch's own, of rows `(V, P, C)`, as channels-last maps one position wide."""
    return torch.group_norm(x[:, :, None].permute(0, 3, 1, 2), groups, weight, bias, eps).permute(0, 2, 3, 1)


def _group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """To float32's digits on a CPU, of rows `(V, P, C)`, in operators that torch can record.

    There torch's own sums channels-last maps and their squares one after another: it is off by 2e-5 on the VAE's maps,
    and by 1e-3 to 3e-2 where the mean is 100 times the spread. This takes twice as long, 2 % of a decode.
    """

    def mean(x: Tensor) -> Tensor:
        """Over positions, pairwise, then over the channels of a group: `(V, 1, C)`."""
        groupwise = x.mean(1).reshape(x.shape[0], groups, -1)
        return groupwise.mean(2, keepdim=True).expand_as(groupwise).flatten(1)[:, None]

    centred = x - mean(x)
    return torch.addcmul(bias, centred, torch.rsqrt(mean(centred * centred) + eps) * weight)


def _tiny_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of many short sequences `(V, B, F, D)` on a CPU, whose flash kernel takes three times as long.

    Frame strides stay as they are: a batched product reads them in place, while torch would copy four axes.
    """
    dtype, scale = q.dtype, q.shape[-1] ** -0.5
    q, k, v = (x if dtype.itemsize > 2 else x.float() for x in (q, k, v))
    videos = [torch.bmm(torch.softmax(torch.bmm(a * scale, b.mT), -1), c) for a, b, c in zip(q, k, v, strict=True)]
    return torch.stack(videos).to(dtype)
