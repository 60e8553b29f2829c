"""Tiles of Winograd's convolutions (`svdkit.winograd`): cut out and transformed at once, and their products put back.

In between stands a batch of matrix products, which is the caller's:

    tiling = Maps(x.shape, m)
    tiling.cut(x, start, tiles)                    # (taps, T, C), of T tiles from the start-th on
    products = tiles @ factors                     # (taps, T, O)
    tiling.put(products, start, bias, out)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from svdkit import winograd
from svdkit.backend import Call

from .compiled import compiled
from .threads import share
from .weights import to_float32

Floats = npt.NDArray[np.float32]
Loops = tuple[Callable[..., None], Callable[..., None]]


@frozen
class Maps:
    """Tiles of m x m results of maps `(N, H, W, C)` that are padded by 1; (m + 2)^2 taps."""

    shape: tuple[int, ...]
    m: int

    @property
    def taps(self) -> int:
        """Inputs, and products, of a tile."""
        return (self.m + 2) ** 2

    @property
    def count(self) -> int:
        """Of tiles."""
        n, height, width, _ = self.shape
        return n * -(-height // self.m) * -(-width // self.m)

    def cut(self, x: Floats, start: int, out: Floats) -> None:
        """`B d B'` of tiles from the start-th on, into `(taps, T, C)`."""
        _, forth = _matrices(self.m)
        loop, _ = _over_maps(self.m)
        share(lambda i, j: loop(x, forth, start, out, i, j), out.shape[1], out[:, 0].size)

    def put(self, products: Floats, start: int, bias: Floats, out: Floats) -> None:
        """`A y A' + bias` of products `(taps, T, O)`, each to its place in `(N, H, W, O)`."""
        back, _ = _matrices(self.m)
        _, loop = _over_maps(self.m)
        share(lambda i, j: loop(products, back, start, bias, out, i, j), products.shape[1], products[:, 0].size)


@frozen
class Frames:
    """Tiles of m frames of videos `(V * F, P, C)`, at each position apart; m + 2 taps."""

    shape: tuple[int, ...]
    frames: int
    m: int

    @property
    def taps(self) -> int:
        """Inputs, and products, of a tile."""
        return self.m + 2

    @property
    def count(self) -> int:
        """Of tiles."""
        n, positions, _ = self.shape
        return n // self.frames * -(-self.frames // self.m) * positions

    def cut(self, x: Floats, start: int, out: Floats) -> None:
        """`B d` of tiles from the start-th on, into `(taps, T, C)`."""
        _, forth = _matrices(self.m)
        loop, _ = _over_frames(self.m)
        share(lambda i, j: loop(x, self.frames, forth, start, out, i, j), out.shape[1], out[:, 0].size)

    def put(self, products: Floats, start: int, bias: Floats, out: Floats) -> None:
        """`A y + bias` of products `(taps, T, O)`, each to its place in `(V * F, P, O)`."""
        back, _ = _matrices(self.m)
        _, loop = _over_frames(self.m)
        each = products[:, 0].size
        share(lambda i, j: loop(products, self.frames, back, start, bias, out, i, j), products.shape[1], each)


def transform_weights(weight: npt.NDArray[Any], m: int) -> Floats:
    """`G w G'` of weights `(O, I, 3, 3)`, as `((m + 2)^2, O, I)`; or `G w` of `(O, I, 3, 1, 1)`, as `(m + 2, O, I)`."""
    _, g, _ = winograd.matrices(m)
    taps = to_float32(weight).reshape(*weight.shape[:2], -1)
    matrix = (np.kron(g, g) if taps.shape[2] == 9 else g).astype(np.float32)
    out = np.empty((len(matrix), *weight.shape[:2]), np.float32)
    share(lambda i, j: _transform_weights(taps, matrix, out, i, j), len(taps), out[:, 0].size)
    return out


def tiling_of(call: Call, m: int) -> Maps | Frames:
    """Of a convolution that is planned for."""
    n, channels, height, width = call.inputs[0]
    if call.kernel == "conv2d":
        return Maps((n, height, width, channels), m)
    return Frames((n, height * width, channels), call.options["frames"], m)


def tiles_at_a_time(tiling: Maps | Frames, channels: int, elements: int) -> int:
    """How many tiles of so many channels have so many elements; all at most, and one at least."""
    return max(1, min(tiling.count, elements // (tiling.taps * channels)))


@cache
def _matrices(m: int) -> tuple[Floats, Floats]:
    a, _, b = winograd.matrices(m)
    return a.astype(np.float32), b.astype(np.float32)


@compiled
def _transform_weights(taps: Floats, matrix: Floats, out: Floats, i: int, j: int) -> None:
    _, channels, size = taps.shape
    columns = np.empty((size, channels), np.float32)
    for o in range(i, j):
        for c in range(channels):
            for a in range(size):
                columns[a, c] = taps[o, c, a]
        for k in range(len(matrix)):
            row = out[k, o]
            row[:] = 0
            for a in range(size):
                factor = matrix[k, a]
                for c in range(channels):
                    row[c] += factor * columns[a, c]


# The size of a tile is a constant of what is compiled, so that sums along it are written out.


@cache
def _over_maps(m: int) -> Loops:
    n = m + 2

    @compiled
    def forth(x: Floats, matrix: Floats, start: int, out: Floats, i: int, j: int) -> None:
        _, height, width, channels = x.shape
        down, across = -(-height // m), -(-width // m)
        column, half = np.empty((n, channels), np.float32), np.empty((n, n, channels), np.float32)
        for t in range(i, j):
            image, place = divmod(start + t, down * across)
            top, left = place // across * m - 1, place % across * m - 1
            for b in range(n):
                for a in range(n):
                    inside = 0 <= top + a < height and 0 <= left + b < width
                    for c in range(channels):  # Numba's assignment of a whole row takes twice as long
                        column[a, c] = x[image, top + a, left + b, c] if inside else np.float32(0)
                for k in range(n):
                    for c in range(channels):
                        y = np.float32(0)
                        for a in range(n):
                            y += matrix[k, a] * column[a, c]
                        half[k, b, c] = y
            for k in range(n):
                for q in range(n):
                    for c in range(channels):
                        y = np.float32(0)
                        for b in range(n):
                            y += matrix[q, b] * half[k, b, c]
                        out[k * n + q, t, c] = y

    @compiled
    def back(products: Floats, matrix: Floats, start: int, bias: Floats, out: Floats, i: int, j: int) -> None:
        _, height, width, channels = out.shape
        down, across = -(-height // m), -(-width // m)
        half = np.empty((m, n, channels), np.float32)
        for t in range(i, j):
            image, place = divmod(start + t, down * across)
            top, left = place // across * m, place % across * m
            for k in range(m):
                for b in range(n):
                    for c in range(channels):
                        y = np.float32(0)
                        for a in range(n):
                            y += matrix[k, a] * products[a * n + b, t, c]
                        half[k, b, c] = y
            for k in range(min(m, height - top)):
                for q in range(min(m, width - left)):
                    for c in range(channels):
                        y = bias[c]
                        for b in range(n):
                            y += matrix[q, b] * half[k, b, c]
                        out[image, top + k, left + q, c] = y

    return forth, back


@cache
def _over_frames(m: int) -> Loops:
    n = m + 2

    @compiled
    def forth(x: Floats, frames: int, matrix: Floats, start: int, out: Floats, i: int, j: int) -> None:
        _, positions, channels = x.shape
        count = -(-frames // m)
        column = np.empty((n, channels), np.float32)
        for t in range(i, j):
            tile, position = divmod(start + t, positions)
            video, first = tile // count * frames, tile % count * m - 1
            for a in range(n):
                inside = 0 <= first + a < frames
                for c in range(channels):
                    column[a, c] = x[video + first + a, position, c] if inside else np.float32(0)
            for k in range(n):
                for c in range(channels):
                    y = np.float32(0)
                    for a in range(n):
                        y += matrix[k, a] * column[a, c]
                    out[k, t, c] = y

    @compiled
    def back(
        products: Floats, frames: int, matrix: Floats, start: int, bias: Floats, out: Floats, i: int, j: int
    ) -> None:
        _, positions, channels = out.shape
        count = -(-frames // m)
        for t in range(i, j):
            tile, position = divmod(start + t, positions)
            video, first = tile // count * frames, tile % count * m
            for k in range(min(m, frames - first)):
                for c in range(channels):
                    y = bias[c]
                    for a in range(n):
                        y += matrix[k, a] * products[a, t, c]
                    out[video + first + k, position, c] = y

    return forth, back
