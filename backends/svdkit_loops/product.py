"""Matrix products with weights as they are stored; what follows is done on each tile.

A thread takes some rows and some columns of the result. It copies its rows so that the values a tile needs lie
together, lays out one panel of `WIDTH` columns after another (`stored`), and passes each over the rows while it is in
cache. Biases and gates are applied while a tile is. On two cores of Zen 4 this takes 200 to 225 GFLOP/s of 234,
MindSpore's and NumPy's products 150 to 200, the worse the fewer rows there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from . import scalar
from .compiled import compiled
from .numbers import HAS_PAIRS
from .room import Floats, room_for
from .stored import Stored, pack_columns
from .threads import MULTIPLIED, allowed_processors, share
from .tile import HEIGHT, LANES, WIDTH, begin_tile, block_of, blocks_of, multiply_tile, pack_rows, place, store_tile

CHUNK = 64 * HEIGHT
"""Rows that a thread takes at a time: so many that laying out columns for them costs little, few enough for caches."""
DEPTH = 640
"""Inputs that a panel has at a time, so that it stays in near caches: 5120 at once take 8 % longer."""


def panels(out: int) -> int:
    """How many panels so many columns take."""
    return -(-out // WIDTH)


def multiply(x: Stored, weight: Stored, bias: Floats | None, out: Stored, plus: Stored | None = None) -> None:
    """`x @ weight.T + bias + plus` of `(M, I)`, `(O, I)` and `(M, O)`, into `(M, O)`.

    Of float32 all, but weights; or of bfloat16, but biases, where `takes_pairs` says so.
    """
    _share_multiply(x, [weight], [np.zeros(len(weight), np.float32) if bias is None else bias], out, plus)


def multiply_gated(x: Stored, value: Stored, b: Floats, gate: Stored, c: Floats, out: Stored) -> None:
    """`(x @ value.T + b) * gelu(x @ gate.T + c)` of `(M, I)` and `(O, I)`, into `(M, O)`."""
    _share_multiply(x, [value, gate], [b, c], out, None)


def takes_pairs(size: int) -> bool:
    """Whether so many inputs of bfloat16 can be multiplied as they are."""
    return HAS_PAIRS and size % 2 == 0


def _share_multiply(
    x: Stored, weights: Sequence[Stored], biases: Sequence[Floats], out: Stored, plus: Stored | None
) -> None:
    (rows, size), columns = x.shape, out.shape[1]
    shapes = [w.shape for w in weights], [b.shape for b in biases], out.shape if plus is None else plus.shape
    if len(out) != rows or shapes != ([(columns, size)] * len(weights), [(columns,)] * len(weights), out.shape):
        raise ValueError(
            f"A product of {x.shape} with weights {shapes[0]}, biases {shapes[1]} and a sum with {shapes[2]} does not "
            f"go into {out.shape}."
        )
    halves = x.dtype == np.int16
    if not size or (halves and (not takes_pairs(size) or any(w.dtype != np.int16 for w in weights))):
        raise ValueError(f"A product of {size} inputs of {x.dtype} with weights of {weights[0].dtype} cannot be done.")
    if not out.size:
        return
    count = panels(columns)
    padded = np.zeros((len(weights), count * WIDTH), np.float32)
    padded[:, :columns] = biases
    down, across = cells(rows, columns)
    if halves:
        x, weights, size = x.view(np.int32), [w.view(np.int32) for w in weights], size // 2
    # Sums are kept in float32 until they are whole.
    depth = size if halves else _depth(size, len(weights) == 2)
    adds, plus, loop = plus is not None, out if plus is None else plus, _loop(halves)

    def work(i: int, j: int) -> None:
        chunk = room_for("rows", (CHUNK * depth + HEIGHT + LANES,)).view(x.dtype)
        panel = room_for("panel", (len(weights) * depth * WIDTH,)).view(x.dtype)
        for cell in range(i, j):
            r, p = divmod(cell, across)
            edges = *part(rows, down, r), *part(count, across, p)
            loop(x, weights[0], weights[-1], padded, plus, adds, out, depth, chunk, panel, *edges)

    share(work, down * across, x.size // down * columns // MULTIPLIED)


def multiply_size(rows: int, size: int, columns: int, gated: bool) -> int:
    """Numbers that all threads hold for a product."""
    down, _ = cells(rows, columns)
    each = min(CHUNK, -(-rows // down)) + (1 + gated) * WIDTH
    return len(allowed_processors()) * each * _depth(size, gated)


def _depth(size: int, gated: bool) -> int:
    """Inputs that are multiplied at a time; of gated layers all, since their sums are not kept."""
    return size if gated else min(size, DEPTH)


def cells(rows: int, columns: int) -> tuple[int, int]:
    """Into how many parts rows and panels are cut, so that each thread has one and little is laid out twice.

    Each part of the rows lays out all columns that are multiplied with it, and each part of the columns all rows.
    """
    threads, ways = len(allowed_processors()), []
    for across in range(1, min(panels(columns), threads) + 1):
        down = min(-(-threads // across), blocks_of(rows))
        idle = max(0, threads - down * across)
        ways.append((idle, across * rows + down * columns, down, across))
    return min(ways)[2:]


def part(count: int, parts: int, i: int) -> tuple[int, int]:
    """The i-th of so many parts that are all but equal: where it begins and ends."""
    return count * i // parts, count * (i + 1) // parts


@cache
def _loop(halves: bool) -> Callable[..., None]:
    """What multiplies some rows by some panels, in float32 or in pairs of bfloat16; gated if there are two biases."""

    @compiled
    def multiply(
        x: Stored,
        value: Stored,
        gate: Stored,
        bias: Floats,
        plus: Stored,
        adds: bool,
        out: Stored,
        depth: int,
        chunk: Stored,
        panel: Stored,
        top: int,
        bottom: int,
        left: int,
        right: int,
    ) -> None:
        size, columns, gated = x.shape[1], out.shape[1], len(bias) == 2
        tile, gates = np.empty((HEIGHT, WIDTH), np.float32), np.empty((HEIGHT, WIDTH), np.float32)
        values_of_all, gates_of_all, zeros = tile.reshape(-1), gates.reshape(-1), np.zeros((1, WIDTH), np.float32)
        chunks = -(-(bottom - top) // CHUNK)
        for c in range(chunks):
            first = top + (bottom - top) * c // chunks
            rows = top + (bottom - top) * (c + 1) // chunks - first
            for begin in range(0, size, depth):
                length = min(depth, size - begin)
                for block in range(blocks_of(rows)):
                    start, height = block_of(rows, block)
                    pack_rows(x, (first + start) * size + begin, size, height, length, chunk, start * length)
                for p in range(left, right):
                    column, width = p * WIDTH, min(WIDTH, columns - p * WIDTH)
                    pack_columns(value, column * size + begin, size, width, length, panel, 0)
                    if gated:
                        pack_columns(gate, column * size, size, width, size, panel, size * WIDTH)
                    for block in range(blocks_of(rows)):
                        start, height = block_of(rows, block)
                        to, x_rows = (first + start) * columns + column, place(chunk, start * length)
                        so_far, step = place(bias, column), 0
                        if begin > 0:
                            begin_tile(zeros, 0, out, to, columns, height, width, tile)
                        elif adds:
                            begin_tile(bias, column, plus, to, columns, height, width, tile)
                        if begin > 0 or adds:
                            so_far, step = place(tile, 0), WIDTH
                        result, stride, direct = place(tile, 0), WIDTH, False
                        if not halves and not gated and width == WIDTH:
                            result, stride, direct = place(out, to), columns, True
                        multiply_tile(x_rows, height, length, place(panel, 0), so_far, step, result, stride)
                        if gated:
                            more, offset = place(panel, size * WIDTH), place(bias, bias.shape[1] + column)
                            multiply_tile(x_rows, height, size, more, offset, 0, place(gates, 0), WIDTH)
                            for k in range(height * WIDTH):
                                values_of_all[k] *= scalar.gelu(gates_of_all[k])
                        if not direct:
                            store_tile(tile, height, width, out, to, columns)

    return multiply
