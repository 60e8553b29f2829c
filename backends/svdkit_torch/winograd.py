"""Winograd's convolutions on a CPU, in float32, where oneDNN's own are direct: half of the time in the UNet.

Compiled loops (`svdkit_loops`) do all of it, in an operator of our own. In bfloat16 they compute in float32 too, since
transforms lose digits, and still take 24 ms where oneDNN's products of bfloat16 take 33; over time these are faster.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library

from svdkit import winograd
from svdkit.backend import Call, Shape, doubles
from svdkit_loops.winograd import Frames, Maps
from svdkit_loops.winograd import convolve as loops
from svdkit_loops.winograd import convolve_doubled as doubled

from .host import empty, memory_of
from .packed import operators
from .recording import unless_recorded

CHANNELS = 128
"""From how many on it pays: of 128, at 256x256, 220 ms instead of 350; of 64, 100 instead of 90."""
TEMPORAL_CHANNELS = 320
"""The same over time: of 320, for 8 maps of 32x32, 17 ms instead of 20; of 256, no gain."""


def suits(weight: Shape, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> bool:
    """Whether a convolution of such weights is done in tiles; else it is direct."""
    channels = TEMPORAL_CHANNELS if len(weight) == 5 else CHANNELS
    return padding == (1, 1) and winograd.suits(weight, stride) and min(weight[:2]) >= channels


def planned(call: Call, dtype: str) -> bool:
    """Whether a call that is planned for is done in tiles."""
    if dtype == "bfloat16" and call.kernel == "temporal_conv":
        return False
    if call.kernel == "upsample_conv2d" and not doubles(call):
        return False
    padding = call.options.get("padding", 2)
    sides = padding // 2, padding - padding // 2
    return call.options.get("frames", 0) != 1 and suits(call.weight, call.options.get("stride", 1), sides)


def convolve_doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Of maps `(N, H, W, I)` whose rows and columns are each doubled first: `(N, 2 H, 2 W, O)`, not to be recorded."""
    n, height, width, _ = x.shape
    result = empty(n, 2 * height, 2 * width, len(bias), dtype=x.dtype)
    doubled(memory_of(x), memory_of(weight), memory_of(bias), memory_of(result))
    return result


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, plus: Tensor | None, frames: int) -> Tensor:
    result = empty(*x.shape[:-1], len(bias), dtype=x.dtype)
    tiling = _tiling(x.shape, frames)

    def rows(y: Tensor) -> Any:
        return memory_of(y).reshape(*tiling.shape[:-1], -1)

    more = None if plus is None else rows(plus)
    loops(tiling, rows(x), memory_of(weight), memory_of(bias), rows(result), more)
    return result


def _tiling(shape: Any, frames: int) -> Maps | Frames:
    n, height, width, channels = shape
    return Frames.of((n, height * width, channels), frames) if frames else Maps.of((n, height, width, channels))


def _shape(x: Tensor, weight: Tensor, bias: Tensor, plus: Tensor | None, frames: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(bias))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.weight, _, plus, ctx.frames = inputs
    ctx.shape, ctx.adds = x.shape, plus is not None


def _gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """That of a direct convolution; over time, of frames by positions as maps."""
    weight, (n, height, width, channels), padding = ctx.weight.float(), ctx.shape, (1, 1)
    if ctx.frames:
        n, height, width = n // ctx.frames, ctx.frames, height * width
        weight, padding = weight[..., 0], (1, 0)
    maps = gradient.reshape(n, height, width, -1).permute(0, 3, 1, 2)
    found = _torch.nn.grad.conv2d_input((n, channels, height, width), weight, maps, padding=padding)
    return found.permute(0, 2, 3, 1).reshape(ctx.shape), None, None, gradient if ctx.adds else None, None


_torch: Any = torch  # whose part above is not typed
_register: Any = library
operators.define("winograd(Tensor x, Tensor weight, Tensor bias, Tensor? plus, int frames) -> Tensor")
operators.impl("winograd", _convolve, "CPU")
_register.register_fake("svdkit::winograd", _shape, lib=operators)
_register.register_autograd("svdkit::winograd", _gradient, setup_context=_keep, lib=operators)

convolve = unless_recorded(torch.ops.svdkit.winograd, _convolve)
"""`(N, H, W, I)`, weights as they are stored, bias in float32, what is added or None, and frames, to `(N, H, W, O)`:
of maps, which is 0 frames, by `(O, I, 3, 3)`, padded by 1; of videos of so many frames by `(O, I, 3, 1, 1)` along
these."""
