"""Winograd's convolutions (`svdkit.winograd`): tiles are cut out and transformed at once, multiplied, and put back.

Weights are transformed as often as tiles pass, a few columns at a time, and stay in cache: 7 to 13 cycles a pair of
channels, where the products of 100 tiles take 225. Transformed once and kept, they would be 3.6 to 8 times as large as
they are stored, and come from memory in every call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod

import numpy as np
import numpy.typing as npt
from attrs import frozen

from svdkit import winograd
from svdkit.backend import Call

from .compiled import compiled
from .product import cells, panels, part, room_for
from .stored import Stored, pack_columns
from .threads import allowed_processors, share
from .tile import HEIGHT, LANES, WIDTH, block_of, blocks_of, multiply_tile, pack_rows
from .transform import INPUTS, RESULTS, transform, transform_weights

Floats = npt.NDArray[np.float32]
Loops = tuple[Callable[..., None], ...]

TILES = 112
"""Tiles that a thread cuts at a time."""
CHANNELS = 128
"""Channels that it cuts at a time, so that a block of tiles stays in its nearest caches."""
FACTORS = 2**20
"""Transformed weights that it has at a time, unless those of a single panel are more: 4 MB."""


@frozen
class Maps:
    """Tiles of m x m results of maps `(N, H, W, C)` that are padded by 1; (m + 2)^2 taps."""

    shape: tuple[int, ...]
    m: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Maps:
        """Those that take the fewest products."""
        return cls(shape, winograd.tile(*shape[1:3]))

    @property
    def taps(self) -> int:
        """Inputs, and products, of a tile."""
        return (self.m + 2) ** 2

    @property
    def count(self) -> int:
        """Of tiles."""
        n, height, width, _ = self.shape
        return n * -(-height // self.m) * -(-width // self.m)

    def cut(self, x: Floats, start: int, count: int, out: Floats) -> None:
        """`B d B'` of tiles from the start-th on, as `multiply_tile` takes rows, one tap after another."""
        _over_maps(self.m)[0](x, start, count, out)

    def put(self, products: Floats, start: int, count: int, bias: Floats, out: Floats, column: int) -> None:
        """`A y A' + bias` of products `(count, O')` of each tap, to places in `(N, H, W, O)`, from a column on."""
        _over_maps(self.m)[1](products, start, count, bias, out, column)

    def factors(self, weight: Stored, first: int, last: int, out: Floats) -> None:
        """`G w G'` of weights `(O, I, 9)`, of panels from first to last, into `(panels, I, WIDTH)` of each tap."""
        _over_maps(self.m)[2](weight, first, last, out)


@frozen
class Frames:
    """Tiles of m frames of videos `(V * F, P, C)`, at each position apart; m + 2 taps."""

    shape: tuple[int, ...]
    frames: int
    m: int

    @classmethod
    def of(cls, shape: tuple[int, ...], frames: int) -> Frames:
        """Those that take the fewest products."""
        return cls(shape, frames, winograd.tile(frames))

    @property
    def taps(self) -> int:
        """Inputs, and products, of a tile."""
        return self.m + 2

    @property
    def count(self) -> int:
        """Of tiles."""
        n, positions, _ = self.shape
        return n // self.frames * -(-self.frames // self.m) * positions

    def cut(self, x: Floats, start: int, count: int, out: Floats) -> None:
        """`B d` of tiles from the start-th on, as `multiply_tile` takes rows, one tap after another."""
        _over_frames(self.m)[0](x, self.frames, start, count, out)

    def put(self, products: Floats, start: int, count: int, bias: Floats, out: Floats, column: int) -> None:
        """`A y + bias` of products `(count, O')` of each tap, to their places in `(V * F, P, O)`, from a column on."""
        _over_frames(self.m)[1](products, self.frames, start, count, bias, out, column)

    def factors(self, weight: Stored, first: int, last: int, out: Floats) -> None:
        """`G w` of weights `(O, I, 3)`, of panels from first to last, into `(panels, I, WIDTH)` of each tap."""
        _over_frames(self.m)[2](weight, first, last, out)


def convolve(tiling: Maps | Frames, x: Floats, weight: Stored, bias: Floats, out: Floats) -> None:
    """The convolution of `(…, I)` with weights `(O, I, 3, 3)` or `(O, I, 3, 1, 1)`, plus a bias, into `(…, O)`.

    A thread does some tiles from their cutting to their results, so that in between they stay in its cache.
    """
    channels, columns = x.shape[-1], out.shape[-1]
    fits = x.shape == tiling.shape and out.shape[:-1] == x.shape[:-1] and bias.shape == (columns,)
    taps = 9 if isinstance(tiling, Maps) else 3
    if not fits or weight.shape[:2] != (columns, channels) or prod(weight.shape[2:]) != taps:
        raise ValueError(
            f"{x.shape}, weights {weight.shape} and a bias of {bias.shape} do not fit tiles of {tiling.shape} "
            f"or {out.shape}."
        )
    weight, count = weight.reshape(columns, channels, taps), panels(columns)
    down, across = cells(tiling.count, columns)
    together = _together(tiling, channels)

    def work(i: int, j: int) -> None:
        for cell in range(i, j):
            r, p = divmod(cell, across)
            of_cell(*part(tiling.count, down, r), *part(count, across, p))

    def of_cell(top: int, bottom: int, left: int, right: int) -> None:
        runs, groups = -(-(bottom - top) // TILES), -(-(right - left) // together)
        for run in range(runs):
            start, end = (top + edge for edge in part(bottom - top, runs, run))
            tiles = room_for("tiles", (_cut_size(tiling, end - start, channels),))
            tiling.cut(x, start, end - start, tiles)
            for group in range(groups):
                first, last = (left + edge for edge in part(right - left, groups, group))
                column, width = first * WIDTH, (last - first) * WIDTH
                # Each tap's a little further, so that those of one place are not all on the same lines of the cache.
                factors = room_for("factors", (tiling.taps, channels * width + WIDTH))
                if run == 0 or groups > 1:
                    tiling.factors(weight, first, last, factors)
                products = room_for("products", (tiling.taps, (end - start) * width + WIDTH))
                _multiply(tiles, factors, products, end - start, width)
                tiling.put(products, start, end - start, bias[column : column + width], out, column)

    share(work, down * across, out.size)


def tiles_size(call: Call) -> int:
    """Numbers that all threads hold for a convolution that is planned for."""
    n, channels, height, width = call.inputs[0]
    columns = call.weight[0]
    tiling: Maps | Frames = Maps.of((n, height, width, channels))
    if call.kernel == "temporal_conv":
        tiling = Frames.of((n, height * width, channels), call.options["frames"])
    down, across = cells(tiling.count, columns)
    tiles = min(TILES, -(-tiling.count // down))
    together = min(_together(tiling, channels), -(-panels(columns) // across))
    each = _cut_size(tiling, tiles, channels) + tiling.taps * together * WIDTH * (channels + tiles)
    return len(allowed_processors()) * each


def _together(tiling: Maps | Frames, channels: int) -> int:
    """Panels whose weights are transformed at a time."""
    return max(1, FACTORS // (tiling.taps * channels * WIDTH))


def _cut_size(tiling: Maps | Frames, tiles: int, channels: int) -> int:
    """Numbers of so many tiles that are cut, and of what is overwritten after those of each tap."""
    return tiling.taps * (tiles * channels + HEIGHT + LANES)


@compiled
def _multiply(tiles: Floats, factors: Floats, products: Floats, count: int, width: int) -> None:
    taps, channels = len(factors), (factors.shape[1] - WIDTH) // width
    zeros, stride = np.zeros(WIDTH, np.float32), tiles.size // taps
    for tap in range(taps):
        for column in range(0, width, WIDTH):
            columns = tap * factors.shape[1] + channels * column
            for block in range(blocks_of(count)):
                first, height = block_of(count, block)
                rows, to = tap * stride + first * channels, tap * products.shape[1] + first * width + column
                multiply_tile(tiles, rows, height, channels, factors, columns, zeros, 0, products, to, width)


# The size of a tile is a constant of what is compiled.


@cache
def _over_maps(m: int) -> Loops:
    n = m + 2

    @compiled
    def cut(x: Floats, start: int, tiles: int, out: Floats) -> None:
        _, height, width, channels = x.shape
        down, across, tap_size = -(-height // m), -(-width // m), out.size // (n * n)
        half, room = np.empty((n, n, CHANNELS), np.float32), np.zeros((2, CHANNELS), np.float32)
        whole = np.empty((n * n, HEIGHT, CHANNELS), np.float32)
        for block in range(blocks_of(tiles)):
            begin, count = block_of(tiles, block)
            for c in range(0, channels, CHANNELS):
                some = min(CHANNELS, channels - c)
                for t in range(count):
                    image, place = divmod(start + begin + t, down * across)
                    top, left = place // across * m - 1, place % across * m - 1
                    inside, step = (max(0, -top), min(n, height - top)), width * channels
                    for b in range(n):
                        at, to = ((image * height + top) * width + left + b) * channels + c, b * CHANNELS
                        there = inside if 0 <= left + b < width else (0, 0)
                        transform(INPUTS, m, x, at, step, there, None, half, to, n * CHANNELS, n, room, some)
                    for k in range(n):
                        at, to, stride = k * n * CHANNELS, (k * n * HEIGHT + t) * CHANNELS, HEIGHT * CHANNELS
                        transform(INPUTS, m, half, at, CHANNELS, (0, n), None, whole, to, stride, n, room, some)
                for tap in range(n * n):
                    to = tap * tap_size + begin * channels + c * count
                    pack_rows(whole, tap * HEIGHT * CHANNELS, CHANNELS, count, some, out, to)

    @compiled
    def put(products: Floats, start: int, tiles: int, bias: Floats, out: Floats, column: int) -> None:
        _, height, width, columns = out.shape
        down, across, there, tap_size = -(-height // m), -(-width // m), len(bias), products.shape[1]
        channels = -(-there // WIDTH) * WIDTH
        half, room = np.empty((m, n, channels), np.float32), np.zeros((2, channels), np.float32)
        for t in range(tiles):
            image, place = divmod(start + t, down * across)
            top, left = place // across * m, place % across * m
            for b in range(n):
                at, step = b * tap_size + t * channels, n * tap_size
                transform(
                    RESULTS, m, products, at, step, (0, n), None, half, b * channels, n * channels, m, room, channels
                )
            for k in range(min(m, height - top)):
                at, to = k * n * channels, ((image * height + top + k) * width + left) * columns + column
                count = min(m, width - left)
                transform(RESULTS, m, half, at, channels, (0, n), bias, out, to, columns, count, room, there)

    return cut, put, _factors(m, 2)


@cache
def _over_frames(m: int) -> Loops:
    n = m + 2

    @compiled
    def cut(x: Floats, frames: int, start: int, tiles: int, out: Floats) -> None:
        _, positions, channels = x.shape
        in_video, tap_size = -(-frames // m), out.size // n
        whole, room = np.empty((n, HEIGHT, CHANNELS), np.float32), np.zeros((2, CHANNELS), np.float32)
        for block in range(blocks_of(tiles)):
            begin, count = block_of(tiles, block)
            for c in range(0, channels, CHANNELS):
                some = min(CHANNELS, channels - c)
                for t in range(count):
                    tile, position = divmod(start + begin + t, positions)
                    video, first = tile // in_video * frames, tile % in_video * m - 1
                    at, step = ((video + first) * positions + position) * channels + c, positions * channels
                    inside, to, stride = (max(0, -first), min(n, frames - first)), t * CHANNELS, HEIGHT * CHANNELS
                    transform(INPUTS, m, x, at, step, inside, None, whole, to, stride, n, room, some)
                for tap in range(n):
                    to = tap * tap_size + begin * channels + c * count
                    pack_rows(whole, tap * HEIGHT * CHANNELS, CHANNELS, count, some, out, to)

    @compiled
    def put(products: Floats, frames: int, start: int, tiles: int, bias: Floats, out: Floats, column: int) -> None:
        _, positions, columns = out.shape
        in_video, there, tap_size = -(-frames // m), len(bias), products.shape[1]
        channels = -(-there // WIDTH) * WIDTH
        room = np.zeros((2, channels), np.float32)
        for t in range(tiles):
            tile, position = divmod(start + t, positions)
            video, first = tile // in_video * frames, tile % in_video * m
            to, stride = ((video + first) * positions + position) * columns + column, positions * columns
            at, count = t * channels, min(m, frames - first)
            transform(RESULTS, m, products, at, tap_size, (0, n), bias, out, to, stride, count, room, there)

    return cut, put, _factors(m, 1)


@cache
def _factors(m: int, axes: int) -> Callable[..., None]:
    size = 3**axes

    @compiled
    def factors(weight: Stored, first: int, last: int, out: Floats) -> None:
        columns, channels, _ = weight.shape
        few = np.empty((LANES * size, WIDTH), np.float32)
        for panel in range(first, last):
            width = min(WIDTH, columns - panel * WIDTH)
            for c in range(0, channels, LANES):
                count, row = min(LANES, channels - c), channels * size
                pack_columns(weight, panel * WIDTH * row + c * size, row, width, count * size, few, 0)
                transform_weights(m, axes, few, count, out, ((panel - first) * channels + c) * WIDTH, out.shape[1])

    return factors
