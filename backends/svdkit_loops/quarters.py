"""Quarters of matrices, as Strassen's algorithm takes them: sums of them are laid out, and products added up to them.

Quarters are told by the half of their rows, then that of their columns: 0 is upper left, 1 upper right. Halves of rows
are every other row, those of columns every other panel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import compiled
from .numbers import as_stored, kind_of, load, store, widened
from .room import Floats
from .tile import (
    HEIGHT,
    LANES,
    NUMBERS,
    VECTORS,
    WIDTH,
    data_of,
    emit_each,
    emit_packed,
    index,
    places_of,
    transposed,
    vector_at,
)

# Of each product: a quarter of the rows that are multiplied, another, and the sign with which that is added; so of the
# columns that they are multiplied with.
_ROWS = np.array([(0, 3, 1), (2, 3, 1), (0, 0, 0), (3, 0, 0), (0, 1, 1), (2, 0, -1), (1, 3, -1)])
_COLUMNS = [(0, 3, 1), (0, 0, 0), (1, 3, -1), (2, 0, -1), (3, 0, 0), (0, 1, 1), (2, 3, 1)]
_SIGNS = (-1, 0, 1)
_RESULTS = [[1, 0, 0, 1, -1, 0, 1], [0, 0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0], [1, -1, 1, 0, 0, 1, 0]]
"""With which sign each product is added to each quarter of the result."""
PRODUCTS = len(_ROWS)


@compiled
def lay_out_rows(x: Floats, first: int, height: int, begin: int, half: int, out: Floats, to: int) -> None:
    """What each product has of so many pairs of rows, of two halves of inputs."""
    size = x.shape[1]
    at = first * size + begin
    for p in range(PRODUCTS):
        q, other, sign = _ROWS[p]
        one, two = at + q // 2 * size + q % 2 * half, at + other // 2 * size + other % 2 * half
        _pack_rows(x, one, two, sign, 2 * size, height, half, out, to + p * height * half)


@intrinsic  # type: ignore[untyped-decorator]
def _pack_rows(
    context: Any, x: Any, start: Any, other: Any, sign: Any, stride: Any, height: Any, length: Any, out: Any, to: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """As `tile.pack_rows`, of rows from the start-th number on, plus or minus those from the other-th on, or neither.

    A row that would lie beyond the last of all is the other one of its pair, half a stride before.
    """
    if kind_of(x) != "float32" or kind_of(out) != "float32":
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        start, other, sign, stride, height, length = args[1:7]
        latest = builder.gep(data(0), [builder.sub(context.make_array(x)(context, builder, args[0]).nitems, length)])
        back = builder.neg(builder.sdiv(stride, index(2)))

        def places(first: Any) -> list[Any]:
            rows = places_of(builder, builder.gep(data(0), [first]), stride, height, HEIGHT)
            return [
                builder.select(builder.icmp_unsigned("<=", row, latest), row, builder.gep(row, [back])) for row in rows
            ]

        def pack(sign: int, rows: list[Any], others: list[Any]) -> None:
            def read(i: int, k: Any, lanes: int) -> Any:
                i = min(i, HEIGHT - 1)
                first, other = (load(builder, "float32", builder.gep(of[i], [k]), lanes) for of in (rows, others))
                return _sum(builder, first, sign, other)

            emit_packed(builder, read, HEIGHT, length, builder.gep(data(7), [args[8]]), height)

        rows, others = places(start), places(other)
        emit_each(builder, sign, _SIGNS, lambda sign: pack(sign, rows, others))
        return context.get_dummy_value()

    return types.void(x, start, other, sign, stride, height, length, out, to), emit


@intrinsic  # type: ignore[untyped-decorator]
def lay_out_columns(
    context: Any, weights: Any, first: Any, begin: Any, half: Any, out: Any, to: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """What each product has of a pair of panels, of two halves of inputs, one product after another.

    Weights are turned round as they are stored, each once, and become float32 when they are added. Halves of inputs
    are whole vectors.
    """
    kind = kind_of(weights)
    if kind in (None, "pairs") or kind_of(out) != "float32":
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        first, begin, half = args[1:4]
        size = builder.extract_value(context.make_array(weights)(context, builder, args[0]).shape, 1)
        apart = builder.mul(half, index(WIDTH))
        for column in range(0, WIDTH, LANES):
            quarters = []
            for q in range(4):
                row = builder.add(first, index(q % 2 * WIDTH + column))
                at = builder.add(builder.mul(row, size), builder.add(begin, builder.mul(half, index(q // 2))))
                quarters.append(places_of(builder, builder.gep(data(0), [at]), size, index(LANES), LANES))
            with cgutils.for_range_slice(builder, index(0), half, index(LANES)) as (k, _):
                turned = [
                    transposed(builder, [as_stored(builder, kind, builder.gep(row, [k]), LANES) for row in rows])
                    for rows in quarters
                ]
                for i in range(LANES):
                    numbers = [widened(builder, kind, rows[i], LANES) for rows in turned]
                    place = builder.add(builder.mul(builder.add(k, index(i)), index(WIDTH)), index(column))
                    place = builder.gep(data(4), [builder.add(args[5], place)])
                    for p, (q, other, sign) in enumerate(_COLUMNS):
                        to = builder.gep(place, [builder.mul(apart, index(p))])
                        store(builder, "float32", _sum(builder, numbers[q], sign, numbers[other]), to, LANES)
        return context.get_dummy_value()

    return types.void(weights, first, begin, half, out, to), emit


def _sum(builder: Any, number: Any, sign: int, other: Any) -> Any:
    """A number plus or minus another, or alone."""
    if not sign:
        return number
    return builder.fadd(number, other) if sign > 0 else builder.fsub(number, other)


@intrinsic  # type: ignore[untyped-decorator]
def add_products(
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
