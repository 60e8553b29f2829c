"""Work shared out to all processors, and which thread has which.

While an operator runs, the thread that called it asks without pause whether it is done, and yields. Linux takes that
for work: on two processors it now and then gives that thread one of them and puts both of MindSpore's on the other. One
in six matrix products then took twice as long, one in three where NumPy's threads ran in between; none does where each
thread that computes keeps to one processor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

T = TypeVar("T")
WORKERS = "ActorThread_", "KernelThread_"
"""What MindSpore calls the threads that compute."""


def share(work: Callable[..., T], pieces: Iterable[tuple[int, ...]]) -> list[T]:
    """What the work gives for each piece, without NumPy's warnings: exp overflows on the way to a zero."""

    def quietly(piece: tuple[int, ...]) -> T:
        with np.errstate(all="ignore"):
            return work(*piece)

    pieces, pool = list(pieces), _pool()
    return list(map(quietly, pieces) if pool is None or len(pieces) == 1 else pool.map(quietly, pieces))


@cache
def _pool() -> ThreadPoolExecutor | None:
    """One thread for each processor that this process may use, unless it is a single one."""
    processors = _processors()
    if len(processors) == 1:
        return None
    _keep_workers_apart(processors)
    free = iter(processors)
    return ThreadPoolExecutor(len(processors), "svdkit", initializer=lambda: _keep_to(0, next(free)))


def _processors() -> list[int]:
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return found[: max(1, int(allowed))] if allowed.isdigit() else found


def _keep_workers_apart(processors: list[int]) -> None:
    """Where MindSpore has a thread for each processor; with fewer of them Linux finds each a place."""
    tasks = Path("/proc/self/task").glob("*")
    workers = sorted(int(task.name) for task in tasks if _name(task).startswith(WORKERS))
    if len(workers) == len(processors):
        for worker, processor in zip(workers, processors, strict=True):
            _keep_to(worker, processor)


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text()
    except FileNotFoundError:  # it has ended
        return ""


def _keep_to(thread: int, processor: int) -> None:
    """A thread, 0 for this one, to a processor, where the system has that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(thread, {processor})
