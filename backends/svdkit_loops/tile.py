"""The innermost part of a matrix product: a tile of it that stays in vector registers while rows and columns pass.

This is what a compiler does not find: each step takes one value of each row and a vector or two of columns to
`HEIGHT * VECTORS` sums, so that nothing but products is done most of the time. On Zen 4 it reaches 96 % of the peak.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .ahead import BYTES, emit_request, fetch
from .compiled import compiled
from .numbers import FEATURES, HAS_PAIRS, kind_of, load, store
from .room import LINE

LANES = 16 if FEATURES.get("avx512f") else 8 if FEATURES.get("avx2") else 4
"""Numbers in a vector register."""
VECTORS = 2
WIDTH = VECTORS * LANES
"""Columns of a tile."""
HEIGHT = 14 if LANES == 16 or platform.machine() in ("aarch64", "arm64") else 6
"""Rows of a tile, at most: with 32 registers, or 16."""

_Index, _Number = ir.IntType(64), ir.FloatType()
_Vector = ir.VectorType(_Number, LANES)
NUMBERS, _PAIRS, _ADDRESSES = (types.CPointer(kind) for kind in (types.float32, types.int32, types.int64))
_SPLAT = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)


@compiled
def blocks_of(count: int) -> int:
    """How many blocks of `HEIGHT` at most so many rows are parted into."""
    return -(-count // HEIGHT)


@compiled
def block_of(count: int, i: int) -> tuple[int, int]:
    """The first row of the i-th of them, and its height; all are all but as high."""
    blocks = blocks_of(count)
    first = count * i // blocks
    return first, count * (i + 1) // blocks - first


def in_a_row(*arrays: Any) -> bool:
    """Whether Numba's types are of arrays of float32 that lie in memory one number after another.

    Nothing else may reach what is written for LLVM, which takes addresses and asks nothing: Numba then says that it
    knows no such function.
    """
    return all(isinstance(x, types.Array) and x.dtype == types.float32 and x.layout == "C" for x in arrays)


@intrinsic  # type: ignore[untyped-decorator]
def place(context: Any, x: Any, start: Any) -> tuple[Any, Callable[..., Any]] | None:
    """Where the start-th number, pair or address of a whole array is, for as long as the array is used further on.

    Loops that choose between arrays would count references to them: 300 cycles a tile.
    """
    places = {types.float32: NUMBERS, types.int32: _PAIRS, types.int64: _ADDRESSES}
    if not isinstance(x, types.Array) or x.layout != "C" or x.dtype not in places:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(data_of(context, builder, signature, args)(0), [args[1]])

    return places[x.dtype](x, start), emit


@intrinsic  # type: ignore[untyped-decorator]
def multiply_tile(
    context: Any,
    rows: Any,
    height: Any,
    length: Any,
    columns: Any,
    begin: Any,
    step: Any,
    out: Any,
    stride: Any,
    asked: Any = None,
    count: Any = 0,
) -> tuple[Any, Callable[..., Any]] | None:
    """Rows of WIDTH numbers become what they begin with + rows times columns.

    Args:
        rows: the place of `(length, height)`; of numbers, or of pairs, if the processor multiplies these.
        columns: that of `(length, WIDTH)`, of the same.
        begin, step: what the first row begins with, and how much further it is for the next ones.
        out, stride: where the first row goes, and how much further the next ones.
        asked, count: the place of so many addresses, as `ahead` has them, that are asked for meanwhile, if any are.
    """
    if asked is None:  # as it is if nothing is given
        asked, count = types.none, types.intp
    pairs, asks = rows == _PAIRS and HAS_PAIRS, asked == _ADDRESSES
    if rows != columns or begin != NUMBERS or out != NUMBERS or (rows != NUMBERS and not pairs):
        return None
    if not asks and asked != types.none:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, height, length, columns, begin, step, out, stride, asked, count = args
        ahead = (asked, count) if asks else None
        emit_each(
            builder,
            height,
            range(1, HEIGHT + 1),
            lambda high: _emit_tile(builder, pairs, high, length, rows, columns, (begin, step), (out, stride), ahead),
        )
        return context.get_dummy_value()

    return types.void(rows, height, length, columns, begin, step, out, stride, asked, count), emit


@intrinsic  # type: ignore[untyped-decorator]
def pack_rows(
    context: Any, x: Any, start: Any, stride: Any, height: Any, length: Any, out: Any, to: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """Rows of numbers, or of pairs, as `multiply_tile` takes them: `(length, height)` from the to-th of `out` on.

    Up to HEIGHT + LANES numbers after them are overwritten.
    """
    if kind_of(x) not in ("float32", "pairs") or kind_of(out) != kind_of(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        source, (stride, height, length) = builder.gep(data(0), [args[1]]), args[2:5]
        rows = places_of(builder, source, stride, height, HEIGHT)

        def read(i: int, k: Any, lanes: int) -> Any:
            place = builder.gep(rows[min(i, HEIGHT - 1)], [k])
            if lanes > 1 and i < HEIGHT:
                fetch(builder, place)
            return load(builder, "float32", place, lanes)

        emit_packed(builder, read, HEIGHT, length, builder.gep(data(5), [args[6]]), height)
        return context.get_dummy_value()

    return types.void(x, start, stride, height, length, out, to), emit


@intrinsic  # type: ignore[untyped-decorator]
def subtract_largest(context: Any, x: Any, count: Any) -> tuple[Any, Callable[..., Any]] | None:
    """From each of WIDTH columns of so many rows its largest number."""
    if not in_a_row(x):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = data_of(context, builder, signature, args)(0)
        largest = [cgutils.alloca_once(builder, _Vector) for _ in range(VECTORS)]
        for v, most in enumerate(largest):
            builder.store(builder.load(vector_at(builder, start, v), align=4), most)
        for subtracts in (False, True):
            with cgutils.for_range(builder, args[1]) as loop:
                row = builder.gep(start, [builder.mul(loop.index, index(WIDTH))])
                for v, most in enumerate(largest):
                    place = vector_at(builder, row, v)
                    here, so_far = builder.load(place, align=4), builder.load(most)
                    if subtracts:
                        builder.store(builder.fsub(here, so_far), place, align=4)
                    else:
                        builder.store(builder.select(builder.fcmp_ordered("<", so_far, here), here, so_far), most)
        return context.get_dummy_value()

    return types.void(x, count), emit


def transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """LANES vectors of the i-th numbers of LANES vectors, by perfect shuffles."""
    half = LANES // 2
    shuffles = [
        ir.Constant(ir.VectorType(ir.IntType(32), LANES), [x for i in range(half) for x in (i + at, LANES + i + at)])
        for at in (0, half)
    ]
    for _ in range(LANES.bit_length() - 1):
        rows = [builder.shuffle_vector(rows[i], rows[i + half], s) for i in range(half) for s in shuffles]
    return rows


def places_of(builder: Any, first: Any, stride: Any, count: Any, most: int) -> list[Any]:
    """Where rows begin, a stride apart; of those beyond the last, of which there may be `most`, where that does."""
    last = builder.sub(count, index(1))
    rows = [builder.select(builder.icmp_signed("<", index(i), last), index(i), last) for i in range(most)]
    return [builder.gep(first, [builder.mul(row, stride)]) for row in rows]


def emit_packed(
    builder: Any, read: Callable[[int, Any, int], Any], rows: int, length: Any, out: Any, step: Any
) -> None:
    """Numbers of rows side by side: those that all rows have at one place, and a step further those at the next.

    By vectors, which takes a third of the time that single numbers do. Rows are taken in groups of LANES, the last
    group first, so what a group has beyond the last row is overwritten by the groups before it.

    Args:
        read: gives so many numbers, LANES or one, of the i-th row from the k-th on, for any i of a group.
    """
    whole = builder.mul(builder.sdiv(length, index(LANES)), index(LANES))
    for first in reversed(range(0, rows, LANES)):
        for begin, end, lanes in ((index(0), whole, LANES), (whole, length, 1)):
            with cgutils.for_range_slice(builder, begin, end, index(lanes)) as (k, _):
                numbers = [read(i, k, lanes) for i in range(first, first + LANES)]
                for i, vector in enumerate(
                    transposed(builder, numbers) if lanes > 1 else [_together(builder, numbers)]
                ):
                    place = builder.add(builder.mul(builder.add(k, index(i)), step), index(first))
                    builder.store(vector, vector_at(builder, builder.gep(out, [place]), 0), align=4)


def _together(builder: Any, numbers: list[Any]) -> Any:
    """A vector of single numbers."""
    vector = ir.Constant(_Vector, ir.Undefined)
    for i, number in enumerate(numbers):
        vector = builder.insert_element(vector, number, index(i))
    return vector


@intrinsic  # type: ignore[untyped-decorator]
def begin_tile(
    context: Any, bias: Any, at: Any, plus: Any, start: Any, stride: Any, height: Any, width: Any, tile: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """`tile[:height, :width]` becomes bias, from its at-th number on, + rows of `plus`, as `store_tile` has them."""
    kind = kind_of(plus)
    if not in_a_row(bias, tile) or kind not in ("float32", "bfloat16"):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        first = builder.gep(data(0), [args[1]])

        def move(inside: Any, outside: Any, column: Any, lanes: int) -> None:
            number = load(builder, "float32", builder.gep(first, [column]), lanes)
            store(builder, "float32", builder.fadd(number, load(builder, kind, outside, lanes)), inside, lanes)

        _emit_rows(builder, data(7), (data(2), args[3], args[4]), args[5], args[6], move)
        return context.get_dummy_value()

    return types.void(bias, at, plus, start, stride, height, width, tile), emit


@intrinsic  # type: ignore[untyped-decorator]
def store_tile(
    context: Any, tile: Any, height: Any, width: Any, out: Any, start: Any, stride: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """Copies `tile[:height, :width]` to rows of `out`, a stride apart, from the start-th number on.

    A loop would ask in each row whether the two overlap: 1400 cycles a tile instead of 100.
    """
    kind = kind_of(out)
    if not in_a_row(tile) or kind not in ("float32", "bfloat16"):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)

        def move(inside: Any, outside: Any, column: Any, lanes: int) -> None:
            store(builder, kind, load(builder, "float32", inside, lanes), outside, lanes)

        _emit_rows(builder, data(0), (data(3), args[4], args[5]), args[1], args[2], move)
        return context.get_dummy_value()

    return types.void(tile, height, width, out, start, stride), emit


def _emit_rows(builder: Any, tile: Any, rows: Any, height: Any, width: Any, move: Callable[..., None]) -> None:
    """Moves what is in a tile from or to rows elsewhere: vectors if it is as wide as WIDTH, else single numbers."""
    whole, (data, start, stride) = builder.icmp_signed("==", width, index(WIDTH)), rows
    with cgutils.for_range(builder, height) as each:
        inside = builder.gep(tile, [builder.mul(each.index, index(WIDTH))])
        outside = builder.gep(data, [builder.add(start, builder.mul(each.index, stride))])
        with builder.if_else(whole) as (then, otherwise):
            with then:
                for v in range(VECTORS):
                    column = index(v * LANES)
                    move(builder.gep(inside, [column]), builder.gep(outside, [column]), column, LANES)
            with otherwise, cgutils.for_range(builder, width) as loop:
                move(builder.gep(inside, [loop.index]), builder.gep(outside, [loop.index]), loop.index, 1)


def data_of(context: Any, builder: Any, signature: Any, args: Any) -> Callable[[int], Any]:
    """What gives the address of an argument that is an array."""
    return lambda i: context.make_array(signature.args[i])(context, builder, args[i]).data


def emit_each(builder: Any, value: Any, cases: Iterable[int], emit: Callable[[int], None]) -> None:
    """What is to be done in each case of a whole number; in any other, nothing."""
    end = builder.append_basic_block("end")
    switch = builder.switch(value, end)
    for case in cases:
        block = builder.append_basic_block(f"case_{case}")
        switch.add_case(index(case), block)
        builder.position_at_end(block)
        emit(case)
        builder.branch(end)
    builder.position_at_end(end)


def _emit_tile(
    builder: Any, pairs: bool, height: int, length: Any, a: Any, b: Any, begin: Any, out: Any, ahead: Any
) -> None:
    element = ir.IntType(32) if pairs else _Number
    vector = ir.VectorType(element, LANES)
    name = "llvm.x86.avx512bf16.dpbf16ps.512" if pairs else f"llvm.fmuladd.v{LANES}f32"
    kinds = [_Vector, vector, vector] if pairs else [vector, vector, _Vector]
    multiply_add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_Vector, kinds), name)
    # Variables that live in registers, once LLVM has seen that nothing takes their address.
    sums = [[cgutils.alloca_once(builder, _Vector) for _ in range(VECTORS)] for _ in range(height)]
    for i, row in enumerate(sums):
        place = builder.gep(begin[0], [builder.mul(index(i), begin[1])])
        for v, x in enumerate(row):
            builder.store(builder.load(vector_at(builder, place, v), align=4), x)
    for k in _steps(builder, length, ahead):
        step = builder.gep(b, [builder.mul(k, index(WIDTH))])
        values = builder.gep(a, [builder.mul(k, index(height))])
        columns = [
            builder.load(builder.bitcast(builder.gep(step, [index(v * LANES)]), vector.as_pointer()), align=4)
            for v in range(VECTORS)
        ]
        for i, row in enumerate(sums):
            value = builder.load(builder.gep(values, [index(i)]))
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            value = builder.shuffle_vector(one, one, _SPLAT)
            for x, column in zip(row, columns, strict=True):
                so_far = builder.load(x)
                factors = [so_far, value, column] if pairs else [value, column, so_far]
                builder.store(builder.call(multiply_add, factors), x)
    for i, row in enumerate(sums):
        place = builder.gep(out[0], [builder.mul(index(i), out[1])])
        for v, x in enumerate(row):
            builder.store(builder.load(x), vector_at(builder, place, v), align=4)


def _steps(builder: Any, length: Any, ahead: Any) -> Iterator[Any]:
    """A loop, whose body is what follows; in equal parts, before each of which there is a request, if there are any."""
    if ahead is None:
        with cgutils.for_range(builder, length) as loop:
            yield loop.index
        return
    asked, count = ahead
    each = builder.sdiv(length, builder.add(count, index(1)))
    with cgutils.for_range(builder, builder.add(count, index(1))) as part:
        with builder.if_then(builder.icmp_signed("<", part.index, count)):
            emit_request(builder, builder.load(builder.gep(asked, [part.index])), BYTES // LINE)
        begin = builder.mul(each, part.index)
        end = builder.select(builder.icmp_signed("<", part.index, count), builder.add(begin, each), length)
        with cgutils.for_range_slice(builder, begin, end, index(1)) as (k, _):
            yield k


def vector_at(builder: Any, start: Any, i: int) -> Any:
    """The address of the i-th vector from a number on."""
    return builder.bitcast(builder.gep(start, [index(i * LANES)]), _Vector.as_pointer())


def index(i: int) -> Any:
    """A number that counts."""
    return ir.Constant(_Index, i)
