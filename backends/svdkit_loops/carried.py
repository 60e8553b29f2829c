"""Which NumPy array has the memory of a framework's tensor.

Asking a framework takes it 5 microseconds; between products, which leave nothing of it in the caches, 80 to 140, and a
step asks a thousand times. So what loops have written is noted here, for as long as its tensor lives. Tensor and array
are one memory: what is written to either is in both. It is no attribute of the tensor, which copies would take along.
"""

from __future__ import annotations

import weakref
from typing import Any

from .stored import Stored


class _Carried(weakref.ref[Any]):
    """A tensor, and the array of its memory."""

    __slots__ = ("key", "memory")
    key: int
    memory: Stored


_OF: dict[int, _Carried] = {}


def carry(tensor: Any, memory: Stored) -> None:
    """Note the array of a tensor's memory."""
    carried = _Carried(tensor, _forget)
    carried.key, carried.memory = id(tensor), memory
    _OF[carried.key] = carried


def carried(tensor: Any) -> Stored | None:
    """The array of a tensor's memory, if it was noted."""
    found = _OF.get(id(tensor))
    return found.memory if found is not None and found() is tensor else None


def _forget(gone: _Carried) -> None:
    if _OF.get(gone.key) is gone:  # and not already that of a later tensor at the same place
        del _OF[gone.key]
