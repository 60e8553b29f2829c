"""The loops of Winograd's convolutions: tiles are cut and transformed, multiplied tap by tap, and put back.

The size of a tile is a constant of what is compiled. Tiles are cut to rows as `multiply_tile` takes them, those of one
tap after those of another; what is overwritten after the rows of a tap is between them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from svdkit import winograd
from svdkit.winograd import ALL, ODD

from .compiled import compiled
from .room import Floats
from .stored import Stored, pack_columns
from .tile import HEIGHT, LANES, WIDTH, block_of, blocks_of, multiply_tile, pack_rows, place
from .transform import INPUTS, RESULTS, transform, transform_weights

Loops = tuple[Callable[..., None], ...]
"""What cuts tiles, what puts them back, and what multiplies them by weights that it transforms."""

CHANNELS = 128
"""Channels that are cut at a time, so that a block of tiles stays in the nearest caches."""


def cut_size(taps: int, tiles: int, channels: int) -> int:
    """Numbers of so many tiles that are cut, and of what is overwritten after those of each tap."""
    return taps * (tiles * channels + HEIGHT + LANES)


@compiled
def multiply_taps(
    tiles: Floats,
    begin: int,
    end: int,
    factors: Floats,
    at: int,
    apart: int,
    products: Floats,
    count: int,
    width: int,
    column: int,
    panels: int,
) -> None:
    """Adds to so many products of each tap, `(count, width)`, in some panels of columns, what some channels give.

    Args:
        tiles: as they are cut, of all channels.
        begin, end: the channels.
        factors, at, apart: where theirs of the first tap and panel are, and how far the next panel's.
        column, panels: of the products.
    """
    taps = len(products)
    tap_size, zeros = tiles.size // taps, np.zeros(WIDTH, np.float32)
    channels = (tap_size - HEIGHT - LANES) // count
    for tap in range(taps):
        for block in range(blocks_of(count)):
            first, height = block_of(count, block)
            rows = place(tiles, tap * tap_size + first * channels + begin * height)
            for p in range(panels):
                to = place(products, tap * products.shape[1] + first * width + column + p * WIDTH)
                so_far, step = (to, width) if begin else (place(zeros, 0), 0)
                columns = place(factors, tap * factors.shape[1] + at + p * apart)
                multiply_tile(rows, height, end - begin, columns, so_far, step, to, width)


@cache
def over_maps(m: int, rows: int = ALL, columns: int = ALL) -> Loops:
    """For tiles of m x m results of maps, or of `winograd.EVEN` or `ODD` results along both axes of doubled ones."""
    n, scale = winograd.products(m, rows), 1 if rows == ALL else 2
    below, right = int(rows == ODD), int(columns == ODD)  # where the first results are; inputs begin one before or here

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
                    image, position = divmod(start + begin + t, down * across)
                    top, left = position // across * m - 1 + below, position % across * m - 1 + right
                    inside, step = (max(0, -top), min(n, height - top)), width * channels
                    for b in range(n):
                        at, to = ((image * height + top) * width + left + b) * channels + c, b * CHANNELS
                        there = inside if 0 <= left + b < width else (0, 0)
                        stride = n * CHANNELS
                        transform(INPUTS, m, rows, x, at, step, there, None, None, half, to, stride, n, room, some)
                    for k in range(n):
                        at, step, to = k * n * CHANNELS, CHANNELS, (k * n * HEIGHT + t) * CHANNELS
                        stride = HEIGHT * CHANNELS
                        transform(INPUTS, m, rows, half, at, step, (0, n), None, None, whole, to, stride, n, room, some)
                for tap in range(n * n):
                    to = tap * tap_size + begin * channels + c * count
                    pack_rows(whole, tap * HEIGHT * CHANNELS, CHANNELS, count, some, out, to)

    @compiled
    def put(
        products: Floats, start: int, tiles: int, bias: Floats, plus: Floats | None, out: Floats, column: int
    ) -> None:
        _, height, width, columns = out.shape
        height, width, apart = height // scale, width // scale, columns * scale
        down, across, there, tap_size = -(-height // m), -(-width // m), len(bias), products.shape[1]
        channels = -(-there // WIDTH) * WIDTH
        half, room = np.empty((m, n, channels), np.float32), np.zeros((2, channels), np.float32)
        for t in range(tiles):
            image, position = divmod(start + t, down * across)
            top, left = position // across * m, position % across * m
            for b in range(n):
                at, step = b * tap_size + t * channels, n * tap_size
                to, stride = b * channels, n * channels
                transform(RESULTS, m, rows, products, at, step, (0, n), None, None, half, to, stride, m, room, channels)
            for k in range(min(m, height - top)):
                row = (image * height + top + k) * scale + below
                to, count = (row * width * scale + left * scale + right) * columns + column, min(m, width - left)
                at, step = k * n * channels, channels
                transform(RESULTS, m, rows, half, at, step, (0, n), bias, plus, out, to, apart, count, room, there)

    return cut, put, _multiply(m, rows, columns)


@cache
def over_frames(m: int) -> Loops:
    """For tiles of m frames."""
    n = winograd.products(m)

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
                    transform(INPUTS, m, ALL, x, at, step, inside, None, None, whole, to, stride, n, room, some)
                for tap in range(n):
                    to = tap * tap_size + begin * channels + c * count
                    pack_rows(whole, tap * HEIGHT * CHANNELS, CHANNELS, count, some, out, to)

    @compiled
    def put(
        products: Floats,
        frames: int,
        start: int,
        tiles: int,
        bias: Floats,
        plus: Floats | None,
        out: Floats,
        column: int,
    ) -> None:
        _, positions, columns = out.shape
        in_video, there, tap_size = -(-frames // m), len(bias), products.shape[1]
        channels = -(-there // WIDTH) * WIDTH
        room = np.zeros((2, channels), np.float32)
        for t in range(tiles):
            tile, position = divmod(start + t, positions)
            video, first = tile // in_video * frames, tile % in_video * m
            to, stride = ((video + first) * positions + position) * columns + column, positions * columns
            at, count = t * channels, min(m, frames - first)
            transform(RESULTS, m, ALL, products, at, tap_size, (0, n), bias, plus, out, to, stride, count, room, there)

    return cut, put, _multiply(m, ALL, None)


@cache
def _multiply(m: int, down: int, across: int | None) -> Callable[..., None]:
    size = 3 if across is None else 9

    @compiled
    def multiply(
        tiles: Floats,
        count: int,
        weight: Stored,
        first: int,
        last: int,
        factors: Floats,
        depth: int,
        group: int,
        made: bool,
        products: Floats,
    ) -> None:
        columns, channels, _ = weight.shape
        few, row, width = np.empty((LANES * size, WIDTH), np.float32), channels * size, (last - first) * WIDTH
        for begin in range(0, channels, depth):
            end = min(begin + depth, channels)
            for left in range(first, last, group):
                right = min(left + group, last)
                for panel in range(left, left if made else right):
                    there, at = min(WIDTH, columns - panel * WIDTH), (panel - first) * depth * WIDTH
                    for c in range(begin, end, LANES):
                        some, to = min(LANES, end - c), at + (c - begin) * WIDTH
                        pack_columns(weight, panel * WIDTH * row + c * size, row, there, some * size, few, 0)
                        transform_weights(m, down, across, few, some, factors, to, factors.shape[1])
                at, column = (left - first) * depth * WIDTH, (left - first) * WIDTH
                multiply_taps(
                    tiles, begin, end, factors, at, depth * WIDTH, products, count, width, column, right - left
                )

    return multiply
