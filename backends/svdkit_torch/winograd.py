"""Winograd's convolutions on a CPU, in float32, where oneDNN's own are direct: half of the time in the UNet.

Compiled loops (`svdkit_loops`) do all of it. While torch records what is done, for gradients or to compile it, its own
operators do the same. In 16 bits the transforms would lose digits, so there convolutions stay direct.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from svdkit import winograd
from svdkit.backend import Call, Host, Layer, Shape
from svdkit_loops.weights import to_float32
from svdkit_loops.winograd import Frames, Maps, convolve, transform_weights

from .packed import columns, linear
from .recording import is_recorded

CHANNELS = 128
"""From how many on it pays: of 128, at 256x256, 220 ms instead of 350; of 64, 100 instead of 90."""
TEMPORAL_CHANNELS = 320
"""The same over time: of 320, for 8 maps of 32x32, 17 ms instead of 20; of 256, no gain."""


def tile(weight: Shape, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> int:
    """The m of the tiles that suit a convolution of such weights; 0 for a direct one."""
    over_time = len(weight) == 5
    m = winograd.tile(weight, TEMPORAL_CHANNELS if over_time else CHANNELS, stride) if padding == (1, 1) else 0
    return 0 if over_time and m == 2 else m  # over time tiles of two frames save less than they cost


def planned_tile(call: Call) -> int:
    """The same of a call that is planned for."""
    padding = call.options.get("padding", 2)
    return tile(call.weight, call.options.get("stride", 1), (padding // 2, padding - padding // 2))


def conv2d(weight: Host, bias: Host | None, m: int) -> Layer:
    """A 3x3 convolution of `(N, H, W, C)`, padded by 1, in tiles of m x m results."""
    weights, offset = torch.from_numpy(transform_weights(weight, m)), _offset(bias, len(weight))

    def apply(x: Tensor) -> Tensor:
        if is_recorded(x):
            return _recorded(x, columns(weights, len(offset)), offset, m)
        return _convolve(Maps(tuple(x.shape), m), x, weights, offset)

    return apply


def temporal_conv(weight: Host, bias: Host, m: int) -> Layer:
    """A convolution over 3 frames of videos `(V * F, H, W, C)`, in tiles of m frames."""
    weights, offset = torch.from_numpy(transform_weights(weight, m)), _offset(bias, len(weight))
    alone = torch.from_numpy(winograd.of_one_frame(m)).float()

    def apply(x: Tensor, frames: int) -> Tensor:
        rows, out = x.flatten(1, 2), len(offset)
        if frames == 1:
            y: Tensor = linear(x, torch.tensordot(alone, weights, 1), offset, out)
        elif is_recorded(x):
            y = _recorded_in_time(rows, frames, columns(weights, out), offset, m)
        else:
            y = _convolve(Frames(tuple(rows.shape), frames, m), rows, weights, offset)
        return y.reshape(*x.shape[:3], -1)

    return apply


def _offset(bias: Host | None, out: int) -> Tensor:
    return torch.from_numpy(np.zeros(out, np.float32) if bias is None else np.array(to_float32(bias)))


def _convolve(tiling: Maps | Frames, x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    result = torch.empty(*x.shape[:-1], len(bias))
    convolve(tiling, x.detach().contiguous().numpy(), weights.numpy(), bias.numpy(), result.numpy())
    return result


def _recorded(x: Tensor, factors: Tensor, bias: Tensor, m: int) -> Tensor:
    n, h, w, channels = x.shape
    down, across = -(-h // m), -(-w // m)
    x = F.pad(x, (0, 0, 1, 1 + across * m - w, 1, 1 + down * m - h))
    tiles = x.unfold(1, m + 2, m).unfold(2, m + 2, m).permute(4, 5, 0, 1, 2, 3)
    a, _, b = (torch.from_numpy(matrix).float() for matrix in winograd.matrices(m))
    y = torch.bmm((torch.kron(b, b) @ tiles.reshape((m + 2) ** 2, -1)).view((m + 2) ** 2, -1, channels), factors)
    y = (torch.kron(a, a) @ y.view((m + 2) ** 2, -1)).view(m, m, n, down, across, -1)
    return y.permute(2, 3, 0, 4, 1, 5).reshape(n, down * m, across * m, -1)[:, :h, :w] + bias


def _recorded_in_time(x: Tensor, frames: int, factors: Tensor, bias: Tensor, m: int) -> Tensor:
    count, (_, positions, channels) = -(-frames // m), x.shape
    x = F.pad(x.reshape(-1, frames, positions, channels), (0, 0, 0, 0, 1, 1 + count * m - frames))
    tiles = x.unfold(1, m + 2, m).permute(4, 0, 1, 2, 3)
    a, _, b = (torch.from_numpy(matrix).float() for matrix in winograd.matrices(m))
    y = torch.bmm((b @ tiles.reshape(m + 2, -1)).view(m + 2, -1, channels), factors)
    y = (a @ y.view(m + 2, -1)).view(m, -1, count, positions, factors.shape[2])
    return y.permute(1, 2, 0, 3, 4).flatten(1, 2)[:, :frames].flatten(0, 1) + bias
