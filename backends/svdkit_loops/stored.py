"""Weights as they are stored, in 16 bits or 32, made into what a tile takes on the way to it.

So nothing is converted when a model is loaded, its files may stay mapped, and half of the bytes come from memory. A
panel of 32 columns is laid out for all rows that a thread has: 0.4 cycles a number, where 500 rows take 31.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from .ahead import fetch
from .numbers import kind_of, load
from .tile import WIDTH, data_of, emit_packed, index, places_of

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
        stride, count, length = args[2:5]
        rows = places_of(builder, builder.gep(data(0), [args[1]]), stride, count, WIDTH)

        def read(i: int, k: Any, lanes: int) -> Any:
            place = builder.gep(rows[i], [k])
            if lanes > 1:
                fetch(builder, place)
            return load(builder, kind, place, lanes)

        emit_packed(builder, read, WIDTH, length, builder.gep(data(5), [args[6]]), index(WIDTH))
        return context.get_dummy_value()

    return types.void(weights, start, stride, count, length, out, to), emit
