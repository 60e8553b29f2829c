"""Tensors and the NumPy arrays whose memory they have."""

from __future__ import annotations

import mindspore as ms
import numpy as np

from svdkit.backend import Array, Host


def tensor_of(values: Host) -> Array:
    """A tensor of an array's own memory: NumPy's, which is in large pages where the system has them.

    It carries the array: asking MindSpore for it, `asnumpy`, takes 5 microseconds, but between products, which leave
    nothing of it in the caches, 80 to 110, and a step asks a thousand times. What is written to either is in both.
    """
    tensor = ms.Tensor.from_numpy(values)
    tensor.svdkit_memory = values
    return tensor


def memory_of(x: Array) -> Host:
    """The memory of a tensor, or of a copy if the tensor is a view of another order."""
    try:
        values: Host = x.svdkit_memory
    except AttributeError:
        return np.ascontiguousarray(x.asnumpy())
    return values
