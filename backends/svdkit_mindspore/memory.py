"""What the CPU kernels hold beside their arguments and results, and the tables that they keep.

MindSpore copies an argument that is a view, of another shape or order than its memory has, for as long as the
operator runs. Of kernels only `to_map` and `from_map` give one (`cpu.reshaped`); the core's slices and reshapes do.
What compiled loops hold is what all threads hold together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import prod

from svdkit import winograd
from svdkit.backend import Call, doubles, upsample_then_conv2d
from svdkit_loops.attention import attention_size
from svdkit_loops.product import multiply_size
from svdkit_loops.winograd import tiles_size

VIEWS = frozenset({"to_map", "from_map", "tokens", "from_tokens", "slice"})


def scratch(call: Call, channels: int, patch_elements: int) -> list[int]:
    """Elements of each buffer of a kernel.

    Args:
        call: of the kernel.
        channels: from which on convolutions are Winograd's.
        patch_elements: of a block.
    """
    size, out = prod(call.inputs[0]), prod(call.output)
    copies = [prod(shape) * (made == "view") for shape, made in zip(call.inputs, call.origins, strict=True)]
    match call.kernel:
        case "conv2d" | "temporal_conv" | "upsample_conv2d" if in_tiles(call, channels):
            return [*copies, tiles_size(call)]
        case "upsample_conv2d":
            upsample, conv = upsample_then_conv2d(call)
            return [*copies, prod(upsample.output), *scratch(conv, channels, patch_elements)]
        case "conv2d" | "temporal_conv" if prod(call.weight[2:]) > 1:
            patches = prod(call.weight[1:]) * out // call.weight[0]
            block = min(patches, patch_elements)
            # The rows with a zero row; patches; pieces; what is added to.
            return [*copies, size, block, *([out] if patches > block else []), *([out] if call.inputs[1:] else [])]
        case "conv2d" | "linear" | "geglu":
            columns, inputs, gated = call.weight[0], call.weight[1], call.kernel == "geglu"
            return [*copies, multiply_size(size // inputs, inputs, columns // (1 + gated), gated)]
        case "attention":
            return [*copies, attention_size(call.inputs[1][1], call.inputs[0][2] // call.options["heads"])]
        case "add_rows":
            return copies[:1]
        case "mix" | "silu" | "quick_gelu":
            return [*copies, out]
    return copies


def tables(call: Call, channels: int) -> Iterator[tuple[Hashable, int]]:
    """Tables, of four bytes an entry, each kept for as long as the process lives."""
    shape = call.inputs[0]
    match call.kernel:
        case "conv2d" if call.weight[2] > 1 and not in_tiles(call, channels):
            entries = prod(call.output[2:]) * call.weight[2] ** 2
            yield ("patches", shape[2:], call.weight[2], tuple(call.options.items())), 4 * entries
        case "temporal_conv" if not in_tiles(call, channels):
            frames = call.options["frames"]
            yield ("frames", frames, shape[2:]), 4 * frames * prod(shape[2:]) * call.weight[2]
        case "upsample_conv2d" if not in_tiles(call, channels):
            for part in upsample_then_conv2d(call):
                yield from tables(part, channels)
        case "upsample":
            yield ("upsample", shape[2:], call.output[2:]), 4 * prod(call.output[2:])


def in_tiles(call: Call, channels: int) -> bool:
    """Whether a convolution is Winograd's."""
    if call.kernel == "temporal_conv":
        return call.options["frames"] > 1 and winograd.suits(call.weight, channels)
    if call.kernel == "upsample_conv2d" and not doubles(call):
        return False
    return call.options["padding"] == 2 and winograd.suits(call.weight, channels, call.options["stride"])
