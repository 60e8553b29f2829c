"""Short vectors times Winograd's matrices, for all channels at once; zeros and signs of the matrices cost nothing.

Loops over NumPy arrays take three times as long: before each run of channels they ask whether arrays overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from svdkit import winograd

from .numbers import kind_of, load, store
from .tile import LANES, VECTORS, WIDTH, data_of, in_a_row, index, vector_at

INPUTS, RESULTS = "B", "A"
"""Which of `winograd.matrices`."""


@intrinsic  # type: ignore[untyped-decorator]
def transform(
    context: Any,
    which: Any,
    m: Any,
    results: Any,
    x: Any,
    place: Any,
    step: Any,
    inside: Any,
    bias: Any,
    plus: Any,
    out: Any,
    to: Any,
    stride: Any,
    count: Any,
    room: Any,
    channels: Any,
) -> tuple[Any, Callable[..., Any]] | None:
    """`bias + plus + matrix @ x`, of rows of channels.

    Args:
        which, m, results: constants that say which matrix.
        x, place, step: where the first row is, and how far the next ones; of float32 or bfloat16, as what is below.
        inside: the first row, and the one after the last, that there are; others are taken for zero.
        bias: of each channel, or None.
        plus: of the result's shape, or None.
        out, to, stride, count: where so many rows of the result go; others are left out.
        room: two rows, the first of zeros, the second for what is left out.
    """
    if not isinstance(which, types.StringLiteral) or not _are_numbers(m, results):
        return None
    optional = [array for array in (bias, plus) if not isinstance(array, types.NoneType)]
    kinds = {array: kind_of(array) or "" for array in (x, out, *optional)}
    if not in_a_row(room) or not set(kinds.values()) <= {"float32", "bfloat16"}:
        return None
    a, _, b = winograd.matrices(m.literal_value, results.literal_value)
    matrix = b if which.literal_value == INPUTS else a

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        zeros, left_out = data(13), builder.gep(data(13), [args[14]])
        first, last = (builder.extract_value(args[6], i) for i in (0, 1))

        def row(start: Any, at: Any, i: int, step: Any, there: Any, instead: Any) -> Any:
            found = builder.gep(start, [builder.add(at, builder.mul(index(i), step))])
            return builder.select(there, found, builder.bitcast(instead, found.type))

        sources = []
        for i in range(matrix.shape[1]):
            there = builder.and_(builder.icmp_signed("<=", first, index(i)), builder.icmp_signed(">", last, index(i)))
            sources.append(row(data(3), args[4], i, args[5], there, zeros))

        def rows_of(array: Any) -> list[Any]:
            return [
                row(array, args[10], k, args[11], builder.icmp_signed(">", args[12], index(k)), left_out)
                for k in range(len(matrix))
            ]

        # What each row of the result begins with, and where it goes.
        before = [(kinds[bias], [data(7)] * len(matrix))] if bias in optional else []
        before += [(kinds[plus], rows_of(data(8)))] if plus in optional else []
        targets = rows_of(data(9))
        whole = builder.mul(builder.sdiv(args[14], index(LANES)), index(LANES))
        for begin, end, lanes in ((index(0), whole, LANES), (whole, args[14], 1)):
            with cgutils.for_range_slice(builder, begin, end, index(lanes)) as (c, _):
                rows = [load(builder, kinds[x], builder.gep(source, [c]), lanes) for source in sources]
                for k, (factors, target) in enumerate(zip(matrix, targets, strict=True)):
                    firsts = [load(builder, kind, builder.gep(starts[k], [c]), lanes) for kind, starts in before]
                    begin_with = _sum(builder, None, [1] * len(firsts), firsts)
                    y = _sum(builder, begin_with, factors, rows)
                    store(builder, kinds[out], y, builder.gep(target, [c]), lanes)
        return context.get_dummy_value()

    return types.void(
        which, m, results, x, place, step, inside, bias, plus, out, to, stride, count, room, channels
    ), emit


@intrinsic  # type: ignore[untyped-decorator]
def transform_weights(
    context: Any, m: Any, down: Any, across: Any, x: Any, count: Any, out: Any, to: Any, stride: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """`G w G'`, or `G w`, of some channels' weights for WIDTH columns.

    Args:
        m, down, across: constants that say which tiles; across is None if they are of one axis.
        x: `(count, 9, WIDTH)`, or 3 of one axis.
        out, to, stride: where `(count, WIDTH)` of the first tap go, and how far those of the next ones.
    """
    one_axis = isinstance(across, types.NoneType)
    if not _are_numbers(m, down) or not (one_axis or _are_numbers(across)) or not in_a_row(x, out):
        return None
    others = 1 if one_axis else 3

    def along(axis: Any, builder: Any, values: list[Any]) -> list[Any]:
        matrix = winograd.matrices(m.literal_value, axis.literal_value)[1]
        return [_sum(builder, None, factors, values) for factors in matrix]

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        with cgutils.for_range(builder, args[4]) as loop:
            source = builder.gep(data(3), [builder.mul(loop.index, index(3 * others * WIDTH))])
            target = builder.gep(data(5), [builder.add(args[6], builder.mul(loop.index, index(WIDTH)))])
            for v in range(VECTORS):
                taps = [builder.load(vector_at(builder, source, i * VECTORS + v), align=4) for i in range(3 * others)]
                rows = [along(down, builder, taps[i::others]) for i in range(others)]
                results = [
                    y for row in zip(*rows, strict=True) for y in (row if one_axis else along(across, builder, [*row]))
                ]
                for k, y in enumerate(results):
                    place = builder.gep(target, [builder.mul(args[7], index(k))])
                    builder.store(y, vector_at(builder, place, v), align=4)
        return context.get_dummy_value()

    return types.void(m, down, across, x, count, out, to, stride), emit


def _are_numbers(*constants: Any) -> bool:
    """Whether Numba's types are those of constants."""
    return all(isinstance(x, types.IntegerLiteral) for x in constants)


def _sum(builder: Any, total: Any, factors: Any, values: Any) -> Any:
    """The total plus each factor times its value."""
    for factor, value in zip(factors, values, strict=True):
        total = _add(builder, total, float(factor), value)
    return total


def _add(builder: Any, total: Any, factor: float, value: Any) -> Any:
    """`total + factor * value`, in one instruction at most."""
    if factor == 0:
        return total
    if total is not None and abs(factor) == 1:
        return (builder.fadd if factor > 0 else builder.fsub)(total, value)
    one = ir.Constant(ir.FloatType(), factor)
    factors = one if value.type == one.type else ir.Constant(value.type, [one] * value.type.count)
    product = value if factor == 1 else builder.fmul(factors, value, flags=["contract"])
    return product if total is None else builder.fadd(total, product, flags=["contract"])
