"""Which kernels serve which device."""

from __future__ import annotations

import mindspore as ms

from svdkit.errors import InputError

from .base import MindSporeBackend
from .cpu import MindSporeCPU


def create(device: str | None = None, dtype: str | None = None) -> MindSporeBackend:
    """The backend for a device.

    Args:
        device: `"cpu"`, `"ascend"` or `"ascend:1"`; MindSpore's own choice if None.
        dtype: float32 on a CPU; float16, bfloat16 or float32 on Ascend.

    Raises:
        InputError: no such device, or a dtype that it does not compute in.
    """
    device = device or ms.get_context("device_target").lower()
    kind = device.split(":")[0]
    if kind == "cpu":
        return MindSporeCPU(device, dtype)
    if kind == "ascend":
        from .ascend import MindSporeAscend

        return MindSporeAscend(device, dtype)
    raise InputError(f"Backend 'mindspore' runs on cpu and ascend, not on {device!r}.")
