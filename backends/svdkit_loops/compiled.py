"""Python functions as machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """A function of arrays and numbers, compiled when it is first called and kept on disk; it lets go of Python's lock.

    Products and sums may be one instruction; else every operation is the one written, NaN and infinity included. What
    is kept is compiled anew when the function's own file changes: a loop and what it calls belong in one file.
    """
    return _compiled(function, {"contract", "nsz", "arcp"})


def summed_in_lanes(function: F) -> F:
    """As `compiled`, with sums in whatever order suits the processor's vectors."""
    return _compiled(function, {"contract", "nsz", "arcp", "reassoc"})


def _compiled(function: F, liberties: set[str]) -> F:
    options = {"nogil": True, "error_model": "numpy", "fastmath": liberties}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # there is no folder to keep it in that may be written to
        return cast(F, numba.njit(**options)(function))
