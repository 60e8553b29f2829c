"""What the CPU kernels hold beside their arguments and results, and the tables that they keep.

MindSpore copies an argument that is a view, of another shape or order than its memory has, for as long as the
operator runs. Of kernels only `to_map` and `from_map` give one (`cpu.reshaped`); the core's slices and reshapes do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import prod

from svdkit.backend import Call

from . import winograd

VIEWS = frozenset({"to_map", "from_map", "tokens", "from_tokens", "slice"})


def scratch(call: Call, patch_elements: int, tile_elements: int, score_elements: int) -> list[int]:
    """Elements of each buffer of a kernel; the others bound the blocks of patches, tiles and attention scores."""
    size, out = prod(call.inputs[0]), prod(call.output)
    copies = [prod(shape) * (made == "view") for shape, made in zip(call.inputs, call.origins, strict=True)]
    match call.kernel:
        case "conv2d" if m := _tile(call):
            wide = max(call.weight[:2])
            tiles = call.output[0] * prod(-(-n // m) for n in call.output[2:])
            per_block = max(1, tile_elements // ((m + 2) ** 2 * wide))
            block = min(tiles, per_block) * (m + 2) ** 2 * wide
            results = tiles * m * m * call.weight[0]
            # The rows with a zero row; tiles; results, tile by tile; tiles of the next piece, or results put together.
            return [*copies, size, block, results, max(block, results * (tiles > per_block))]
        case "conv2d" | "temporal_conv" if prod(call.weight[2:]) > 1:
            patches = prod(call.weight[1:]) * out // call.weight[0]
            block = min(patches, patch_elements)
            # The rows with a zero row; patches; their product before the bias is added; pieces.
            return [*copies, size, block, out, *([out] if patches > block else [])]
        case "conv2d" | "linear":
            return [*copies, out]
        case "attention" | "temporal_attention":
            frames, heads = call.options.get("frames", 1), call.options["heads"]
            keys = frames if frames > 1 else call.inputs[1][1]
            scores = prod(call.inputs[0][:2]) * heads * keys
            block = min(scores, score_elements)
            pieces = [out] if scores > block else []
            return [*map(prod, call.inputs), size, block, block, *pieces]
        case "group_norm":
            return [*copies, out, out]
        case "add_rows":
            return [*copies[:1], out]
        case "mix":
            return [*copies, out]
        case "gelu":
            return [*copies, out, out, out, out]
        case "silu" | "quick_gelu":
            return [*copies, out]
    return copies


def tables(call: Call) -> Iterator[tuple[Hashable, int]]:
    """Tables, of four bytes an entry, each kept for as long as the process lives."""
    shape, positions = call.inputs[0], prod(call.output) // max(1, call.weight[0] if call.weight else 1)
    match call.kernel:
        case "conv2d" if m := _tile(call):
            tiles = call.output[0] * prod(-(-n // m) for n in call.output[2:])
            yield ("tiles", shape[0], shape[2:], m), 4 * tiles * (m + 2) ** 2
            yield ("untiles", shape[0], shape[2:], m), 4 * prod(call.output) // call.weight[0]
        case "conv2d" if call.weight[2] > 1:
            entries = prod(call.output[2:]) * call.weight[2] ** 2
            yield ("patches", shape[2:], call.weight[2], tuple(call.options.items())), 4 * entries
        case "temporal_conv":
            frames = call.options["frames"]
            yield ("frames", frames, shape[2:]), 4 * frames * prod(shape[2:]) * call.weight[2]
        case "group_norm":
            yield ("spread", shape[0] // call.options["frames"], positions), 4 * positions
            yield ("average", call.weight[0]), 4 * call.weight[0] ** 2
        case "add_rows":
            positions = prod(call.output) // call.inputs[1][1]
            yield ("spread", call.inputs[1][0], positions), 4 * positions
        case "upsample":
            yield ("upsample", shape[2:], call.output[2:]), 4 * prod(call.output[2:])
        case "attention" | "temporal_attention":
            frames, heads = call.options.get("frames", 1), call.options["heads"]
            for x in {call.inputs[0], call.inputs[1]}:
                yield ("split", x[1], frames, heads), 2 * 4 * x[1] * frames * heads


def _tile(call: Call) -> int:
    """The m of Winograd's tiles, if the convolution is in tiles; else 0."""
    return winograd.tile(call.weight, call.options["stride"]) if call.options["padding"] == 2 else 0
