"""Work shared out to all processors."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")
PIECE = 2**16
"""Elements that are worth a thread's while: handing a piece over takes 0.03 ms, going through it at least as long."""
MULTIPLIED = 32
"""Products of numbers, added up in a tile, that take as long as an element."""
PIECES = 2
"""For each thread, so that none waits long for the last."""


def share(work: Callable[[int, int], T], count: int, size: int) -> list[T]:
    """What the work gives for each of the pieces, from one index to another, that together are `range(count)`.

    Args:
        work: lets go of Python's lock while it computes.
        count: of things to be done.
        size: elements that each of them goes through.
    """
    threads = len(allowed_processors())
    pieces = max(1, min(count, count * size // PIECE, PIECES * threads))
    if threads == 1 or pieces == 1:
        return [work(0, count)]
    with _begins:
        tasks = _tasks(threads)
    done, results = SimpleQueue[BaseException | None](), [None] * pieces
    for k in range(pieces):
        tasks.put((work, count * k // pieces, count * (k + 1) // pieces, results, k, done))
    try:
        errors = [done.get() for _ in range(pieces)]
    except BaseException:  # interrupted: what is not begun is not wanted any more
        results.clear()
        raise
    for error in errors:
        if error is not None:
            raise error
    return results  # type: ignore[return-value]


@cache
def allowed_processors() -> list[int]:
    """Those that this process may use, at most as many as `OMP_NUM_THREADS` says, when it is first asked."""
    allowed, found = os.environ.get("OMP_NUM_THREADS", ""), _processors()
    return found[: max(1, int(allowed))] if allowed.isdigit() else found


def keep_to(thread: int, processor: int) -> None:
    """A thread, 0 for this one, to a processor, where the system has that, and allows it.

    Only where this process takes all processors: others that take as few would be kept to the same ones.
    """
    if hasattr(os, "sched_setaffinity") and allowed_processors() == _processors():
        with suppress(OSError):
            os.sched_setaffinity(thread, {processor})


@cache
def _processors() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


_begins = Lock()
"""Threads that share work for the first time, at one time, begin one pool."""


@cache
def _tasks(threads: int) -> SimpleQueue[Any]:
    """What is put here is done by one thread for each processor, and kept to it.

    An executor's futures, with a lock each, take 63 microseconds for two pieces of nothing, these queues 29.
    """
    tasks: SimpleQueue[Any] = SimpleQueue()

    def serve(processor: int) -> None:
        keep_to(0, processor)
        while True:
            _do(*tasks.get())

    for processor in allowed_processors()[:threads]:
        Thread(target=serve, args=(processor,), name=f"svdkit-{processor}", daemon=True).start()
    return tasks


def _do(work: Callable[[int, int], T], i: int, j: int, results: list[T], k: int, done: SimpleQueue[Any]) -> None:
    """One piece; what it holds on to is let go before the next one is waited for."""
    if not results:  # nobody waits for them
        return
    try:
        results[k] = work(i, j)
        done.put(None)
    except BaseException as error:
        done.put(error)


def _forget() -> None:
    """A process that is forked has none of the threads, and may be allowed other processors."""
    global _begins
    _begins = Lock()
    for kept in (_tasks, allowed_processors, _processors):
        kept.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
