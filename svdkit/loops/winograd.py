"""Tiles of Winograd's convolutions (`svdkit.winograd`): cut out and transformed in one pass, and their products put back.

In between stands a batch of matrix products, which is the caller's:

    tiles_of_map(x, m, start, tiles)         # (taps, T, C), of T tiles from the start-th on
    products = tiles @ factors               # (taps, T, O)
    map_of_tiles(products, m, start, bias, out)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from svdkit import winograd

from .compiled import compiled
from .threads import share

Floats = npt.NDArray[np.float32]
Loops = tuple[Callable[..., None], Callable[..., None]]


def tiles_of_map(x: Floats, m: int, start: int, out: Floats) -> None:
    """`B d B'` of tiles of m x m results of maps `(N, H, W, C)` padded by 1, into `((m + 2)^2, T, C)`."""
    _, forth = _matrices(m)
    share(lambda i, j: _over_a_map(m)[0](x, forth, start, out, i, j), out.shape[1], out.shape[0] * out.shape[2])


def map_of_tiles(products: Floats, m: int, start: int, bias: Floats, out: Floats) -> None:
    """`A y A' + bias` of products `((m + 2)^2, T, O)`, each to its place in maps `(N, H, W, O)`."""
    back, _ = _matrices(m)
    taps, count, channels = products.shape
    share(lambda i, j: _over_a_map(m)[1](products, back, start, bias, out, i, j), count, taps * channels)


def tiles_of_frames(x: Floats, frames: int, m: int, start: int, out: Floats) -> None:
    """`B d` of tiles of m frames of videos `(V * F, P, C)`, into `(m + 2, T, C)`; tiles of one video are together."""
    _, forth = _matrices(m)
    share(lambda i, j: _over_time(m)[0](x, frames, forth, start, out, i, j), out.shape[1], out.shape[0] * out.shape[2])


def frames_of_tiles(products: Floats, frames: int, m: int, start: int, bias: Floats, out: Floats) -> None:
    """`A y + bias` of products `(m + 2, T, O)`, each to its place in videos `(V * F, P, O)`."""
    back, _ = _matrices(m)
    taps, count, channels = products.shape
    share(lambda i, j: _over_time(m)[1](products, frames, back, start, bias, out, i, j), count, taps * channels)


def tiles_in_map(x: tuple[int, ...], m: int) -> int:
    """How many tiles maps of the shape `(N, H, W, C)` have."""
    return x[0] * -(-x[1] // m) * -(-x[2] // m)


def tiles_in_frames(x: tuple[int, ...], frames: int, m: int) -> int:
    """How many tiles videos of the shape `(V * F, P, C)` have, at each position apart."""
    return x[0] // frames * -(-frames // m) * x[1]


@cache
def _matrices(m: int) -> tuple[Floats, Floats]:
    a, _, b = winograd.matrices(m)
    return a.astype(np.float32), b.astype(np.float32)


# The size of a tile is a constant of what is compiled, so that sums along it are written out.


@cache
def _over_a_map(m: int) -> Loops:
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
                    if 0 <= top + a < height and 0 <= left + b < width:
                        column[a] = x[image, top + a, left + b]
                    else:
                        column[a] = 0
                for k in range(n):
                    for c in range(channels):
                        y = np.float32(0)
                        for a in range(n):
                            y += matrix[k, a] * column[a, c]
                        half[k, b, c] = y
            for k in range(n):
                for l in range(n):
                    for c in range(channels):
                        y = np.float32(0)
                        for b in range(n):
                            y += matrix[l, b] * half[k, b, c]
                        out[k * n + l, t, c] = y

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
                for l in range(min(m, width - left)):
                    for c in range(channels):
                        y = bias[c]
                        for b in range(n):
                            y += matrix[l, b] * half[k, b, c]
                        out[image, top + k, left + l, c] = y

    return forth, back


@cache
def _over_time(m: int) -> Loops:
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
                if 0 <= first + a < frames:
                    column[a] = x[video + first + a, position]
                else:
                    column[a] = 0
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
