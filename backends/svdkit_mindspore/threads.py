"""Which processor each of MindSpore's threads has.

While an operator runs, the thread that called it asks without pause whether it is done, and yields. Linux takes that
for work: on two processors it now and then gives that thread one of them and puts both of MindSpore's on the other. One
in six matrix products then took twice as long, one in three where other threads ran in between; none does where each
thread that computes keeps to one processor.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from time import sleep

import mindspore as ms
from mindspore import ops

from svdkit_loops.threads import allowed_processors, keep_to

WORKERS = "ActorThread_", "KernelThread_"
"""What MindSpore calls the threads that compute."""


@cache
def keep_workers_apart() -> None:
    """Once, where MindSpore has a thread for each processor; with fewer of them Linux finds each a place."""
    processors = allowed_processors()
    if len(processors) == 1:
        return
    one = ms.Tensor([[1.0]])
    ops.MatMul()(one, one)  # the first operator begins the threads, which then name themselves
    for _ in range(10):
        workers = _workers()
        if len(workers) == len(processors):
            for worker, processor in zip(workers, processors, strict=True):
                keep_to(worker, processor)
            return
        sleep(0.01)


def _workers() -> list[int]:
    tasks = Path("/proc/self/task").glob("*")
    return sorted(int(task.name) for task in tasks if _name(task).startswith(WORKERS))


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text()
    except OSError:  # it has ended
        return ""
