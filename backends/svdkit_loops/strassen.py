"""Matrix products by Strassen's algorithm: seven products of halves, where eight are what they are made of.

Rows, inputs and columns are halved once, at each block of rows and pair of panels, so that sums of quarters are made
where they are laid out, and sums of products where tiles still are in the nearest cache. Of the eighth that is saved,
half is left: products take 5 to 10 % less. Rows of a pair round as the larger of them does. So the halves of rows are
every other row: pairs are neighbours, which are alike, as they are in Winograd's tiles.

Source: V. Strassen, "Gaussian elimination is not optimal", Numerische Mathematik 13, 1969; made of blocks as in
J. Huang et al., "Strassen's algorithm reloaded", SC16 (arXiv 1605.01078).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import scalar
from .compiled import compiled
from .numbers import kind_of, load
from .parts import CHUNK, DEPTH, Way, cells
from .room import Floats
from .stored import Stored
from .tile import (
    HEIGHT,
    LANES,
    NUMBERS,
    VECTORS,
    WIDTH,
    begin_tile,
    block_of,
    blocks_of,
    data_of,
    emit_each,
    emit_packed,
    fetch,
    index,
    multiply_tile,
    place,
    places_of,
    store_tile,
    vector_at,
)

# Quarters of a matrix are told by the half of its rows, then that of its columns: 0 is upper left, 1 upper right. Of
# each product: a quarter of the rows that are multiplied, another, and the sign with which that is added; so of the
# columns that they are multiplied with.
_ROWS = np.array([(0, 3, 1), (2, 3, 1), (0, 0, 0), (3, 0, 0), (0, 1, 1), (2, 0, -1), (1, 3, -1)])
_COLUMNS = np.array([(0, 3, 1), (0, 0, 0), (1, 3, -1), (2, 0, -1), (3, 0, 0), (0, 1, 1), (2, 3, 1)])
_SIGNS = (-1, 0, 1)
_RESULTS = [[1, 0, 0, 1, -1, 0, 1], [0, 0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0], [1, -1, 1, 0, 0, 1, 0]]
"""With which sign each product is added to each quarter of the result."""
_PRODUCTS = len(_ROWS)
_FEWEST = 8 * HEIGHT
"""Rows for which it pays to add columns; of gated layers twice as many."""
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
    row, panel = _PRODUCTS * depth // 2, (1 + gated) * _PRODUCTS * depth // 2 * WIDTH
    together, chunk = 1, min(CHUNK // 2, -(-pairs // down))
    if across == 1 and wide * panel <= _NEAR:
        together, chunk = wide, HEIGHT
    rooms = {"rows": chunk * row + HEIGHT + LANES, "panels": together * panel}
    rooms["products"] = (1 + gated) * _PRODUCTS * HEIGHT * WIDTH
    return Way(_loop(gated), 2, down, across, depth, rooms)


@intrinsic  # type: ignore[untyped-decorator]
def _pack_rows(
    context: Any, x: Any, start: Any, other: Any, sign: Any, stride: Any, height: Any, length: Any, out: Any, to: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """As `tile.pack_rows`, of rows from the start-th number on, plus or minus those from the other-th on, or neither.

    A row that would lie beyond the last of all is the one before it.
    """
    if kind_of(x) != "float32" or kind_of(out) != "float32":
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        start, other, sign, stride, height, length = args[1:7]
        latest = builder.sub(context.make_array(x)(context, builder, args[0]).nitems, length)

        def places(first: Any) -> list[Any]:
            last = builder.sub(height, index(1))
            last = builder.select(
                builder.icmp_signed("<=", builder.add(first, builder.mul(last, stride)), latest),
                last,
                builder.sub(last, index(1)),
            )
            return places_of(builder, builder.gep(data(0), [first]), stride, builder.add(last, index(1)), HEIGHT)

        def pack(sign: int, rows: list[Any], others: list[Any]) -> None:
            def read(i: int, k: Any, lanes: int) -> Any:
                i = min(i, HEIGHT - 1)
                return _combined(builder, sign, "float32", (rows[i], others[i]), k, lanes)

            emit_packed(builder, read, HEIGHT, length, builder.gep(data(7), [args[8]]), height)

        rows, others = places(start), places(other)
        emit_each(builder, sign, _SIGNS, lambda sign: pack(sign, rows, others))
        return context.get_dummy_value()

    return types.void(x, start, other, sign, stride, height, length, out, to), emit


@intrinsic  # type: ignore[untyped-decorator]
def _pack_columns(
    context: Any, weights: Any, start: Any, other: Any, sign: Any, stride: Any, length: Any, out: Any, to: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """As `stored.pack_columns`, of WIDTH rows from the start-th number on, plus or minus those from the other-th on."""
    kind = kind_of(weights)
    if kind in (None, "pairs") or kind_of(out) != "float32":
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        start, other, sign, stride, length = args[1:6]
        rows, others = (
            places_of(builder, builder.gep(data(0), [first]), stride, index(WIDTH), WIDTH) for first in (start, other)
        )

        def pack(sign: int) -> None:
            def read(i: int, k: Any, lanes: int) -> Any:
                if lanes > 1:
                    fetch(builder, builder.gep(rows[i], [k]))
                return _combined(builder, sign, kind, (rows[i], others[i]), k, lanes)

            emit_packed(builder, read, WIDTH, length, builder.gep(data(6), [args[7]]), index(WIDTH))

        emit_each(builder, sign, _SIGNS, pack)
        return context.get_dummy_value()

    return types.void(weights, start, other, sign, stride, length, out, to), emit


def _combined(builder: Any, sign: int, kind: str, places: tuple[Any, Any], k: Any, lanes: int) -> Any:
    """The k-th numbers from one place on, plus or minus those from another, or as they are."""
    number = load(builder, kind, builder.gep(places[0], [k]), lanes)
    if not sign:
        return number
    other = load(builder, kind, builder.gep(places[1], [k]), lanes)
    return builder.fadd(number, other) if sign > 0 else builder.fsub(number, other)


@intrinsic  # type: ignore[untyped-decorator]
def _add_products(
    context: Any, products: Any, quarter: Any, begin: Any, step: Any, out: Any, stride: Any, height: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """So many rows of a quarter of the result become what they begin with + the products that are added there.

    Args:
        products: the place of the tiles, each `(HEIGHT, WIDTH)`.
        begin, step: what the first row begins with, and how much further it is for the next ones.
        out, stride: where the first row goes, and how much further the next ones.
    """
    if any(place != NUMBERS for place in (products, begin, out)):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        products, quarter, begin, step, out, stride, height = args

        def add(q: int) -> None:
            with cgutils.for_range(builder, height) as loop:
                source, target = (
                    builder.gep(first, [builder.mul(loop.index, apart)])
                    for first, apart in ((begin, step), (out, stride))
                )
                for v in range(VECTORS):
                    total = None
                    for p, sign in enumerate(_RESULTS[q]):
                        at = builder.add(builder.mul(loop.index, index(WIDTH)), index(p * HEIGHT * WIDTH))
                        tile = vector_at(builder, builder.gep(products, [at]), v)
                        if sign and total is None:
                            total = builder.load(tile, align=4)
                        elif sign:
                            operation = builder.fadd if sign > 0 else builder.fsub
                            total = operation(total, builder.load(tile, align=4))
                    so_far = builder.load(vector_at(builder, source, v), align=4)
                    builder.store(builder.fadd(so_far, total), vector_at(builder, target, v), align=4)

        emit_each(builder, quarter, range(len(_RESULTS)), add)
        return context.get_dummy_value()

    return types.void(products, quarter, begin, step, out, stride, height), emit


@compiled
def _lay_out_rows(x: Floats, first: int, height: int, begin: int, half: int, out: Floats, to: int) -> None:
    """What each product has of so many pairs of rows, of two halves of inputs."""
    size = x.shape[1]
    at = first * size + begin
    for p in range(_PRODUCTS):
        q, other, sign = _ROWS[p]
        one, two = at + q // 2 * size + q % 2 * half, at + other // 2 * size + other % 2 * half
        _pack_rows(x, one, two, sign, 2 * size, height, half, out, to + p * height * half)


@compiled
def _lay_out_columns(weights: Stored, first: int, begin: int, half: int, out: Floats, to: int) -> None:
    """What each product has of a pair of panels, of two halves of inputs."""
    size = weights.shape[1]
    at = first * size + begin
    for p in range(_PRODUCTS):
        q, other, sign = _COLUMNS[p]
        one, two = at + q % 2 * WIDTH * size + q // 2 * half, at + other % 2 * WIDTH * size + other // 2 * half
        _pack_columns(weights, one, two, sign, size, half, out, to + p * half * WIDTH)


@cache
def _loop(gated: bool) -> Callable[..., None]:
    """What multiplies some pairs of rows by some pairs of panels."""
    weights = 1 + gated

    @compiled
    def add_up(
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
        gates: Floats,
    ) -> None:
        """Products of tiles to the quarters of the result, after what sums begin with; then they are gated."""
        columns = out.shape[1]
        values_of_all, gates_of_all = tile.reshape(-1), gates.reshape(-1)
        for q in range(4):
            first, column = row + q // 2, (2 * pair + q % 2) * WIDTH
            to, stride = first * columns + column, 2 * columns
            there = height - (first + 2 * (height - 1) == len(out))  # the last row of all may be the first of a pair
            so_far, step = place(bias, column), 0
            if kept:
                so_far, step = place(out, to), stride
            elif adds:
                begin_tile(bias, column, plus, to, stride, there, WIDTH, tile)
                so_far, step = place(tile, 0), WIDTH
            if not gated:
                _add_products(place(products, 0), q, so_far, step, place(out, to), stride, there)
            else:
                more, offset = place(products, _PRODUCTS * HEIGHT * WIDTH), place(bias, columns + column)
                _add_products(place(products, 0), q, so_far, step, place(tile, 0), WIDTH, there)
                _add_products(more, q, offset, 0, place(gates, 0), WIDTH, there)
                for k in range(there * WIDTH):
                    values_of_all[k] *= scalar.gelu(gates_of_all[k])
                store_tile(tile, there, WIDTH, out, to, stride)

    @compiled
    def multiply(
        x: Floats,
        value: Stored,
        gate: Stored,
        bias: Floats,
        plus: Floats,
        adds: bool,
        out: Floats,
        depth: int,
        rows: Floats,
        panels: Floats,
        products: Floats,
        top: int,
        bottom: int,
        left: int,
        right: int,
    ) -> None:
        size, zeros = x.shape[1], np.zeros(WIDTH, np.float32)
        tile, gates = np.empty((HEIGHT, WIDTH), np.float32), np.empty((HEIGHT, WIDTH), np.float32)
        # All panels, and a block of rows at a time; or a pair of panels, and some blocks.
        together = min(right - left, panels.size // (weights * _PRODUCTS * depth // 2 * WIDTH))
        chunk = bottom - top if together == right - left else CHUNK // 2
        chunks = -(-(bottom - top) // chunk)
        for c in range(chunks):
            first = top + (bottom - top) * c // chunks
            pairs = top + (bottom - top) * (c + 1) // chunks - first
            for begin in range(0, size, depth):
                half = min(depth, size - begin) // 2
                for group in range(left, right, together):
                    for pair in range(group, group + together):
                        to = (pair - group) * weights * _PRODUCTS * half * WIDTH
                        _lay_out_columns(value, pair * 2 * WIDTH, begin, half, panels, to)
                        if gated:
                            _lay_out_columns(gate, pair * 2 * WIDTH, begin, half, panels, to + _PRODUCTS * half * WIDTH)
                    for block in range(blocks_of(pairs)):
                        start, height = block_of(pairs, block)
                        row, packed = 2 * (first + start), start * _PRODUCTS * half
                        if together == right - left:
                            packed = 0
                        if group == left:
                            _lay_out_rows(x, row, height, begin, half, rows, packed)
                        for pair in range(group, group + together):
                            for p in range(weights * _PRODUCTS):
                                of_rows = place(rows, packed + p % _PRODUCTS * height * half)
                                panel = (pair - group) * weights * _PRODUCTS + p
                                result = place(products, p * HEIGHT * WIDTH)
                                of_columns = place(panels, panel * half * WIDTH)
                                multiply_tile(of_rows, height, half, of_columns, place(zeros, 0), 0, result, WIDTH)
                            add_up(products, bias, plus, adds, begin > 0, out, row, pair, height, tile, gates)

    return multiply
