"""Matrix products with weights as they are stored; what follows is done on each tile.

A thread takes some rows and some columns of the result. It copies its rows so that the values a tile needs lie
together, lays out one panel of `WIDTH` columns after another (`stored`), and passes each over the rows while it is in
cache. Biases and gates are applied while a tile is. On two cores of Zen 4 this takes 200 to 225 GFLOP/s of 234,
MindSpore's and NumPy's products 150 to 200, the worse the fewer rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from . import scalar
from .compiled import compiled
from .room import room_for
from .stored import Stored, pack_columns
from .threads import allowed_processors, share
from .tile import HEIGHT, LANES, WIDTH, begin_tile, block_of, blocks_of, multiply_tile, pack_rows, place, store_tile

Floats = npt.NDArray[np.float32]

CHUNK = 64 * HEIGHT
"""Rows that a thread takes at a time: so many that laying out columns for them costs little, few enough for caches."""
DEPTH = 640
"""Inputs that a panel has at a time, so that it stays in near caches: 5120 at once take 8 % longer."""


def panels(out: int) -> int:
    """How many panels so many columns take."""
    return -(-out // WIDTH)


def multiply(x: Floats, weight: Stored, bias: Floats | None, out: Floats, plus: Floats | None = None) -> None:
    """`x @ weight.T + bias + plus` of `(M, I)`, `(O, I)` and `(M, O)`, into `(M, O)`."""
    _share_multiply(x, [weight], [np.zeros(len(weight), np.float32) if bias is None else bias], out, plus)


def multiply_gated(x: Floats, value: Stored, b: Floats, gate: Stored, c: Floats, out: Floats) -> None:
    """`(x @ value.T + b) * gelu(x @ gate.T + c)` of `(M, I)` and `(O, I)`, into `(M, O)`."""
    _share_multiply(x, [value, gate], [b, c], out, None)


def _share_multiply(
    x: Floats, weights: Sequence[Stored], biases: Sequence[Floats], out: Floats, plus: Floats | None
) -> None:
    (rows, size), columns = x.shape, out.shape[1]
    shapes = [w.shape for w in weights], [b.shape for b in biases], out.shape if plus is None else plus.shape
    if len(out) != rows or shapes != ([(columns, size)] * len(weights), [(columns,)] * len(weights), out.shape):
        raise ValueError(
            f"A product of {x.shape} with weights {shapes[0]}, biases {shapes[1]} and a sum with {shapes[2]} does not "
            f"go into {out.shape}."
        )
    count = panels(columns)
    padded = np.zeros((len(weights), count * WIDTH), np.float32)
    padded[:, :columns] = biases
    down, across = cells(rows, columns)
    adds, plus, depth = plus is not None, out if plus is None else plus, _depth(size, len(weights) == 2)

    def work(i: int, j: int) -> None:
        chunk = room_for("rows", (CHUNK * depth + HEIGHT + LANES,))
        panel = room_for("panel", (len(weights) * depth * WIDTH,))
        for cell in range(i, j):
            r, p = divmod(cell, across)
            top, bottom = part(rows, down, r)
            left, right = part(count, across, p)
            edges = top, bottom, left, right
            _multiply(x, weights[0], weights[-1], padded, plus, adds, out, depth, chunk, panel, *edges)

    share(work, down * across, x.size // down * columns)


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


@compiled
def _multiply(
    x: Floats,
    value: Stored,
    gate: Stored,
    bias: Floats,
    plus: Floats,
    adds: bool,
    out: Floats,
    depth: int,
    chunk: Floats,
    panel: Floats,
    top: int,
    bottom: int,
    left: int,
    right: int,
) -> None:
    """Of some rows and some panels; gated if there are two biases."""
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
                whole = width == WIDTH and not gated
                pack_columns(value, column * size + begin, size, width, length, panel, 0)
                if gated:
                    pack_columns(gate, column * size, size, width, size, panel, size * WIDTH)
                for block in range(blocks_of(rows)):
                    start, height = block_of(rows, block)
                    to = (first + start) * columns + column
                    so_far, step = place(bias, column), 0
                    if begin > 0 and whole:
                        so_far, step = place(out, to), columns
                    elif begin > 0:
                        begin_tile(zeros, 0, out, to, columns, height, width, tile)
                        so_far, step = place(tile, 0), WIDTH
                    elif adds:
                        begin_tile(bias, column, plus, to, columns, height, width, tile)
                        so_far, step = place(tile, 0), WIDTH
                    result, stride = (place(out, to), columns) if whole else (place(tile, 0), WIDTH)
                    x_rows = place(chunk, start * length)
                    multiply_tile(x_rows, height, length, place(panel, 0), so_far, step, result, stride)
                    if gated:
                        more, offset = place(panel, size * WIDTH), place(bias, bias.shape[1] + column)
                        multiply_tile(x_rows, height, size, more, offset, 0, place(gates, 0), WIDTH)
                        for k in range(height * WIDTH):
                            values_of_all[k] *= scalar.gelu(gates_of_all[k])
                    if not whole:
                        store_tile(tile, height, width, out, to, columns)
