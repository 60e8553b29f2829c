"""Winograd's convolutions on a CPU, in float32, where oneDNN's own are direct: at 256x256, half of their time.

Tiles are transformed by products with small matrices (`svdkit.winograd`), and multiplied by MKL, which reaches 90 % of
the peak in batches. In 16 bits the transforms would lose digits, so there convolutions stay direct.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from svdkit import winograd
from svdkit.backend import Call, Host, Layer, Shape

CHANNELS = 256
"""From how many on it pays: of 128, at 256x256, 300 ms instead of 341, and three times the memory for tiles."""
TILE_ELEMENTS = 2**24
"""Numbers in the tiles that are transformed at a time: 64 MB."""


def tile(weight: Shape, stride: int, padding: tuple[int, int]) -> int:
    """The m of the tiles that suit a convolution of such weights; 0 for a direct one."""
    return winograd.tile(weight, CHANNELS, stride) if padding == (1, 1) else 0


def planned_tile(call: Call) -> int:
    """The same of a call that is planned for."""
    before_and_after = call.options.get("padding", 2)
    return tile(call.weight, call.options.get("stride", 1), (before_and_after // 2, (before_and_after + 1) // 2))


def conv2d(weight: Host, bias: Tensor | None, m: int) -> Layer:
    """A 3x3 convolution of `(N, H, W, C)`, padded by 1, in tiles of m x m results."""
    a, _, b = winograd.matrices(m)
    forth, back, factors = _float(np.kron(b, b)), _float(np.kron(a, a)), _factors(weight, m)
    taps, channels, out = factors.shape

    def apply(x: Tensor) -> Tensor:
        n, h, w, _ = x.shape
        down, across = -(-h // m), -(-w // m)
        x = F.pad(x, (0, 0, 1, 1 + across * m - w, 1, 1 + down * m - h))
        rows = max(1, TILE_ELEMENTS // (taps * n * across * max(channels, out)))
        bands = []
        for top in range(0, down, rows):
            band = x[:, top * m : min(top + rows, down) * m + 2]
            tiles = band.unfold(1, m + 2, m).unfold(2, m + 2, m).permute(4, 5, 0, 1, 2, 3)  # views
            y = _products(forth, tiles.reshape(taps, -1), factors, back)
            y = y.view(m, m, n, -1, across, out).permute(2, 3, 0, 4, 1, 5).reshape(n, -1, across * m, out)
            bands.append(y if bias is None else y.add_(bias))
        y = bands[0] if len(bands) == 1 else torch.cat(bands, 1)
        return y[:, :h, :w].contiguous()

    return apply


def temporal_conv(weight: Host, bias: Tensor, m: int) -> Layer:
    """A convolution over the frames of each video of `(N, H, W, C)`, in tiles of m frames."""
    factors = _factors(weight, m)
    _, channels, out = factors.shape

    def video(x: Tensor) -> Tensor:
        """Of its frames `(F, P, C)`."""
        frames = len(x)
        forth, back = _time_matrices(frames, m)
        step = max(1, TILE_ELEMENTS // (forth.shape[0] * max(channels, out)))
        pieces = [_products(forth, part.flatten(1), factors, back) for part in torch.split(x, step, 1)]
        pieces = [y.view(frames, -1, out).add_(bias) for y in pieces]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def apply(x: Tensor, frames: int) -> Tensor:
        n, h, w, _ = x.shape
        if frames == 1:  # zeros on either side: the middle tap is all that counts
            forth, back = _time_matrices(1, m)
            return F.linear(x, torch.einsum("t,tio->oi", back[0] * forth[:, 0], factors), bias)
        videos = [video(frames_of_it) for frames_of_it in x.reshape(-1, frames, h * w, channels)]
        return torch.cat(videos).view(n, h, w, out)

    return apply


def _products(forth: Tensor, tiles: Tensor, factors: Tensor, back: Tensor) -> Tensor:
    """The convolution of tiles, each column a number that is transformed along rows; factors `(taps, I, O)`."""
    taps, channels, _ = factors.shape
    y = torch.bmm((forth @ tiles).view(taps, -1, channels), factors)
    return back @ y.view(back.shape[1], -1)


def _factors(weight: Host, m: int) -> Tensor:
    return torch.from_numpy(winograd.transform_weights(np.asarray(weight, np.float32), m)).mT


def _float(matrix: winograd.Matrix) -> Tensor:
    return torch.from_numpy(matrix.astype(np.float32))


@cache
def _time_matrices(frames: int, m: int) -> tuple[Tensor, Tensor]:
    forth, back = winograd.time_matrices(1, frames, m)
    return _float(forth), _float(back)
