"""Matrix products with weights as they are stored; what follows is done on each tile.

A thread takes some rows and some columns of the result, in turns with its neighbour, and multiplies them by Strassen's
algorithm where there are enough, else as products are defined. On two cores of Zen 4 the latter takes 200 to 225
GFLOP/s of 234, MindSpore's and NumPy's products 150 to 200, the worse the fewer rows there are; Strassen's takes 8 to
20 % less time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import direct, strassen
from .numbers import HAS_PAIRS
from .parts import Way, edges, panels
from .room import Floats, room_for
from .stored import Stored
from .threads import MULTIPLIED, allowed_processors, share
from .tile import WIDTH
from .turns import turns_of


def multiply(x: Stored, weight: Stored, bias: Floats | None, out: Stored, plus: Stored | None = None) -> None:
    """`x @ weight.T + bias + plus` of `(M, I)`, `(O, I)` and `(M, O)`, into `(M, O)`.

    Of float32 all, but weights; or of bfloat16, but biases, where `takes_pairs` says so.
    """
    _share_multiply(x, [weight], [np.zeros(len(weight), np.float32) if bias is None else bias], out, plus)


def multiply_gated(x: Stored, value: Stored, b: Floats, gate: Stored, c: Floats, out: Stored) -> None:
    """`(x @ value.T + b) * gelu(x @ gate.T + c)` of `(M, I)` and `(O, I)`, into `(M, O)`."""
    _share_multiply(x, [value, gate], [b, c], out, None)


def takes_pairs(size: int) -> bool:
    """Whether so many inputs of bfloat16 can be multiplied as they are."""
    return HAS_PAIRS and size % 2 == 0


def _share_multiply(
    x: Stored, weights: Sequence[Stored], biases: Sequence[Floats], out: Stored, plus: Stored | None
) -> None:
    (rows, size), columns = x.shape, out.shape[1]
    shapes = [w.shape for w in weights], [b.shape for b in biases], out.shape if plus is None else plus.shape
    if len(out) != rows or shapes != ([(columns, size)] * len(weights), [(columns,)] * len(weights), out.shape):
        raise ValueError(
            f"A product of {x.shape} with weights {shapes[0]}, biases {shapes[1]} and a sum with {shapes[2]} does not "
            f"go into {out.shape}."
        )
    halves = x.dtype == np.int16
    if not size or (halves and (not takes_pairs(size) or any(w.dtype != np.int16 for w in weights))):
        raise ValueError(f"A product of {size} inputs of {x.dtype} with weights of {weights[0].dtype} cannot be done.")
    if not out.size:
        return
    count, gated = panels(columns), len(weights) == 2
    padded = np.zeros((len(weights), count * WIDTH), np.float32)
    padded[:, :columns] = biases
    if halves:
        x, weights, size = x.view(np.int32), [w.view(np.int32) for w in weights], size // 2
    way = _way(rows, size, columns, gated, halves)
    adds, plus = plus is not None, out if plus is None else plus
    cells = way.down * way.across
    turns = turns_of(cells, way.turns)

    def work(i: int, j: int) -> None:
        rooms = [room_for(name, (numbers,)).view(x.dtype) for name, numbers in way.rooms.items()]
        given = x, weights[0], weights[-1], padded, plus, gated, adds, out
        for cell in range(i, j):
            *corners, side = edges(-(-rows // way.step), count // way.step, way.down, way.across, way.by_rows, cell)
            way.loop(*given, *way.limits, *rooms, *corners, side, turns[cell - side])

    share(work, cells, x.size * columns // cells // MULTIPLIED)


def multiply_size(rows: int, size: int, columns: int, gated: bool, halves: bool = False) -> int:
    """Numbers, or pairs of bfloat16, that all threads hold for a product."""
    return len(allowed_processors()) * sum(_way(rows, size, columns, gated, halves).rooms.values())


def _way(rows: int, size: int, columns: int, gated: bool, halves: bool) -> Way:
    if not halves and strassen.pays(rows, size, columns, gated):
        return strassen.way(rows, size, columns, gated)
    return direct.way(rows, size, columns, gated, halves)
