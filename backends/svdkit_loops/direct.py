"""Matrix products tile by tile, as they are defined.

A thread copies its rows so that the values a tile needs lie together, lays out one panel of `WIDTH` columns after
another (`stored`), and passes each over the rows while it is in cache. Biases and gates are applied while a tile is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from .compiled import compiled
from .gates import apply_gates
from .parts import CHUNK, DEPTH, Way, cells, panels
from .room import Floats
from .stored import Stored, pack_columns
from .tile import HEIGHT, LANES, WIDTH, begin_tile, block_of, blocks_of, multiply_tile, pack_rows, place, store_tile
from .turns import Turns, take, wait_for


def way(rows: int, size: int, columns: int, gated: bool, halves: bool) -> Way:
    """How so many rows are multiplied, of float32 or of pairs of bfloat16."""
    down, across = cells(rows, columns)
    # Sums of gates, and those of bfloat16, are kept in float32 until they are whole.
    depth = size if gated or halves else min(size, DEPTH)
    in_part = -(-rows // down)
    rooms = {"rows": min(CHUNK, in_part) * depth + HEIGHT + LANES, "panels": (1 + gated) * depth * WIDTH}
    turns = -(-in_part // CHUNK) * (-(-size // depth) + panels(columns))
    return Way(_loop(halves), 1, down, across, False, turns, (depth,), rooms)


@cache
def _loop(halves: bool) -> Callable[..., None]:
    """What multiplies some rows by some panels, in float32 or in pairs of bfloat16."""

    @compiled
    def multiply(
        x: Stored,
        value: Stored,
        gate: Stored,
        bias: Floats,
        plus: Stored,
        gated: bool,
        adds: bool,
        out: Stored,
        depth: int,
        rows: Stored,
        panels: Stored,
        top: int,
        bottom: int,
        left: int,
        right: int,
        side: int,
        turns: Turns,
    ) -> None:
        size, columns = x.shape[1], out.shape[1]
        tile, gates = np.empty((HEIGHT, WIDTH), np.float32), np.empty((HEIGHT, WIDTH), np.float32)
        values_of_all, gates_of_all, zeros = tile.reshape(-1), gates.reshape(-1), np.zeros((1, WIDTH), np.float32)
        chunks, segments, parts = -(-(bottom - top) // CHUNK), -(-size // depth), right - left
        for c in range(chunks):
            first = top + (bottom - top) * c // chunks
            count = top + (bottom - top) * (c + 1) // chunks - first
            for s in range(segments):
                begin, taken = s * depth, 0
                length = min(depth, size - begin)
                while take(turns, c * segments + s) < parts:
                    p = parts - 1 - taken if side else taken
                    done = chunks * segments + c * parts + p
                    column, width = (left + p) * WIDTH, min(WIDTH, columns - (left + p) * WIDTH)
                    pack_columns(value, column * size + begin, size, width, length, panels, 0)
                    if gated:
                        pack_columns(gate, column * size, size, width, size, panels, size * WIDTH)
                    wait_for(turns, done, s)
                    for block in range(blocks_of(count)):
                        start, height = block_of(count, block)
                        if taken == 0:
                            pack_rows(x, (first + start) * size + begin, size, height, length, rows, start * length)
                        to, x_rows = (first + start) * columns + column, place(rows, start * length)
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
                        multiply_tile(x_rows, height, length, place(panels, 0), so_far, step, result, stride)
                        if gated:
                            more, offset = place(panels, size * WIDTH), place(bias, bias.shape[1] + column)
                            multiply_tile(x_rows, height, size, more, offset, 0, place(gates, 0), WIDTH)
                            apply_gates(values_of_all, gates_of_all, height * WIDTH)
                        if not direct:
                            store_tile(tile, height, width, out, to, columns)
                    taken += 1
                    take(turns, done)

    return multiply
