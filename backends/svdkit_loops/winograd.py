"""Winograd's convolutions (`svdkit.winograd`): tiles are cut out and transformed at once, multiplied, and put back."""

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
from .product import held, multiply_each, panels, room_for
from .threads import allowed_processors, share
from .tile import WIDTH
from .transform import INPUTS, RESULTS, transform
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
        _over_maps(self.m)[0](x, start, out)

    def put(self, products: Floats, start: int, bias: Floats, out: Floats) -> None:
        """`A y A' + bias` of products `(taps, T, O)`, each to its place in `(N, H, W, O)`."""
        _over_maps(self.m)[1](products, start, bias, out)


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
        _over_frames(self.m)[0](x, self.frames, start, out)

    def put(self, products: Floats, start: int, bias: Floats, out: Floats) -> None:
        """`A y + bias` of products `(taps, T, O)`, each to its place in `(V * F, P, O)`."""
        _over_frames(self.m)[1](products, self.frames, start, bias, out)


def transform_weights(weight: npt.NDArray[Any], m: int) -> Floats:
    """`G w G'` of weights `(O, I, 3, 3)`, or `G w` of `(O, I, 3, 1, 1)`: of each tap, in panels (`product`)."""
    _, g, _ = winograd.matrices(m)
    taps = to_float32(weight).reshape(*weight.shape[:2], -1)
    matrix = (np.kron(g, g) if taps.shape[2] == 9 else g).astype(np.float32)
    out = np.empty((len(matrix), panels(len(taps)), taps.shape[1], WIDTH), np.float32)
    share(lambda i, j: _transform_weights(taps, matrix, out, i, j), out.shape[1], out[:, 0].size)
    return out


def transformed_size(weight: tuple[int, ...], m: int) -> int:
    """Numbers in what `transform_weights` makes of weights of a shape."""
    return held(weight[:2]) * (m + 2) ** (2 if len(weight) == 4 else 1)


def convolve(tiling: Maps | Frames, x: Floats, weights: Floats, bias: Floats, out: Floats) -> None:
    """The convolution of `(…, I)` with transformed weights, plus a bias, into `(…, O)`.

    A thread does some tiles from their cutting to their results, so that in between they stay in its cache.
    """
    if x.shape != tiling.shape or out.shape[:-1] != x.shape[:-1] or bias.shape != out.shape[-1:]:
        raise ValueError(f"{x.shape} and a bias of {bias.shape} do not fit tiles of {tiling.shape} or {out.shape}.")

    def work(i: int, j: int) -> None:
        for run in range(i, j):
            start = tiling.count * run // runs
            shape = tiling.taps, tiling.count * (run + 1) // runs - start
            tiles, products = (room_for(k, (*shape, y.shape[-1])) for k, y in (("tiles", x), ("products", out)))
            tiling.cut(x, start, tiles)
            multiply_each(tiles, weights, products)
            tiling.put(products, start, bias, out)

    runs = runs_of(tiling, x.shape[-1], out.shape[-1])
    share(work, runs, out.size)


