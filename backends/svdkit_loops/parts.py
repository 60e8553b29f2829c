"""How a matrix product is parted among threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .threads import allowed_processors
from .tile import HEIGHT, WIDTH, blocks_of

CHUNK = 64 * HEIGHT
"""Rows that a thread takes at a time: so many that laying out columns for them costs little, few enough for caches."""
DEPTH = 640
"""Inputs that a panel has at a time, so that it stays in near caches: 5120 at once take 8 % longer."""


class Way(NamedTuple):
    """What multiplies some rows by some panels, and which."""

    loop: Callable[..., None]
    step: int
    """Rows, and panels, that go together."""
    down: int
    """Parts of the rows."""
    across: int
    """Parts of the panels."""
    by_rows: bool
    """Whether neighbours take turns with rows, instead of panels."""
    turns: int
    """Counts that they need for it."""
    limits: tuple[int, ...]
    """What the loop takes at a time, as it has it: inputs first."""
    rooms: dict[str, int]
    """Numbers that each thread needs: rows and panels that are laid out, and products, where they are apart."""


def panels(out: int) -> int:
    """How many panels so many columns take."""
    return -(-out // WIDTH)


def cells(rows: int, columns: int) -> tuple[int, int]:
    """Into how many parts rows and panels are cut, so that each thread has one and little is laid out twice.

    Each part of the rows lays out all columns that are multiplied with it, and each part of the columns all rows.
    """
    threads, ways = len(allowed_processors()), []
    for across in range(1, min(panels(columns), threads) + 1):
        down = min(-(-threads // across), blocks_of(rows))
        idle = max(0, threads - down * across)
        ways.append((idle, across * rows + down * columns, down, across))
    return min(ways)[2:]


def part(count: int, parts: int, i: int) -> tuple[int, int]:
    """The i-th of so many parts that are all but equal: where it begins and ends."""
    return count * i // parts, count * (i + 1) // parts


def edges(rows: int, panels: int, down: int, across: int, by_rows: bool, cell: int) -> tuple[int, int, int, int, int]:
    """Which rows and panels a thread has part in, from where to where, and from which side, 0 or 1.

    Neighbours share panels, or rows, and begin at either end.
    """
    r, p = divmod(cell, across)
    if by_rows:
        return *_shared(rows, down, r), *part(panels, across, p), r % 2
    return *part(rows, down, r), *_shared(panels, across, p), p % 2


def _shared(count: int, parts: int, i: int) -> tuple[int, int]:
    """The i-th of so many parts, and its neighbour, if it has one."""
    first, last = i - i % 2, min(i - i % 2 + 2, parts)
    return count * first // parts, count * last // parts
