"""Weights as they are stored, in 16 bits or 32, made into what a tile takes on the way to it.

So nothing is converted when a model is loaded, its files may stay mapped, and half of the bytes come from memory. A
panel of 32 columns is laid out for all rows that a thread has: 0.4 cycles a number, where 500 rows take 31.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .numbers import kind_of, load
from .tile import LANES, WIDTH, data_of, fetch, index, transposed, vector_at

Stored: TypeAlias = npt.NDArray[Any]
"""Of a kind that `numbers` tells apart."""

_BITS = {"float16": np.uint16, "bfloat16": np.int16}


def to_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Floats of any dtype as loops take what is small, such as biases: themselves if they are float32, in order."""
    return np.ascontiguousarray(values, np.float32)


def stored(weight: npt.NDArray[Any]) -> Stored:
    """Weights as loops take them: the same memory, unless it is of another dtype or order."""
    weight = np.require(weight, requirements=("C", "A"))
    bits = _BITS.get(weight.dtype.name)
    return to_float32(weight) if bits is None else weight.view(bits)


def stored_size(weight: npt.NDArray[Any]) -> int:
    """Bytes that a weight takes as loops take it."""
    return weight.nbytes if weight.dtype.name in _BITS else 4 * weight.size


@intrinsic  # type: ignore[untyped-decorator]
def pack_columns(
    context: Any, weights: Any, start: Any, stride: Any, count: Any, length: Any, out: Any, to: Any
) -> tuple[Any, Callable[..., Any]] | None:
    """Rows of weights as `multiply_tile` takes columns: `(length, WIDTH)` from the to-th number of `out` on.

    They become float32; pairs stay pairs.

    Args:
        weights: `Stored`; the first row begins at the start-th number, the next ones a stride further each.
        count: of rows that there are, at most WIDTH; what becomes of columns beyond them means nothing.
    """
    kind = kind_of(weights)
    if kind is None or kind_of(out) != ("pairs" if kind == "pairs" else "float32"):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        source, target = builder.gep(data(0), [args[1]]), builder.gep(data(5), [args[6]])
        stride, count, length = args[2:5]
        last = builder.sub(count, index(1))
        rows = []
        for i in range(WIDTH):
            row = builder.select(builder.icmp_signed("<", index(i), count), index(i), last)
            rows.append(builder.gep(source, [builder.mul(row, stride)]))
        whole = builder.mul(builder.sdiv(length, index(LANES)), index(LANES))
        for begin, end, lanes in ((index(0), whole, LANES), (whole, length, 1)):
            with cgutils.for_range_slice(builder, begin, end, index(lanes)) as (k, _):
                if lanes > 1:
                    for row in rows:
                        fetch(builder, builder.gep(row, [k]))
                for first in range(0, WIDTH, LANES):
                    numbers = [load(builder, kind, builder.gep(row, [k]), lanes) for row in rows[first:][:LANES]]
                    vectors = transposed(builder, numbers) if lanes > 1 else [_together(builder, numbers)]
                    for i, vector in enumerate(vectors):
                        place = builder.add(builder.mul(builder.add(k, index(i)), index(WIDTH)), index(first))
                        builder.store(vector, vector_at(builder, builder.gep(target, [place]), 0), align=4)
        return context.get_dummy_value()

    return types.void(weights, start, stride, count, length, out, to), emit


def _together(builder: Any, numbers: list[Any]) -> Any:
    """A vector of single numbers."""
    vector = ir.Constant(ir.VectorType(ir.FloatType(), len(numbers)), ir.Undefined)
    for i, number in enumerate(numbers):
        vector = builder.insert_element(vector, number, ir.Constant(ir.IntType(32), i))
    return vector
