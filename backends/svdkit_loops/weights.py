"""Weights in the dtype that is computed in. All processors take part, since memory that is touched first is slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .compiled import compiled
from .threads import share

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]


def to_float32(values: npt.NDArray[Any]) -> Floats:
    """Floats of any dtype, bfloat16 included, as float32: themselves if they are, and contiguous."""
    values = np.ascontiguousarray(values)
    if values.dtype == np.float32:
        return values
    out = np.empty(values.shape, np.float32)
    given, result = values.reshape(-1), out.reshape(-1)
    share(lambda i, j: into_float32(given[i:j], result[i:j]), given.size, 1)
    return out


def into_float32(values: npt.NDArray[Any], out: Floats) -> None:
    """The same by one thread, into contiguous memory of the same shape."""
    convert = {"float16": _from_float16, "bfloat16": _from_bfloat16}.get(values.dtype.name)
    if convert is None or not values.flags.c_contiguous:
        np.copyto(out, values, casting="same_kind")
    else:
        convert(values.reshape(-1).view(np.uint16), out.reshape(-1))


@compiled
def _from_float16(bits: Bits, out: Floats) -> None:
    for k in range(out.size):
        h = np.uint32(bits[k])
        # Exponent and fraction where float32 has them; multiplying by 2^112 puts the exponent's zero right.
        magnitude = np.uint32((h & np.uint32(0x7FFF)) << np.uint32(13))
        value = magnitude.view(np.float32) * np.float32(2.0**112)
        if h & np.uint32(0x7C00) == np.uint32(0x7C00):  # infinity or no number
            value = np.uint32(magnitude | np.uint32(0x7F800000)).view(np.float32)
        out[k] = -value if h & np.uint32(0x8000) else value


@compiled
def _from_bfloat16(bits: Bits, out: Floats) -> None:
    for k in range(out.size):
        out[k] = np.uint32(np.uint32(bits[k]) << np.uint32(16)).view(np.float32)
