"""Memory that is asked for before it is needed, while tiles are multiplied, which leaves it idle.

A processor foresees what lies in a row. It does not foresee the short rows of a tile's result, of what is added to it,
and of what is laid out next: products wait for these 2 to 11 % of their time. A few lines at a time, for one waits for
the requests before it if there are many: asked for all at once, they save nothing.
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

from .compiled import compiled
from .room import LINE

Addresses: TypeAlias = npt.NDArray[np.int64]

BYTES = 4 * LINE
"""What is asked for at an address."""
MOST = 4096
"""Addresses that are noted at a time."""
FURTHER = 512
"""Bytes from what is read of a row to what is asked for meanwhile: rows are too many for a processor to foresee."""

_Index = ir.IntType(64)


@compiled
def ask_for(
    asked: Addresses,
    count: int,
    x: npt.NDArray[Any],
    first: int,
    rows: int,
    column: int,
    columns: int,
    part: int = 0,
    parts: int = 1,
) -> int:
    """Notes, after so many addresses, those of some columns of some rows that there are, or of a part of these rows.

    Gives how many addresses there are then.
    """
    start, size, end = _address(x), x.itemsize, min(first + rows * (part + 1) // parts, x.shape[0])
    for row in range(first + rows * part // parts, end):
        begin = start + (row * x.shape[1] + column) * size
        for at in range(begin, begin + columns * size, BYTES):
            if count < len(asked):
                asked[count] = at
                count += 1
    return count


@intrinsic  # type: ignore[untyped-decorator]
def _address(context: Any, x: Any) -> tuple[Any, Callable[..., Any]] | None:
    """Where an array begins."""
    if not isinstance(x, types.Array) or x.layout != "C":
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(context.make_array(x)(context, builder, args[0]).data, _Index)

    return types.int64(x), emit


def emit_request(builder: Any, address: Any, lines: int = 1) -> None:
    """Asks for lines of memory from an address on, and does not wait for them; there need not be anything."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    for line in range(lines):
        place = builder.inttoptr(builder.add(address, ir.Constant(address.type, line * LINE)), byte)
        builder.call(prefetch, [place, *(ir.Constant(word, x) for x in (0, 3, 1))])  # to read, into all caches, data


def fetch(builder: Any, place: Any) -> None:
    """Asks for what lies FURTHER bytes from a place."""
    emit_request(builder, builder.add(builder.ptrtoint(place, _Index), ir.Constant(_Index, FURTHER)))