def tiles_size(call: Call, m: int) -> int:
    """Numbers in the tiles and products that all threads hold for a convolution that is planned for."""
    n, channels, height, width = call.inputs[0]
    shape = n, height * width, channels
    over_time = call.kernel == "temporal_conv"
    tiling = Frames(shape, call.options["frames"], m) if over_time else Maps((n, height, width, channels), m)
    out = call.weight[0]
    tiles = -(-tiling.count // runs_of(tiling, channels, out))
    return len(allowed_processors()) * tiles * tiling.taps * (channels + out)


def runs_of(tiling: Maps | Frames, channels: int, out: int) -> int:
    """Into how many runs tiles are cut: as many for each thread."""
    threads = len(allowed_processors())
    # Weights pass once a run: more tiles where they do not stay in cache meanwhile, fewer where tiles can.
    tiles = 112 if tiling.taps * channels * out < 2**22 else 224
    return min(tiling.count, threads * -(-tiling.count // (threads * tiles)))


@compiled
def _transform_weights(taps: Floats, matrix: Floats, out: Floats, i: int, j: int) -> None:
    count, channels, size = taps.shape
    columns = np.zeros((size, WIDTH), np.float32)
    for panel in range(i, j):
        width = min(WIDTH, count - panel * WIDTH)
        columns[:, width:] = 0
        for c in range(channels):
            for lane in range(width):
                for a in range(size):
                    columns[a, lane] = taps[panel * WIDTH + lane, c, a]
            for k in range(len(matrix)):
                for lane in range(WIDTH):
                    y = np.float32(0)
                    for a in range(size):
                        y += matrix[k, a] * columns[a, lane]
                    out[k, panel, c, lane] = y


# The size of a tile is a constant of what is compiled.


@cache
def _over_maps(m: int) -> Loops:
    n = m + 2

    @compiled
    def cut(x: Floats, start: int, out: Floats) -> None:
        _, height, width, channels = x.shape
        down, across, tiles = -(-height // m), -(-width // m), out.shape[1]
        half, room = np.empty((n, n, channels), np.float32), np.zeros((2, channels), np.float32)
        for t in range(tiles):
            image, place = divmod(start + t, down * across)
            top, left = place // across * m - 1, place % across * m - 1
            first, last = max(0, -top), min(n, height - top)
            for b in range(n):
                at = ((image * height + top) * width + left + b) * channels
                there = last if 0 <= left + b < width else 0
                to, stride = b * channels, n * channels
                transform(INPUTS, m, x, at, width * channels, (first, there), None, half, to, stride, n, room, channels)
            for k in range(n):
                at, to, stride = k * n * channels, (k * n * tiles + t) * channels, tiles * channels
                transform(INPUTS, m, half, at, channels, (0, n), None, out, to, stride, n, room, channels)

    @compiled
    def put(products: Floats, start: int, bias: Floats, out: Floats) -> None:
        _, height, width, channels = out.shape
        down, across, tiles = -(-height // m), -(-width // m), products.shape[1]
        half, room = np.empty((m, n, channels), np.float32), np.zeros((2, channels), np.float32)
        for t in range(tiles):
            image, place = divmod(start + t, down * across)
            top, left = place // across * m, place % across * m
            for b in range(n):
                at, step = (b * tiles + t) * channels, n * tiles * channels
                to, stride = b * channels, n * channels
                transform(RESULTS, m, products, at, step, (0, n), None, half, to, stride, m, room, channels)
            for k in range(min(m, height - top)):
                at, to = k * n * channels, ((image * height + top + k) * width + left) * channels
                count = min(m, width - left)
                transform(RESULTS, m, half, at, channels, (0, n), bias, out, to, channels, count, room, channels)

    return cut, put


@cache
def _over_frames(m: int) -> Loops:
    n = m + 2

    @compiled
    def cut(x: Floats, frames: int, start: int, out: Floats) -> None:
        _, positions, channels = x.shape
        count, tiles = -(-frames // m), out.shape[1]
        room = np.zeros((2, channels), np.float32)
        for t in range(tiles):
            tile, position = divmod(start + t, positions)
            video, first = tile // count * frames, tile % count * m - 1
            at, step = ((video + first) * positions + position) * channels, positions * channels
            inside = max(0, -first), min(n, frames - first)
            transform(INPUTS, m, x, at, step, inside, None, out, t * channels, tiles * channels, n, room, channels)

    @compiled
    def put(products: Floats, frames: int, start: int, bias: Floats, out: Floats) -> None:
        _, positions, channels = out.shape
        count, tiles = -(-frames // m), products.shape[1]
        room = np.zeros((2, channels), np.float32)
        for t in range(tiles):
            tile, position = divmod(start + t, positions)
            video, first = tile // count * frames, tile % count * m
            to, stride = ((video + first) * positions + position) * channels, positions * channels
            at, step, there = t * channels, tiles * channels, min(m, frames - first)
            transform(RESULTS, m, products, at, step, (0, n), bias, out, to, stride, there, room, channels)

    return cut, put
