"""What the kernels hold beside their arguments and results, in elements: what `tracemalloc` sees of them."""

from __future__ import annotations

from math import prod

from svdkit.backend import Call

VIEWS = frozenset({"to_map", "from_map", "tokens", "from_tokens", "slice"})


def scratch(call: Call, score_elements: int) -> int:
    """Elements that a kernel needs at its peak; `score_elements` is the size of a block of attention scores."""
    size, out = prod(call.inputs[0]), prod(call.output)
    match call.kernel:
        case "conv2d":
            (n, channels, height, width), kernel = call.inputs[0], call.weight[2]
            padding = call.options["padding"]
            padded = n * channels * (height + padding) * (width + padding)
            patches = channels * kernel**2 * n * prod(call.output[2:]) if kernel > 1 else 0
            return padded + patches + out
        case "temporal_conv":
            frames = call.options["frames"]
            padded = size // frames * (frames + call.weight[2] - 1)
            return padded + size + out
        case "attention":
            length, keys = call.inputs[0][1], call.inputs[1][1]
            block = min(length, max(1, score_elements // keys)) * keys
            return size + max(3 * block, size)
        case "layer_norm" | "gelu":
            return 2 * out
        case "group_norm" | "linear" | "mix" | "quick_gelu":
            return out
    return 0
