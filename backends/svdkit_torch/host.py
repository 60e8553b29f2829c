"""Tensors and the NumPy arrays whose memory they have, as compiled loops (`svdkit_loops`) take them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from svdkit.backend import Host
from svdkit_loops import room
from svdkit_loops.carried import carried, carry
from svdkit_loops.stored import Stored, stored


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor of float32 or bfloat16 that is still to be written, and that carries its memory."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"A tensor of {dtype} came to a backend that computes in float32 or bfloat16; cast it first.")
    if dtype is torch.bfloat16:
        memory: Stored = room.empty(*shape, dtype=np.int16)
        x = torch.from_numpy(memory).view(dtype)
    else:
        memory = room.empty(*shape)
        x = torch.from_numpy(memory)
    carry(x, memory)
    return x


def carrying(x: Tensor) -> Tensor:
    """A tensor that carries its memory, or that of a copy if it is not contiguous."""
    x = x.contiguous()
    carry(x, memory_of(x))
    return x


def memory_of(x: Tensor) -> Stored:
    """An array's memory as loops take it, or that of a copy if it is not contiguous."""
    memory = carried(x)
    if memory is not None and memory.shape == x.shape and x.is_contiguous():  # no `transpose_` has come between
        return memory
    x = x.detach().contiguous()
    return x.view(torch.int16).numpy() if x.dtype is torch.bfloat16 else stored(x.numpy())


def tensor_of(values: Host, copy: bool = False) -> Tensor:
    """A tensor of an array's memory, if it may be written to, or of a copy."""
    values = np.array(values) if copy or not values.flags.writeable else np.ascontiguousarray(values)
    if values.dtype.name == "bfloat16":  # NumPy has it by ml_dtypes only, which torch does not know
        return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(values)
