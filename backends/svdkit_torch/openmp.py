"""How the threads of torch's operators wait for the next one on a CPU.

GNU's OpenMP has them spin for milliseconds, on processors that compiled loops (`svdkit_loops`) have by then: a UNet
step on two cores takes 10.0 s instead of 8.7.
"""

from __future__ import annotations

from functools import cache
from threading import Event, Thread

import torch


@cache
def let_idle_threads_sleep() -> None:
    """Once for a process. `OMP_WAIT_POLICY=PASSIVE` does the same, if it is set before anybody loads torch.

    OpenMP that has more threads than there are processors hardly spins (libgomp's manual, GOMP_SPINCOUNT). Each thread
    that calls operators has a team of its own, and so one that called one, and sleeps from then on, is enough.
    """
    called = Event()

    def call() -> None:
        torch.ones(2**20).add_(1)  # large enough for all threads
        called.set()
        Event().wait()

    Thread(target=call, name="svdkit-idle", daemon=True).start()
    called.wait()
