"""Matrix products by Strassen's algorithm: seven products of halves, where eight are what they are made of.

Rows, inputs and columns are halved once, at each block of rows and pair of panels, so that sums of quarters are made
where they are laid out, and sums of products where tiles still are in the nearest cache (`quarters`). Products take
8 to 20 % less: half of the eighth that is saved is left, and memory is asked for meanwhile (`ahead`).

Rows of a pair round as the larger of them does. So the halves of rows are every other row: pairs are neighbours, which
are alike, as they are in Winograd's tiles.

Source: V. Strassen, "Gaussian elimination is not optimal", Numerische Mathematik 13, 1969; made of blocks as in
J. Huang et al., "Strassen's algorithm reloaded", SC16 (arXiv 1605.01078).
"""

from __future__ import annotations

import numpy as np

from .ahead import MOST, Addresses, ask_for
from .compiled import compiled
from .gates import apply_gates
from .parts import CHUNK, DEPTH, Way, cells
from .quarters import PRODUCTS, add_products, lay_out_columns, lay_out_rows
from .room import Floats
from .stored import Stored
from .tile import HEIGHT, LANES, WIDTH, begin_tile, block_of, blocks_of, multiply_tile, place, store_tile
from .turns import Turns, take, wait_for

_FEWEST = 8 * HEIGHT
"""Rows for which it pays to add columns; of gated layers twice as many."""
_RUN = 8 * HEIGHT
"""Pairs of rows that a thread takes at a turn, where it has all columns laid out."""
_NEAR = 3 * 2**18
"""Numbers of panels that may be laid out together: 3 MB, which a shared cache has for each thread."""


def pays(rows: int, size: int, columns: int, gated: bool) -> bool:
    """Whether a product is one for this algorithm: of rows enough, and of inputs and columns in whole halves."""
    return rows >= (1 + gated) * _FEWEST and size % (2 * LANES) == 0 and columns % (2 * WIDTH) == 0


