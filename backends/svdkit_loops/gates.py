"""Values times GELU of their gates, on whole tiles.

Where a processor looks numbers up in a register, the integral in GELU is a short polynomial for each piece of its axis,
which takes half the time of one formula for all of the axis, and is nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import scalar
from .compiled import compiled
from .room import Floats
from .tile import LANES, data_of, in_a_row, index, vector_at

HAS_TABLES = LANES == 16
"""Whether there is an instruction that takes each of a vector's numbers from anywhere in another: AVX-512 has it."""
PIECES, DEGREE = LANES, 5
PER_UNIT = 8 / 3
"""Pieces for each unit of the axis: the last one begins at 5.4, where the integral is all but its limit."""


def _table() -> npt.NDArray[np.float32]:
    """Of each power of what x is beyond the middle of a piece, in pieces: its factor in `Phi(x) - 1/2`, x > 0."""
    nodes = np.cos((np.arange(DEGREE + 1) + 0.5) * np.pi / (DEGREE + 1)) / 2  # Chebyshev's
    powers = np.vander(nodes, increasing=True)
    heights = [[math.erf((i + r) / PER_UNIT / math.sqrt(2)) / 2 for r in nodes] for i in range(PIECES - 1)]
    factors = [*np.linalg.solve(powers, np.array(heights).T).T, [0.5] + DEGREE * [0]]
    return np.array(factors, np.float32).T


def _by_table(values: Floats, gates: Floats, count: int) -> None:
    """So many values, in whole vectors, become themselves times GELU of their gates, off by at most 4e-7."""
    _emit_gates(values, gates, count)


def by_formula(values: Floats, gates: Floats, count: int) -> None:
    """The same where there are no tables."""
    for k in range(count):
        values[k] *= scalar.gelu(gates[k])


@intrinsic  # type: ignore[untyped-decorator]
def _emit_gates(context: Any, values: Any, gates: Any, count: Any) -> tuple[Any, Callable[..., Any]] | None:
    if not in_a_row(values, gates):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature, args)
        with cgutils.for_range_slice(builder, index(0), args[2], index(LANES)) as (k, _):
            value, gate = (vector_at(builder, builder.gep(data(i), [k]), 0) for i in (0, 1))
            y = _gelu(builder, builder.load(gate, align=4))
            builder.store(builder.fmul(builder.load(value, align=4), y), value, align=4)
        return context.get_dummy_value()

    return types.void(values, gates, count), emit


def _gelu(builder: Any, x: Any) -> Any:
    """Of a vector: `x / 2 + |x| (Phi(|x|) - 1/2)`."""
    vector, whole = x.type, ir.VectorType(ir.IntType(32), LANES)
    names = "llvm.fabs.v16f32", "llvm.fmuladd.v16f32", "llvm.x86.avx512.permvar.sf.512"
    takes = [vector], [vector] * 3, [vector, whole]
    fabs, multiply_add, look_up = (
        cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, kinds), name)
        for name, kinds in zip(names, takes, strict=True)
    )

    def fill(number: float) -> Any:
        return ir.Constant(vector, [number] * LANES)

    size = builder.call(fabs, [x])
    at = builder.fmul(size, fill(PER_UNIT))
    at = builder.select(builder.fcmp_ordered("<", at, fill(PIECES - 1)), at, fill(PIECES - 1))
    # Beside so large a number float32 has no digits after the point: those before it are its last bits.
    large = builder.fadd(at, fill(1.5 * 2**23))
    piece, beyond = builder.bitcast(large, whole), builder.fsub(at, builder.fsub(large, fill(1.5 * 2**23)))
    integral = None
    for factors in _table()[::-1]:
        factor = builder.call(look_up, [ir.Constant(vector, [float(x) for x in factors]), piece])
        integral = factor if integral is None else builder.call(multiply_add, [integral, beyond, factor])
    return builder.call(multiply_add, [size, integral, builder.fmul(x, fill(0.5))])


apply_gates = compiled(_by_table if HAS_TABLES else by_formula)
