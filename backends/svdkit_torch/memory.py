"""What the kernels hold beside their arguments and results: measured on a CPU, and what their composition tells.

On GPUs the workspaces of cuDNN's convolutions come on top; they are small beside the feature maps.
"""

from __future__ import annotations

from math import prod

import torch

from svdkit.backend import Call, multiplies, upsample_then_conv2d
from svdkit.memory import Memory, host_memory
from svdkit_loops.attention import attention_size
from svdkit_loops.product import multiply_size
from svdkit_loops.winograd import tiles_size

from . import winograd

VIEWS = frozenset({"tokens", "from_tokens", "slice"})


def scratch(call: Call, packs: bool, loops: str) -> int:
    """Bytes that a kernel needs at its peak; weights may be packed (`packed`), loops be of a dtype, or of none."""
    out, numbers = prod(call.output) * call.itemsize, 4
    match call.kernel:
        case "conv2d" | "temporal_conv" | "upsample_conv2d" if loops and winograd.planned(call, loops):
            return numbers * tiles_size(call)
        case "upsample_conv2d":
            upsample, conv = upsample_then_conv2d(call)
            return prod(upsample.output) * call.itemsize + scratch(conv, packs, loops)
        case _ if packs and multiplies(call) and (loops == "float32" or (loops and call.kernel == "geglu")):
            columns, size, gated, halves = *call.weight[:2], call.kernel == "geglu", loops == "bfloat16"
            rows = prod(call.inputs[0]) // size
            return numbers * multiply_size(rows, size // (1 + halves), columns // (1 + gated), gated, halves)
        case "group_norm" | "temporal_attention" if loops:
            return 0
        case "attention" if loops:
            size = call.inputs[0][2] // call.options["heads"]
            return numbers * attention_size(call.inputs[1][1], size, loops == "bfloat16")
        case "conv2d" if call.options["padding"] % 2:  # more on one side than on the other: padded apart
            return prod(call.inputs[0]) * call.itemsize
        case "geglu":  # the gate's GELU, or that and both halves
            return out if packs else 3 * out
        case "group_norm" | "quick_gelu" | "temporal_attention":
            return out
    return 0


def device_memory(device: torch.device) -> Memory:
    """An NVIDIA GPU's memory, or the host's. What torch keeps for reuse counts as used by this process."""
    if device.type != "cuda":
        return host_memory()
    free, total = torch.cuda.mem_get_info(device)
    return Memory(free, torch.cuda.memory_reserved(device), total)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is torch's own error, or the one that its CPU allocator raises."""
    said = isinstance(error, RuntimeError) and "not enough memory" in str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or said
