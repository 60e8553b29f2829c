"""Kernels in Triton for NVIDIA GPUs, where torch's own move several times the bytes that they have to.

On an H200, 50 maps of 9216 positions and 320 channels in bfloat16, which take 0.15 ms to copy: group norm over all
frames with SiLU 0.56 ms instead of 3.5 (torch transposes channels-last maps and back), layer norm 0.18 instead of 0.69,
GEGLU's gate 1.4 instead of 3.2 for what takes 1.3 to copy.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16384
"""Elements that a program holds at a time."""
ROWS = 256
"""Rows whose moments a program takes."""


@triton.jit
def _moments(
    x_at, mean_at, square_at, positions, channels, per_block: tl.constexpr, step: tl.constexpr, wide: tl.constexpr
):
    """Mean of each channel over some rows, and its sum of squares around that; both are taken around the first row."""
    video, block, c = tl.program_id(1), tl.program_id(0), tl.arange(0, wide)
    x_at += video.to(tl.int64) * positions * channels
    begin = block * per_block
    count = tl.minimum(per_block, positions - begin)
    known = c < channels
    first = tl.load(x_at + begin.to(tl.int64) * channels + c, known, 0.0).to(tl.float32)
    total, squares = tl.zeros([wide], tl.float32), tl.zeros([wide], tl.float32)
    for i in range(0, per_block, step):
        row = begin + i + tl.arange(0, step)
        there = (row < positions)[:, None] & known[None]
        x = tl.load(x_at + row.to(tl.int64)[:, None] * channels + c[None], there, 0.0).to(tl.float32)
        away = tl.where(there, x - first[None], 0.0)
        total += tl.sum(away, 0)
        squares += tl.sum(away * away, 0)
    at = (video * tl.num_programs(0) + block) * channels + c
    tl.store(mean_at + at, first + total / count, known)
    tl.store(square_at + at, squares - total * total / count, known)


@triton.jit
def _scaled(
    x_at, y_at, scale_at, shift_at, positions, channels, silu: tl.constexpr, step: tl.constexpr, wide: tl.constexpr
):
    """`x * scale + shift`, of each channel of each video, and its SiLU."""
    video, c = tl.program_id(1), tl.arange(0, wide)
    row, known = tl.program_id(0) * step + tl.arange(0, step), c < channels
    at = (video.to(tl.int64) * positions + row)[:, None] * channels + c[None]
    there = (row < positions)[:, None] & known[None]
    scale = tl.load(scale_at + video * channels + c, known, 0.0)
    shift = tl.load(shift_at + video * channels + c, known, 0.0)
    y = tl.load(x_at + at, there, 0.0).to(tl.float32) * scale[None] + shift[None]
    if silu:
        y = y * tl.sigmoid(y)
    tl.store(y_at + at, y, there)


@triton.jit
def _layer_norm(x_at, y_at, weight_at, bias_at, rows, channels, eps, step: tl.constexpr, wide: tl.constexpr):
    row, c = tl.program_id(0) * step + tl.arange(0, step), tl.arange(0, wide)
    known = (c < channels)[None]
    at, there = row.to(tl.int64)[:, None] * channels + c[None], (row < rows)[:, None] & known
    x = tl.load(x_at + at, there, 0.0).to(tl.float32)
    centred = tl.where(there, x - tl.sum(x, 1)[:, None] / channels, 0.0)
    rate = tl.rsqrt(tl.sum(centred * centred, 1) / channels + eps)
    weight = tl.load(weight_at + c, c < channels, 0.0).to(tl.float32)
    bias = tl.load(bias_at + c, c < channels, 0.0).to(tl.float32)
    tl.store(y_at + at, centred * rate[:, None] * weight[None] + bias[None], there)


@triton.jit
def _gated(x_at, y_at, rows, channels, step: tl.constexpr, wide: tl.constexpr):
    """The first half of each row times the GELU of the second."""
    row, c = tl.program_id(0) * step + tl.arange(0, step), tl.program_id(1) * wide + tl.arange(0, wide)
    there = (row < rows)[:, None] & (c < channels)[None]
    at = row.to(tl.int64)[:, None] * channels + c[None]
    value_at = x_at + row.to(tl.int64)[:, None] * 2 * channels + c[None]
    value, gate = tl.load(value_at, there, 0.0).to(tl.float32), tl.load(value_at + channels, there, 0.0).to(tl.float32)
    tl.store(y_at + at, value * gate * 0.5 * (1 + tl.erf(gate * 0.7071067811865476)), there)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
    """Of rows `(V, P, C)`, to float32's digits inside, with SiLU or without."""
    x = x.contiguous()
    videos, positions, channels = x.shape
    wide, blocks = triton.next_power_of_2(channels), triton.cdiv(positions, ROWS)
    step = min(max(1, TILE // wide), ROWS)
    means, squares = torch.empty(2, videos, blocks, channels, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _moments[blocks, videos](x, means, squares, positions, channels, ROWS, step, wide)
    counts = torch.full((blocks, 1), float(ROWS), device=x.device)
    counts[-1] = positions - (blocks - 1) * ROWS

    def grouped(y: Tensor) -> Tensor:
        """Sums over blocks and the channels of a group, `(V, 1, C)`."""
        sums = y.sum(1).reshape(videos, groups, -1)
        return sums.sum(2, keepdim=True).expand_as(sums).reshape(videos, 1, channels)

    number = positions * channels // groups
    mean = grouped(means * counts) / number
    scale = torch.rsqrt(grouped(squares + counts * (means - mean).square()) / number + eps) * weight.float()
    shift = torch.addcmul(bias.float(), mean, scale, value=-1)
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _scaled[triton.cdiv(positions, step), videos](x, y, scale, shift, positions, channels, silu, step, wide)
    return y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Over the last axis."""
    x = x.contiguous()
    channels = x.shape[-1]
    rows, wide, y = x.numel() // channels, triton.next_power_of_2(channels), torch.empty_like(x)
    step = max(1, TILE // 4 // wide)
    with torch.cuda.device_of(x):
        _layer_norm[(triton.cdiv(rows, step),)](x, y, weight, bias, rows, channels, eps, step, wide)
    return y


def gated(x: Tensor) -> Tensor:
    """`value * gelu(gate)` of `(…, 2 C)`, value first: `(…, C)`."""
    x = x.contiguous()
    y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    channels = y.shape[-1]
    rows, wide = y.numel() // channels, min(1024, triton.next_power_of_2(channels))
    step = max(1, TILE // 4 // wide)
    with torch.cuda.device_of(x):
        _gated[triton.cdiv(rows, step), triton.cdiv(channels, wide)](x, y, rows, channels, step, wide)
    return y
