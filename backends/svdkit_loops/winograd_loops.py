"""The loops of Winograd's convolutions: tiles are cut and transformed, multiplied tap by tap, and put back.

The size of a tile is a constant of what is compiled. Tiles are cut to rows as `multiply_tile` takes them, those of one
tap after those of another; what is overwritten after the rows of a tap is between them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from .compiled import compiled
from .stored import Stored, pack_columns
from .tile import HEIGHT, LANES, WIDTH, block_of, blocks_of, multiply_tile, pack_rows
from .transform import INPUTS, RESULTS, transform, transform_weights

Floats = npt.NDArray[np.float32]
Loops = tuple[Callable[..., None], ...]
"""What cuts tiles, what puts them back, and what transforms weights."""

CHANNELS = 128
"""Channels that are cut at a time, so that a block of tiles stays in the nearest caches."""


def cut_size(taps: int, tiles: int, channels: int) -> int:
    """Numbers of so many tiles that are cut, and of what is overwritten after those of each tap."""
    return taps * (tiles * channels + HEIGHT + LANES)


@compiled
def multiply_taps(tiles: Floats, factors: Floats, products: Floats, count: int, width: int) -> None:
    """Of each tap so many tiles times `width` columns of weights; factors and products have WIDTH numbers more each."""
    taps, channels = len(factors), (factors.shape[1] - WIDTH) // width
    zeros, stride = np.zeros(WIDTH, np.float32), tiles.size // taps
    for tap in range(taps):
        for column in range(0, width, WIDTH):
            columns = tap * factors.shape[1] + channels * column
            for block in range(blocks_of(count)):
                first, height = block_of(count, block)
                rows, to = tap * stride + first * channels, tap * products.shape[1] + first * width + column
                multiply_tile(tiles, rows, height, channels, factors, columns, zeros, 0, products, to, width)


@cache
def over_maps(m: int) -> Loops:
    """For tiles of m x m results of maps."""
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
def over_frames(m: int) -> Loops:
    """For tiles of m frames."""
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
