"""Matrix products with weights as they are stored; what follows is done on each tile.

A thread takes some rows and some columns of the result. It copies its rows so that the values a tile needs lie
together, lays out one panel of `WIDTH` columns after another (`stored`), and passes each over the rows while it is in
cache. Biases and gates are applied while a tile is. On two cores of Zen 4 this takes 200 to 225 GFLOP/s of 234,
MindSpore's and NumPy's products 150 to 200, the worse the fewer rows there are.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from . import scalar
from .compiled import compiled
from .stored import Stored, pack_columns
from .threads import allowed_processors, share
from .tile import HEIGHT, LANES, WIDTH, block_of, blocks_of, multiply_tile, pack_rows, store_tile

Floats = npt.NDArray[np.float32]

CHUNK = 64 * HEIGHT
"""Rows that a thread takes at a time: so many that laying out columns for them costs little, few enough for caches."""


def panels(out: int) -> int:
    """How many panels so many columns take."""
    return -(-out // WIDTH)


def multiply(x: Floats, weight: Stored, bias: Floats | None, out: Floats) -> None:
    """`x @ weight.T + bias` of `(M, I)` and `(O, I)`, into `(M, O)`."""
    _share_multiply(x, [weight], [np.zeros(len(weight), np.float32) if bias is None else bias], out)


def multiply_gated(x: Floats, value: Stored, b: Floats, gate: Stored, c: Floats, out: Floats) -> None:
    """`(x @ value.T + b) * gelu(x @ gate.T + c)` of `(M, I)` and `(O, I)`, into `(M, O)`."""
    _share_multiply(x, [value, gate], [b, c], out)


def _share_multiply(x: Floats, weights: Sequence[Stored], biases: Sequence[Floats], out: Floats) -> None:
    (rows, size), columns = x.shape, out.shape[1]
    shapes = [w.shape for w in weights], [b.shape for b in biases]
    if len(out) != rows or shapes != ([(columns, size)] * len(weights), [(columns,)] * len(weights)):
        raise ValueError(
            f"A product of {x.shape} with weights {shapes[0]} and biases {shapes[1]} does not go into {out.shape}."
        )
    count = panels(columns)
    padded = np.zeros((len(weights), count * WIDTH), np.float32)
    padded[:, :columns] = biases
    down, across = cells(rows, columns)

    def work(i: int, j: int) -> None:
        chunk = room_for("rows", (CHUNK * size + HEIGHT + LANES,))
        panel = room_for("panel", (len(weights) * size * WIDTH,))
        for cell in range(i, j):
            r, p = divmod(cell, across)
            top, bottom = part(rows, down, r)
            left, right = part(count, across, p)
            _multiply(x, weights[0], weights[-1], padded, out, chunk, panel, top, bottom, left, right)

    share(work, down * across, x.size // down * columns)


def multiply_size(rows: int, size: int, columns: int, gated: bool) -> int:
    """Numbers that all threads hold for a product."""
    down, _ = cells(rows, columns)
    each = min(CHUNK, -(-rows // down)) + (1 + gated) * WIDTH
    return len(allowed_processors()) * each * size


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


_own = threading.local()


def room_for(kind: str, shape: tuple[int, ...]) -> Floats:
    """An array that its thread writes before it reads it. Threads keep some: memory that is touched first is slow."""
    kept, size = _own.__dict__.setdefault("rooms", {}), math.prod(shape)
    if kind not in kept or kept[kind].size < size:
        kept[kind] = np.empty(size, np.float32)
    room: Floats = kept[kind][:size].reshape(shape)
    return room


@compiled
def _multiply(
    x: Floats,
    value: Stored,
    gate: Stored,
    bias: Floats,
    out: Floats,
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
    values_of_all, gates_of_all = tile.reshape(-1), gates.reshape(-1)
    chunks = -(-(bottom - top) // CHUNK)
    for c in range(chunks):
        first = top + (bottom - top) * c // chunks
        rows = top + (bottom - top) * (c + 1) // chunks - first
        for block in range(blocks_of(rows)):
            start, height = block_of(rows, block)
            pack_rows(x, (first + start) * size, size, height, size, chunk, start * size)
        for p in range(left, right):
            column, width = p * WIDTH, min(WIDTH, columns - p * WIDTH)
            pack_columns(value, column * size, size, width, size, panel, 0)
            if gated:
                pack_columns(gate, column * size, size, width, size, panel, size * WIDTH)
            for block in range(blocks_of(rows)):
                start, height = block_of(rows, block)
                to = (first + start) * columns + column
                if width == WIDTH and not gated:
                    multiply_tile(chunk, start * size, height, size, panel, 0, bias, column, out, to, columns)
                    continue
                multiply_tile(chunk, start * size, height, size, panel, 0, bias, column, tile, 0, WIDTH)
                if gated:
                    at, offset = size * WIDTH, bias.shape[1] + column
                    multiply_tile(chunk, start * size, height, size, panel, at, bias, offset, gates, 0, WIDTH)
                    for k in range(height * WIDTH):
                        values_of_all[k] *= scalar.gelu(gates_of_all[k])
                if width == WIDTH:
                    store_tile(tile, height, out, to, columns)
                else:
                    for i in range(height):
                        for j in range(width):
                            out[first + start + i, column + j] = tile[i, j]
