"""Winograd's convolutions (`svdkit.winograd`): tiles are cut out and transformed at once, multiplied, and put back.

Weights are transformed as often as tiles pass, a few columns at a time, and stay in cache: 7 to 13 cycles a pair of
channels, where the products of 100 tiles take 225. Transformed once and kept, they would be 3.6 to 8 times as large as
they are stored, and come from memory in every call.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from attrs import frozen

from svdkit import winograd
from svdkit.backend import Call

from .parts import cells, panels, part
from .room import Floats, room_for
from .stored import Stored
from .threads import allowed_processors, share
from .tile import WIDTH
from .winograd_loops import Loops, cut_size, over_frames, over_maps

TILES = 112
"""Tiles that a thread cuts at a time."""
FACTORS = 36 * 128 * WIDTH
"""Transformed weights that it has at a time: half a megabyte, beside which products stay in the nearer caches."""
FAR = 2**21
"""If tiles are more numbers than these, 8 MB, they come from far caches, and several panels are multiplied at once."""
KEPT = 2**20
"""If all that a thread needs are no more than these, they are made once, and all columns are done at a time."""


@frozen
class Maps:
    """Tiles of m x m results of maps `(N, H, W, C)` that are padded by 1.

    `rows` and `columns` say which results: `winograd.ALL`, or `EVEN` or `ODD` ones of maps that are doubled first.
    """

    shape: tuple[int, ...]
    m: int
    rows: int = winograd.ALL
    columns: int = winograd.ALL

    @classmethod
    def of(cls, shape: tuple[int, ...], rows: int = winograd.ALL, columns: int = winograd.ALL) -> Maps:
        """Those that take the fewest products."""
        return cls(shape, winograd.tile(*shape[1:3], results=rows), rows, columns)

    @property
    def taps(self) -> int:
        """Inputs, and products, of a tile."""
        return winograd.products(self.m, self.rows) ** 2

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of results, but for channels."""
        n, height, width, _ = self.shape
        scale = 1 if self.rows == winograd.ALL else 2
        return n, scale * height, scale * width

    @property
    def _loops(self) -> Loops:
        return over_maps(self.m, self.rows, self.columns)

    @property
    def count(self) -> int:
        """Of tiles."""
        n, height, width, _ = self.shape
        return n * -(-height // self.m) * -(-width // self.m)

    def cut(self, x: Floats, start: int, count: int, out: Floats) -> None:
        """`B d B'` of tiles from the start-th on, as `multiply_tile` takes rows, one tap after another."""
        self._loops[0](x, start, count, out)

    def put(
        self, products: Floats, start: int, count: int, bias: Floats, plus: Floats | None, out: Floats, column: int
    ) -> None:
        """`A y A' + bias + plus` of products `(count, O')` of each tap, to `(N, H, W, O)`, from a column on."""
        self._loops[1](products, start, count, bias, plus, out, column)

    def multiply(self, *arguments: Any) -> None:
        """As `winograd_loops.Loops` has it: by `G w G'` of weights `(O, I, 9)`."""
        self._loops[2](*arguments)


@frozen
class Frames:
    """Tiles of m frames of videos `(V * F, P, C)`, at each position apart."""

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
        return winograd.products(self.m)

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of results, but for channels."""
        return self.shape[:-1]

    @property
    def count(self) -> int:
        """Of tiles."""
        n, positions, _ = self.shape
        return n // self.frames * -(-self.frames // self.m) * positions

    def cut(self, x: Floats, start: int, count: int, out: Floats) -> None:
        """`B d` of tiles from the start-th on, as `multiply_tile` takes rows, one tap after another."""
        over_frames(self.m)[0](x, self.frames, start, count, out)

    def put(
        self, products: Floats, start: int, count: int, bias: Floats, plus: Floats | None, out: Floats, column: int
    ) -> None:
        """`A y + bias + plus` of products `(count, O')` of each tap, to `(V * F, P, O)`, from a column on."""
        over_frames(self.m)[1](products, self.frames, start, count, bias, plus, out, column)

    def multiply(self, *arguments: Any) -> None:
        """As `winograd_loops.Loops` has it: by `G w` of weights `(O, I, 3)`."""
        over_frames(self.m)[2](*arguments)


def convolve(
    tiling: Maps | Frames, x: Floats, weight: Stored, bias: Floats, out: Floats, plus: Floats | None = None
) -> None:
    """The convolution of `(…, I)` with weights `(O, I, 3, 3)` or `(O, I, 3, 1, 1)`, plus a bias, into `(…, O)`.

    Of this shape is what else is added, if there is any.

    A thread does some tiles from their cutting to their results, so that in between they stay in its cache.
    """
    channels, columns = x.shape[-1], out.shape[-1]
    fits = x.shape == tiling.shape and out.shape[:-1] == tiling.result and bias.shape == (columns,)
    fits = fits and (plus is None or plus.shape == out.shape)
    fits = fits and (isinstance(tiling, Maps) or len(x) % tiling.frames == 0)
    taps = 9 if isinstance(tiling, Maps) else 3
    if not fits or weight.shape[:2] != (columns, channels) or prod(weight.shape[2:]) != taps:
        raise ValueError(
            f"{x.shape}, weights {weight.shape} and a bias of {bias.shape} do not fit tiles of {tiling.shape} "
            f"or {out.shape}."
        )
    weight, count = weight.reshape(columns, channels, taps), panels(columns)
    down, across = cells(tiling.count, columns)

    def work(i: int, j: int) -> None:
        for cell in range(i, j):
            r, p = divmod(cell, across)
            of_cell(*part(tiling.count, down, r), *part(count, across, p))

    def of_cell(top: int, bottom: int, left: int, right: int) -> None:
        tiles_of_run, runs = _run(bottom - top)
        together, group, depth = _pieces(tiling, tiles_of_run, channels, right - left)
        # Each tap's a little further, so that those of one place are not all on the same lines of the cache.
        factors = room_for("factors", (tiling.taps, together * depth * WIDTH + WIDTH))
        for run in range(runs):
            start, end = (top + edge for edge in part(bottom - top, runs, run))
            tiles = room_for("tiles", (cut_size(tiling.taps, end - start, channels),))
            products = room_for("products", (tiling.taps, (end - start) * together * WIDTH + WIDTH))
            tiling.cut(x, start, end - start, tiles)
            for first in range(left, right, together):
                last = min(first + together, right)
                made = run > 0 and together == right - left and depth == channels
                tiling.multiply(tiles, end - start, weight, first, last, factors, depth, group, made, products)
                few, column = bias[first * WIDTH : last * WIDTH], first * WIDTH
                tiling.put(products, start, end - start, few, plus, out, column)

    share(work, down * across, out.size)


def convolve_doubled(x: Floats, weight: Stored, bias: Floats, out: Floats) -> None:
    """The same of maps `(N, H, W, I)` whose rows and columns are each doubled first, into `(N, 2 H, 2 W, O)`."""
    for rows, columns in product((winograd.EVEN, winograd.ODD), repeat=2):
        convolve(Maps.of(x.shape, rows, columns), x, weight, bias, out)


def tiles_size(call: Call) -> int:
    """Numbers that all threads hold for a convolution that is planned for."""
    n, channels, height, width = call.inputs[0]
    columns = call.weight[0]
    results = winograd.EVEN if call.kernel == "upsample_conv2d" else winograd.ALL
    tiling: Maps | Frames = Maps.of((n, height, width, channels), results, results)
    if call.kernel == "temporal_conv":
        tiling = Frames.of((n, height * width, channels), call.options["frames"])
    down, across = cells(tiling.count, columns)
    tiles, _ = _run(-(-tiling.count // down))
    together, _, depth = _pieces(tiling, tiles, channels, -(-panels(columns) // across))
    each = tiling.taps * WIDTH * (together * (depth + tiles) + 2)
    return len(allowed_processors()) * (cut_size(tiling.taps, tiles, channels) + each)


def _run(count: int) -> tuple[int, int]:
    """Of so many tiles those that are cut at a time, at most, and how many times that is."""
    runs = -(-count // TILES)
    return -(-count // runs), runs


def _pieces(tiling: Maps | Frames, tiles: int, channels: int, count: int) -> tuple[int, int, int]:
    """How many of so many panels are done at a time, how many of these multiplied at once, and channels at a time.

    Of 1920 to 640 channels at 16x16, single panels take 92 ms, four at once 80.
    """
    if tiling.taps * channels * count * WIDTH <= KEPT:
        return count, 1, channels
    if tiling.taps * channels * tiles > FAR:
        return min(count, 4), 4, min(channels, FACTORS // (2 * tiling.taps * WIDTH))
    return 1, 1, min(channels, FACTORS // (tiling.taps * WIDTH))
