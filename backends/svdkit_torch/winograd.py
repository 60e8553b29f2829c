"""Winograd's 3x3 convolution on a CPU, in float32, where oneDNN's own is direct: half of the time in the UNet.

Tiles are transformed by products with small matrices (`svdkit.winograd`), and multiplied by MKL, which reaches 90 % of
the peak in batches. In 16 bits the transforms would lose digits, so there convolutions stay direct. So do those over
time, where it is no faster: 21 ms for 8 maps of 32x32 and 320 channels, as direct.
"""

from __future__ import annotations

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
    return winograd.tile(weight, CHANNELS, stride) if padding == (1, 1) and len(weight) == 4 else 0


def planned_tile(call: Call) -> int:
    """The same of a call that is planned for."""
    padding = call.options["padding"]
    return tile(call.weight, call.options["stride"], (padding // 2, padding - padding // 2))


def conv2d(weight: Host, bias: Tensor | None, m: int) -> Layer:
    """A 3x3 convolution of `(N, H, W, C)`, padded by 1, in tiles of m x m results."""
    a, _, b = winograd.matrices(m)
    forth, back = (torch.from_numpy(np.kron(x, x).astype(np.float32)) for x in (b, a))
    # Transposed in memory: a product with a transposed view is a fifth slower where maps are small.
    factors = torch.from_numpy(winograd.transform_weights(weight, m)).mT.contiguous()
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
            y = torch.bmm((forth @ tiles.reshape(taps, -1)).view(taps, -1, channels), factors)
            y = (back @ y.view(taps, -1)).view(m, m, n, -1, across, out)
            y = y.permute(2, 3, 0, 4, 1, 5).reshape(n, -1, across * m, out)
            bands.append(y if bias is None else y.add_(bias))
        y = bands[0] if len(bands) == 1 else torch.cat(bands, 1)
        return y[:, :h, :w].contiguous()

    return apply
