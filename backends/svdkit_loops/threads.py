"""Work shared out to all processors."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")
PIECE = 2**16
"""Elements that are worth a thread's while: handing a piece over takes 0.03 ms, going through it at least as long."""
PIECES = 2
"""For each thread, so that none waits long for the last."""


def share(work: Callable[[int, int], T], count: int, size: int) -> list[T]:
    """What the work gives for each of the pieces, from one index to another, that together are `range(count)`.

    Args:
        work: lets go of Python's lock while it computes.
        count: of things to be done.
        size: elements that each of them goes through.
    """
    processors = allowed_processors()
    pieces = max(1, min(count, count * size // PIECE, PIECES * len(processors)))
    if len(processors) == 1 or pieces == 1:
        return [work(0, count)]
    edges = [count * i // pieces for i in range(pieces + 1)]
    return list(_pool(len(processors)).map(work, edges[:-1], edges[1:]))


def allowed_processors() -> list[int]:
    """Those that this process may use, at most as many as `OMP_NUM_THREADS` says."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return found[: max(1, int(allowed))] if allowed.isdigit() else found


def keep_to(thread: int, processor: int) -> None:
    """A thread, 0 for this one, to a processor, where the system has that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(thread, {processor})


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """One thread for each processor, and kept to it."""
    free = iter(allowed_processors())
    return ThreadPoolExecutor(threads, "svdkit", initializer=lambda: keep_to(0, next(free)))
