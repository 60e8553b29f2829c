"""Turns: two threads go through one row of parts from both ends, until they meet.

Halves that are alike end apart, since processors are virtual and have neighbours. Whether there is a part left is asked
inside loops, where nobody holds Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiled import compiled

Turns: TypeAlias = npt.NDArray[np.int64]
"""Counts that begin at 0: of the parts that were taken, of each of several rounds, or of how often one was done."""


def turns_of(threads: int, counts: int) -> Turns:
    """So many counts for each of the threads, of which neighbours share those of the first."""
    return np.zeros((threads, counts), np.int64)


@intrinsic  # type: ignore[untyped-decorator]
def take(context: Any, turns: Any, i: Any) -> tuple[Any, Callable[..., Any]] | None:
    """The i-th count, for this thread alone: who asks next is given one more."""
    return _atomic(turns, i, lambda builder, place: builder.atomic_rmw("add", place, ir.Constant(_Count, 1), "acq_rel"))


@compiled
def wait_for(turns: Turns, i: int, count: int) -> None:
    """Until the i-th count is so large; who is to raise it is at work."""
    while _count(turns, i) < count:
        pass


_Count = ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def _count(context: Any, turns: Any, i: Any) -> tuple[Any, Callable[..., Any]] | None:
    return _atomic(turns, i, lambda builder, place: builder.load_atomic(place, "acquire", 8))


def _atomic(turns: Any, i: Any, operation: Callable[[Any, Any], Any]) -> tuple[Any, Callable[..., Any]] | None:
    """What an intrinsic is that does one thing to the i-th count."""
    if not isinstance(turns, types.Array) or turns.layout != "C" or turns.dtype != types.int64:
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(turns)(context, builder, args[0]).data
        return operation(builder, builder.gep(data, [args[1]]))

    return types.int64(turns, i), emit
