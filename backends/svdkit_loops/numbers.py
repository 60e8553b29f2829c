"""Numbers as loops find them in memory, which in registers are float32.

Arrays are of float32, of float16 as its bits in unsigned integers, or of bfloat16 in signed ones, so that their types
tell them apart. Two numbers of bfloat16 that lie together, as a processor multiplies them, are one integer of 32 bits.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_, _, _features = cpu_target.target_context.codegen().magic_tuple()
FEATURES = {name[1:]: name[0] == "+" for name in _features.split(",") if name}
"""Of the processor that Numba compiles for, as LLVM names them: this one, unless its settings say otherwise."""
HAS_HALVES = bool(FEATURES.get("f16c")) or platform.machine() in ("aarch64", "arm64")
"""Whether float16 can be converted in hardware."""
HAS_PAIRS = bool(FEATURES.get("avx512f") and FEATURES.get("avx512bf16"))
"""Whether pairs of bfloat16 can be multiplied in hardware."""

_KINDS = {types.float32: "float32", types.uint16: "float16", types.int16: "bfloat16", types.int32: "pairs"}
_SINGLE, _SHORT, _WORD = ir.FloatType(), ir.IntType(16), ir.IntType(32)


def kind_of(array: Any) -> str | None:
    """What Numba's type of an array holds, if it lies in memory one number after another."""
    return _KINDS.get(array.dtype) if isinstance(array, types.Array) and array.layout == "C" else None


def load(builder: Any, kind: str, place: Any, lanes: int) -> Any:
    """So many numbers of a kind as float32: a vector, or one alone. Pairs are told as if they were float32."""
    return widened(builder, kind, as_stored(builder, kind, place, lanes), lanes)


def as_stored(builder: Any, kind: str, place: Any, lanes: int) -> Any:
    """So many numbers of a kind, or their bits."""
    element = _SINGLE if kind in ("float32", "pairs") else _SHORT
    align = 4 if element is _SINGLE else 2
    return builder.load(builder.bitcast(place, _of(element, lanes).as_pointer()), align=align)


def widened(builder: Any, kind: str, bits: Any, lanes: int) -> Any:
    """What is stored so, as float32."""
    if kind in ("float32", "pairs"):
        return bits
    if kind == "float16" and HAS_HALVES:
        return builder.fpext(builder.bitcast(bits, _of(ir.HalfType(), lanes)), _of(_SINGLE, lanes))
    bits = builder.zext(bits, _of(_WORD, lanes))
    if kind == "bfloat16":
        return builder.bitcast(builder.shl(bits, _fill(_WORD, 16, lanes)), _of(_SINGLE, lanes))
    # Exponent and fraction where float32 has them; multiplying by 2^112 puts the exponent's zero right.
    magnitude = builder.shl(builder.and_(bits, _fill(_WORD, 0x7FFF, lanes)), _fill(_WORD, 13, lanes))
    finite = builder.fmul(builder.bitcast(magnitude, _of(_SINGLE, lanes)), _fill(_SINGLE, 2.0**112, lanes))
    beyond = builder.icmp_unsigned(">=", magnitude, _fill(_WORD, 0x7C00 << 13, lanes))  # infinity or no number
    sign = builder.shl(builder.and_(bits, _fill(_WORD, 0x8000, lanes)), _fill(_WORD, 16, lanes))
    infinite = builder.or_(magnitude, _fill(_WORD, 0x7F800000, lanes))
    value = builder.select(beyond, infinite, builder.bitcast(finite, _of(_WORD, lanes)))
    return builder.bitcast(builder.or_(value, sign), _of(_SINGLE, lanes))


def store(builder: Any, kind: str, value: Any, place: Any, lanes: int) -> None:
    """So many numbers in float32 as those of a kind, which is no float16."""
    if kind in ("float32", "pairs"):
        builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=4)
    else:
        bits = builder.trunc(_rounded(builder, value, lanes), _of(_SHORT, lanes))
        builder.store(bits, builder.bitcast(place, bits.type.as_pointer()), align=2)


@intrinsic  # type: ignore[untyped-decorator]
def number(context: Any, x: Any) -> tuple[Any, Callable[..., Any]] | None:
    """An element of an array, of float32 or bfloat16, as float32."""
    if x not in (types.float32, types.int16):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if x == types.float32:
            return args[0]
        return builder.bitcast(builder.shl(builder.zext(args[0], _WORD), _fill(_WORD, 16, 1)), _SINGLE)

    return types.float32(x), emit


@intrinsic  # type: ignore[untyped-decorator]
def kept(context: Any, x: Any, array: Any) -> tuple[Any, Callable[..., Any]] | None:
    """A number in float32 as an element of an array, of float32 or bfloat16."""
    if x != types.float32 or array.dtype not in (types.float32, types.int16):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if array.dtype == types.float32:
            return args[0]
        return builder.trunc(_rounded(builder, args[0], 1), _SHORT)

    return array.dtype(x, array), emit


@intrinsic  # type: ignore[untyped-decorator]
def pair(context: Any, first: Any, second: Any) -> tuple[Any, Callable[..., Any]] | None:
    """Two numbers in float32 as a pair of bfloat16."""
    if first != types.float32 or second != types.float32:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high = (_rounded(builder, x, 1) for x in args)
        return builder.or_(low, builder.shl(high, _fill(_WORD, 16, 1)))

    return types.int32(first, second), emit


def _rounded(builder: Any, value: Any, lanes: int) -> Any:
    """Bits of bfloat16, in integers of 32: the nearest number, of two as near the even one."""
    bits = builder.bitcast(value, _of(_WORD, lanes))
    odd = builder.and_(builder.lshr(bits, _fill(_WORD, 16, lanes)), _fill(_WORD, 1, lanes))
    nearest = builder.lshr(builder.add(bits, builder.add(odd, _fill(_WORD, 0x7FFF, lanes))), _fill(_WORD, 16, lanes))
    return builder.select(builder.fcmp_unordered("uno", value, value), _fill(_WORD, 0x7FC0, lanes), nearest)


def _of(element: Any, lanes: int) -> Any:
    return element if lanes == 1 else ir.VectorType(element, lanes)


def _fill(element: Any, value: float, lanes: int) -> Any:
    return ir.Constant(_of(element, lanes), value if lanes == 1 else [value] * lanes)
