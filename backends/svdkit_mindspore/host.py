"""Tensors and the NumPy arrays whose memory they have."""

from __future__ import annotations

import mindspore as ms
import numpy as np

from svdkit.backend import Array, Host
from svdkit_loops.carried import carried, carry


def tensor_of(values: Host) -> Array:
    """A tensor of an array's own memory: NumPy's, which is in large pages where the system has them."""
    tensor = ms.Tensor.from_numpy(values)
    carry(tensor, values)
    return tensor


def memory_of(x: Array) -> Host:
    """The memory of a tensor, or of a copy if the tensor is a view of another order."""
    values = carried(x)
    return np.ascontiguousarray(x.asnumpy()) if values is None else values
