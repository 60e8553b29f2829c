"""The least time that a computation can take here: operations at the measured matrix peak, bytes at the bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import frozen


@frozen
class Floors:
    """What a device reaches at best."""

    peak: float
    """Floating-point operations a second, in a large matrix product."""
    bandwidth: float
    """Bytes a second, read or written, in a large copy."""

    def seconds(self, operations: float, moved: float) -> float:
        """The least time of something that does so many operations and moves so many bytes."""
        return max(operations / self.peak, moved / self.bandwidth)


def best(run: Callable[[], object], wait: Callable[[], object], repeats: int, warm: bool = True) -> float:
    """Seconds of the fastest of some runs, after one that is not counted."""
    seconds = []
    for _ in range(repeats + warm):
        wait()
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds[warm:])


def waiter(device: str) -> Callable[[], object]:
    """What waits until a device has done all that it was told; nothing to wait for on a CPU."""
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return torch.cuda.synchronize


def measure_floors(device: str = "cpu", dtype: str = "float32", size: int | None = None, repeats: int = 5) -> Floors:
    """The better of NumPy's and torch's matrix product and copy, where they have the device and the dtype.

    Args:
        device: `"cpu"`, or what torch calls its device.
        dtype: of the matrices.
        size: their side; large enough to be at the peak if None.
        repeats: of which the fastest counts.
    """
    size = size or (8192 if device.startswith("cuda") else 4096)
    wait, peaks, rates = waiter(device), [], []

    def note(product: Callable[[], Any], copy: Callable[[], Any], moved: int) -> None:
        peaks.append(2 * size**3 / best(product, wait, repeats))
        rates.append(moved / best(copy, wait, repeats))

    if device == "cpu" and dtype == "float32":
        a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
        out, source, target = np.empty_like(a), np.ones(8 * size**2, np.float32), np.zeros(8 * size**2, np.float32)
        note(lambda: np.matmul(a, b, out=out), lambda: np.copyto(target, source), 2 * source.nbytes)
    try:
        import torch
    except ImportError:
        return Floors(max(peaks), max(rates))
    here = {"device": device, "dtype": getattr(torch, dtype)}
    x, y = torch.randn(size, size).to(**here), torch.randn(size, size).to(**here)
    given, taken = torch.ones(8 * size**2, **here), torch.zeros(8 * size**2, **here)
    note(lambda: torch.mm(x, y), lambda: taken.copy_(given), 2 * given.nbytes)
    return Floors(max(peaks), max(rates))
