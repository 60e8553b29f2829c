"""Matrix products with weights that lie as tiles of them are computed, made so once; what follows is done on each tile.

Weights are in *panels*: `WIDTH` columns of the result beside each other, one input after another. A thread takes some
rows, copies them so that the values a tile needs lie together (they then stay in its cache), and passes all panels over
them. Biases and gates are applied while a tile is in cache. On two cores of Zen 4 this takes 200 to 225 GFLOP/s of 234,
MindSpore's and NumPy's products 150 to 200, the worse the fewer rows there are.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from . import scalar
from .compiled import compiled
from .threads import PIECES, allowed_processors, share
from .tile import HEIGHT, LANES, WIDTH, block_of, blocks_of, multiply_tile, pack_rows, store_tile
from .weights import into_float32

Floats = npt.NDArray[np.float32]

CHUNK = 16 * HEIGHT
"""Rows that a thread takes at a time: enough that panels may come from memory, few enough for its cache."""


def panels(out: int) -> int:
    """How many panels so many columns take."""
    return -(-out // WIDTH)


def held(weight: tuple[int, ...], parts: int = 1) -> int:
    """Numbers in the panels of weights `(O, …)`, or of each of so many equal parts of them."""
    return parts * panels(weight[0] // parts) * WIDTH * math.prod(weight[1:])


def to_panels(weight: npt.NDArray[Any]) -> Floats:
    """Weights `(O, I)` of any float dtype as `(panels, I, WIDTH)`; columns beyond the last are zero."""
    size = weight.shape[1]
    result = np.empty((panels(len(weight)), size, WIDTH), np.float32)

    def arrange(i: int, j: int) -> None:
        rows = np.empty((WIDTH, size), np.float32)
        for panel in range(i, j):
            part = weight[panel * WIDTH : (panel + 1) * WIDTH]
            into_float32(part, rows[: len(part)])
            rows[len(part) :] = 0
            _arrange(rows, result, panel)

    share(arrange, len(result), WIDTH * size)
    return result


def multiply(x: Floats, weights: Floats, bias: Floats | None, out: Floats) -> None:
    """`x @ w + bias` of `(M, I)` and panels of w, into `(M, O)`."""
    _share_multiply(x, weights, np.zeros(1, np.float32) if bias is None else bias, _NO_GATE, _NO_BIAS, out)


def multiply_gated(x: Floats, value: Floats, b: Floats, gate: Floats, c: Floats, out: Floats) -> None:
    """`(x @ value + b) * gelu(x @ gate + c)` of `(M, I)`, panels of both and their biases, into `(M, O)`."""
    _share_multiply(x, value, b, gate, c, out)


def multiply_each(x: Floats, weights: Floats, out: Floats) -> None:
    """`x @ w` of a batch of `(B, M, I)` and `(B, panels, I, WIDTH)`, into `(B, M, O)`, by this thread alone."""
    room, zeros = _room_for_chunk(x.shape[2]), np.zeros(weights.shape[1] * WIDTH, np.float32)
    for rows, each, result in zip(x, weights, out, strict=True):
        _check(rows, each, zeros, result)
        _multiply(rows, each, zeros, _NO_GATE, _NO_BIAS, result, room, 0, len(rows), 0, len(each))


_NO_GATE, _NO_BIAS = np.empty((0, 0, WIDTH), np.float32), np.empty(0, np.float32)


def _share_multiply(x: Floats, value: Floats, b: Floats, gate: Floats, c: Floats, out: Floats) -> None:
    (rows, size), columns, threads = x.shape, len(value), len(allowed_processors())
    b, c = _padded(b, columns), _padded(c, len(gate))
    _check(x, value, b, out)
    if len(gate):
        _check(x, gate, c, out)
    # So that each thread has a part at least, rows are cut first, then panels.
    down = max(1, min(rows // CHUNK, PIECES * threads))
    across = min(columns, -(-threads // down))

    def work(i: int, j: int) -> None:
        room = _room_for_chunk(size)
        for cell in range(i, j):
            r, p = divmod(cell, across)
            top, bottom, left, right = (
                count * k // parts
                for count, parts, part in ((rows, down, r), (columns, across, p))
                for k in (part, part + 1)
            )
            _multiply(x, value, b, gate, c, out, room, top, bottom, left, right)

    share(work, down * across, x.size // down * columns)


def _check(x: Floats, weights: Floats, bias: Floats, out: Floats) -> None:
    """Compiled loops read and write where they are told to, so what they are told has to fit."""
    (rows, size), (count, inputs, width), columns = x.shape, weights.shape, out.shape[1]
    fits = inputs == size and len(out) == rows and panels(columns) == count and width == WIDTH
    if not fits or bias.shape != (count * WIDTH,):
        raise ValueError(
            f"A product of {x.shape} with panels {weights.shape} is ({rows}, {count * WIDTH}) or a little less, "
            f"and does not go into {out.shape} with a bias of {bias.shape}."
        )


def _padded(bias: Floats, count: int) -> Floats:
    """A bias as long as so many panels are wide; if it is a single number, that for all."""
    result = np.zeros(count * WIDTH, np.float32)
    result[: count * WIDTH if bias.size == 1 else bias.size] = bias
    return result


_own = threading.local()


def room_for(kind: str, shape: tuple[int, ...]) -> Floats:
    """An array that its thread writes before it reads it. Threads keep some: memory that is touched first is slow."""
    kept, size = _own.__dict__.setdefault("rooms", {}), math.prod(shape)
    if kind not in kept or kept[kind].size < size:
        kept[kind] = np.empty(size, np.float32)
    room: Floats = kept[kind][:size].reshape(shape)
    return room


def _room_for_chunk(size: int) -> Floats:
    return room_for("chunk", (CHUNK * size + HEIGHT + LANES,))


@compiled
def _arrange(rows: Floats, out: Floats, panel: int) -> None:
    for c in range(rows.shape[1]):
        for lane in range(WIDTH):
            out[panel, c, lane] = rows[lane, c]


@compiled
def _multiply(
    x: Floats,
    value: Floats,
    value_bias: Floats,
    gate: Floats,
    gate_bias: Floats,
    out: Floats,
    room: Floats,
    top: int,
    bottom: int,
    left: int,
    right: int,
) -> None:
    """Of some rows and some panels."""
    size = x.shape[1]
    tile, gates = np.empty((HEIGHT, WIDTH), np.float32), np.empty((HEIGHT, WIDTH), np.float32)
    values_of_all, gates_of_all = tile.reshape(-1), gates.reshape(-1)
    chunks = -(-(bottom - top) // CHUNK)
    for chunk in range(chunks):
        first = top + (bottom - top) * chunk // chunks
        rows = top + (bottom - top) * (chunk + 1) // chunks - first
        for block in range(blocks_of(rows)):
            start, height = block_of(rows, block)
            pack_rows(x, (first + start) * size, size, height, size, room, start * size)
        for panel in range(left, right):
            columns, column = panel * size * WIDTH, panel * WIDTH
            for block in range(blocks_of(rows)):
                start, height = block_of(rows, block)
                multiply_tile(room, start * size, height, size, value, columns, value_bias, column, tile, 0)
                if len(gate):
                    multiply_tile(room, start * size, height, size, gate, columns, gate_bias, column, gates, 0)
                    for k in range(height * WIDTH):
                        values_of_all[k] *= scalar.gelu(gates_of_all[k])
                _store(tile, height, out, first + start, column)


@compiled
def _store(tile: Floats, height: int, out: Floats, row: int, column: int) -> None:
    columns = out.shape[1]
    if column + WIDTH <= columns:
        store_tile(tile, height, out, row * columns + column, columns)
    else:
        for i in range(height):
            for j in range(columns - column):
                out[row + i, column + j] = tile[i, j]
