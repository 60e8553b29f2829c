"""What the CPU kernels hold beside their arguments and results, and the tables that they keep, but for graphs.

MindSpore copies an argument that is a view, of another shape or order than its memory has, for as long as the
operator runs. Of kernels only `to_map` and `from_map` give one, not `tokens` and `from_tokens` (`cpu.reshaped`); the
core's slices and reshapes do.
What compiled loops hold is what all threads hold together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import prod

from svdkit.backend import Call, doubles, multiplies, upsample_then_conv2d
from svdkit_loops.attention import attention_size
from svdkit_loops.patches import patches_size
from svdkit_loops.product import multiply_size
from svdkit_loops.winograd import tiles_size

from . import eager

VIEWS = frozenset({"to_map", "from_map", "tokens", "from_tokens", "slice"})
_COPIED = frozenset({"to_map", "from_map", "slice", "view"})


def scratch(call: Call) -> list[int]:
    """Elements of each buffer of a kernel."""
    size, out = prod(call.inputs[0]), prod(call.output)
    copies = [prod(shape) * (made in _COPIED) for shape, made in zip(call.inputs, call.origins, strict=True)]
    match call.kernel:
        case "conv2d" | "temporal_conv" | "upsample_conv2d" if in_tiles(call):
            return [*copies, tiles_size(call)]
        case "upsample_conv2d":
            upsample, conv = upsample_then_conv2d(call)
            return [*copies, prod(upsample.output), *scratch(conv)]
        case _ if multiplies(call):
            columns, inputs, gated = *call.weight[:2], call.kernel == "geglu"
            return [*copies, multiply_size(size // inputs, inputs, columns // (1 + gated), gated)]
        case "conv2d" | "temporal_conv":
            return [*copies, patches_size(call.weight, out // call.weight[0])]
        case "attention":
            return [*copies, attention_size(call.inputs[1][1], call.inputs[0][2] // call.options["heads"])]
        case "add_rows":
            return copies[:1]
        case "silu" | "quick_gelu":
            return [*copies, out]
    return copies


def tables(call: Call) -> Iterator[tuple[Hashable, int]]:
    """Tables, of four bytes an entry, each kept for as long as the process lives."""
    if call.kernel == "upsample_conv2d" and not in_tiles(call):
        call, _ = upsample_then_conv2d(call)
    if call.kernel == "upsample":
        yield ("upsample", call.inputs[0][2:], call.output[2:]), 4 * prod(call.output[2:])


def in_tiles(call: Call) -> bool:
    """Whether a convolution is Winograd's."""
    if call.kernel == "temporal_conv":
        return call.options["frames"] > 1 and eager.in_tiles(call.weight)
    if call.kernel == "upsample_conv2d" and not doubles(call):
        return False
    padding = call.options["padding"] // 2, -(-call.options["padding"] // 2)
    return eager.in_tiles(call.weight, call.options["stride"], padding)