def way(rows: int, size: int, columns: int, gated: bool) -> Way:
    """How so many rows are multiplied.

    Where a thread takes all columns, and their panels fit, they are laid out at once and each block of rows passes
    them, in the nearest caches: 320 columns take 5 % less. Else rows are, and each pair of panels passes them.
    """
    pairs, wide = -(-rows // 2), columns // (2 * WIDTH)
    down, across = cells(pairs, columns // 2)
    depth = size if gated else min(size, DEPTH)  # sums of gates are not kept until they are whole
    row, panel = PRODUCTS * depth // 2, (1 + gated) * PRODUCTS * depth // 2 * WIDTH
    near = across == 1 and wide * panel <= _NEAR
    in_part = -(-pairs // down)
    height = HEIGHT if near else min(CHUNK // 2, in_part)
    rooms = {"rows": height * row + HEIGHT + LANES, "panels": (wide if near else 1) * panel}
    rooms["products"] = (1 + gated) * PRODUCTS * HEIGHT * WIDTH
    chunks, parts = (1, -(-pairs // _RUN)) if near else (-(-in_part // (CHUNK // 2)), wide)
    turns = chunks * (-(-size // depth) + parts)
    return Way(_multiply, 2, down, across, near, turns, (depth, near), rooms)


@compiled
def _multiply(
    x: Floats,
    value: Stored,
    gate: Stored,
    bias: Floats,
    plus: Floats,
    gated: bool,
    adds: bool,
    out: Floats,
    depth: int,
    near: bool,
    rows: Floats,
    panels: Floats,
    products: Floats,
    top: int,
    bottom: int,
    left: int,
    right: int,
    side: int,
    turns: Turns,
) -> None:
    """Some pairs of rows by some pairs of panels, from one side of those that are taken in turns."""
    size, each = x.shape[1], (1 + gated) * PRODUCTS
    tile, gates = np.empty((HEIGHT, WIDTH), np.float32), np.empty((HEIGHT, WIDTH), np.float32)
    asked = np.empty(MOST, np.int64)
    # A turn is a run of rows, which all panels pass; or a pair of panels, which passes a chunk of rows.
    together, chunks, parts = 1, -(-(bottom - top) // (CHUNK // 2)), right - left
    if near:
        together, chunks, parts = right - left, 1, -(-(bottom - top) // _RUN)
    segments = -(-size // depth)
    for c in range(chunks):
        for s in range(segments):
            begin, taken = s * depth, 0
            half = min(depth, size - begin) // 2
            while take(turns, c * segments + s) < parts:
                turn = parts - 1 - taken if side else taken
                done = chunks * segments + c * parts + turn
                group, after, r, runs = left + turn, left + turn + 1 - 2 * side, c, chunks
                if near:
                    group, after, r, runs = left, right, turn, parts
                first = top + (bottom - top) * r // runs
                pairs = top + (bottom - top) * (r + 1) // runs - first
                if taken == 0 or not near:
                    for i in range(together):
                        column, to = (group + i) * 2 * WIDTH, i * each * half * WIDTH
                        lay_out_columns(value, column, begin, half, panels, to)
                        if gated:
                            lay_out_columns(gate, column, begin, half, panels, to + PRODUCTS * half * WIDTH)
                wait_for(turns, done, s)
                blocks = blocks_of(pairs)
                for block in range(blocks):
                    start, height = block_of(pairs, block)
                    row, at = 2 * (first + start), 0 if near else start * PRODUCTS * half
                    if taken == 0 or near:
                        lay_out_rows(x, row, height, begin, half, rows, at)
                    for i in range(together):
                        # For the result, what is added to it, and what is laid out next.
                        column, count = (group + i) * 2 * WIDTH, 0
                        count = ask_for(asked, count, out, row, 2 * height, column, 2 * WIDTH)
                        if adds and begin == 0:
                            count = ask_for(asked, count, plus, row, 2 * height, column, 2 * WIDTH)
                        if (taken == 0 or near) and block + 1 < blocks:
                            more = row + 2 * height
                            count = ask_for(asked, count, x, more, 2 * HEIGHT, begin, 2 * half, i, together)
                        if left <= after < right:
                            more, wide = after * 2 * WIDTH, 2 * WIDTH
                            count = ask_for(asked, count, value, more, wide, begin, 2 * half, block, blocks)
                            if gated:
                                count = ask_for(asked, count, gate, more, wide, begin, 2 * half, block, blocks)
                        _multiply_quarters(rows, at, height, half, panels, i * each, each, products, asked, count)
                        if gated:
                            _add_gated(products, bias, out, row, group + i, height, tile, gates)
                        else:
                            _add_up(products, bias, plus, adds, begin > 0, out, row, group + i, height, tile)
                taken += 1
                take(turns, done)


@compiled
def _multiply_quarters(
    rows: Floats,
    at: int,
    height: int,
    half: int,
    panels: Floats,
    first: int,
    count: int,
    products: Floats,
    asked: Addresses,
    addresses: int,
) -> None:
    """So many products of what is laid out; of addresses as many are asked for during each."""
    zeros = np.zeros(WIDTH, np.float32)
    for p in range(count):
        of_rows = place(rows, at + p % PRODUCTS * height * half)
        of_columns = place(panels, (first + p) * half * WIDTH)
        result, begin, end = place(products, p * HEIGHT * WIDTH), addresses * p // count, addresses * (p + 1) // count
        ahead = place(asked, begin)
        multiply_tile(of_rows, height, half, of_columns, place(zeros, 0), 0, result, WIDTH, ahead, end - begin)


@compiled
def _add_up(
    products: Floats,
    bias: Floats,
    plus: Floats,
    adds: bool,
    kept: bool,
    out: Floats,
    row: int,
    pair: int,
    height: int,
    tile: Floats,
) -> None:
    """Products to the quarters of the result, beside what is kept there, or bias and what else is added."""
    stride = 2 * out.shape[1]
    for q in range(4):
        there, column, to = _quarter(q, out, row, pair, height)
        so_far, step = place(bias, column), 0
        if kept:
            so_far, step = place(out, to), stride
        elif adds:
            begin_tile(bias, column, plus, to, stride, there, WIDTH, tile)
            so_far, step = place(tile, 0), WIDTH
        add_products(place(products, 0), q, so_far, step, place(out, to), stride, there)


@compiled
def _add_gated(
    products: Floats, bias: Floats, out: Floats, row: int, pair: int, height: int, tile: Floats, gates: Floats
) -> None:
    """Products of values, and those of gates after them, with their biases; then values are gated."""
    columns, of_gates = out.shape[1], PRODUCTS * HEIGHT * WIDTH
    values_of_all, gates_of_all = tile.reshape(-1), gates.reshape(-1)
    for q in range(4):
        there, column, to = _quarter(q, out, row, pair, height)
        add_products(place(products, 0), q, place(bias, column), 0, place(tile, 0), WIDTH, there)
        offset = place(bias, columns + column)
        add_products(place(products, of_gates), q, offset, 0, place(gates, 0), WIDTH, there)
        apply_gates(values_of_all, gates_of_all, there * WIDTH)
        store_tile(tile, there, WIDTH, out, to, 2 * columns)


@compiled
def _quarter(q: int, out: Floats, row: int, pair: int, height: int) -> tuple[int, int, int]:
    """Of a quarter of the result, from a row and a pair of panels on: how many rows it has, its column, its place."""
    first, column = row + q // 2, (2 * pair + q % 2) * WIDTH
    there = height - (first + 2 * (height - 1) == len(out))  # the last row of all may be the first of a pair
    return there, column, first * out.shape[1] + column
