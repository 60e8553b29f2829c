"""Python functions as machine code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import event

from svdkit import winograd

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """A function of arrays and numbers, compiled when it is first called and kept on disk; it lets go of Python's lock.

    Products and sums may be one instruction, a quotient a product with the reciprocal, and zero of either sign; else
    every operation is the one written, NaN and infinity included. What is kept is compiled anew when any file of this
    package changes; and in every process if the function's closure holds another one, since Numba keeps functions by
    what they hold: those that are called are of a module.
    """
    return _compiled(function, {"contract", "nsz", "arcp"})


def summed_in_lanes(function: F) -> F:
    """As `compiled`, with sums in whatever order suits the processor's vectors."""
    return _compiled(function, {"contract", "nsz", "arcp", "reassoc"})


def _compiled(function: F, liberties: set[str]) -> F:
    options = {"nogil": True, "error_model": "numpy", "fastmath": liberties}
    try:
        loop = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder to keep it in that may be written to
        return cast(F, numba.njit(**options)(function))
    # Numba asks whether the function's own file is as it was. Loops have the sizes of tiles, and helpers, of others.
    loop._cache._cache_file._source_stamp = _sources()
    return cast(F, loop)


class _Tells(event.Listener):  # type: ignore[misc]
    """Says once that loops are being compiled, since nothing else is seen to happen meanwhile."""

    told = False

    def on_start(self, event: Any) -> None:
        # What somebody else compiles may be of no module.
        if not self.told and (event.data["dispatcher"].py_func.__module__ or "").startswith(__package__):
            self.told = True
            _log.info("Compiling loops for this processor, half a minute in all. They are kept for later runs.")

    def on_end(self, event: Any) -> None:
        pass


_log = logging.getLogger("svdkit.loops")
event.register("numba:compile", _Tells())


@cache
def _sources() -> str:
    """A hash of everything that loops are compiled from."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(winograd.__file__)]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
