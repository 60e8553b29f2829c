"""Every kernel once: a function that makes its inputs and runs it on any backend, and the shapes to try it with.

Shapes are drawn, and named where they matter in the models or are likely to go wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from attrs import frozen
from hypothesis import strategies as st

from ..backend import Array
from .inputs import Inputs

Shape: TypeAlias = dict[str, Any]
"""What a kernel's `run` is called with, by keyword."""
Size: TypeAlias = tuple[int, int]


@frozen(kw_only=True)
class Kernel:
    """How to run a kernel, and on what."""

    run: Callable[..., Array]
    """`(inputs, **shape)`: an array of the backend's own."""
    drawn: st.SearchStrategy[Shape]
    named: dict[str, Shape]
    moves: bool
    """Whether it only moves values, so that nothing is rounded."""


KERNELS: dict[str, Kernel] = {}
UNTRIED = frozenset({"numpy", "cast", "all_finite"})
"""Abstract methods of a backend that are no kernels; the suite has tests of their own for them."""


def kernel(
    drawn: dict[str, st.SearchStrategy[Any]],
    valid: Callable[[Shape], bool] = lambda shape: True,
    moves: bool = False,
    **named: Shape,
) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """Registers a kernel to be tried with shapes."""

    def register(run: Callable[..., Array]) -> Callable[..., Array]:
        shapes = st.fixed_dictionaries(drawn).filter(valid)
        KERNELS[run.__name__] = Kernel(run=run, drawn=shapes, named=named, moves=moves)
        return run

    return register


N = st.integers(1, 3)
FRAMES = st.integers(1, 5)
CHANNELS = st.integers(1, 9)
SIZE = st.tuples(st.integers(1, 8), st.integers(1, 8))
HEADS = st.integers(1, 4)
FLAG = st.booleans()
CLIP_PATCHES = {"kernel": 14, "stride": 14, "padding": (0, 0), "bias": False}


@kernel(
    {
        "n": N,
        "channels": CHANNELS,
        "out": CHANNELS,
        "size": SIZE,
        "kernel": st.integers(1, 5),
        "stride": st.integers(1, 3),
        "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
        "bias": FLAG,
        "adds": FLAG,
    },
    valid=lambda s: min(s["size"]) + sum(s["padding"]) >= s["kernel"],
    usual={"n": 3, "channels": 32, "out": 64, "size": (9, 13)},
    residual={"n": 3, "channels": 64, "out": 64, "size": (9, 13), "adds": True},
    one_pixel={"n": 2, "channels": 8, "out": 4, "size": (1, 1)},
    one_row={"n": 1, "channels": 5, "out": 3, "size": (1, 11)},
    unet_down_even={"n": 2, "channels": 8, "out": 8, "size": (8, 6), "stride": 2},
    unet_down_odd={"n": 2, "channels": 8, "out": 8, "size": (9, 5), "stride": 2},
    vae_down_even={"n": 2, "channels": 8, "out": 8, "size": (8, 6), "stride": 2, "padding": (0, 1)},
    vae_down_odd={"n": 2, "channels": 8, "out": 8, "size": (9, 7), "stride": 2, "padding": (0, 1)},
    padded_before={"n": 2, "channels": 3, "out": 4, "size": (6, 5), "padding": (2, 0)},
    unpadded={"n": 2, "channels": 3, "out": 4, "size": (6, 5), "padding": (0, 0)},
    shortcut={"n": 2, "channels": 8, "out": 12, "size": (5, 4), "kernel": 1, "padding": (0, 0)},
    one_by_one_strided={"n": 2, "channels": 8, "out": 12, "size": (5, 4), "kernel": 1, "padding": (0, 0), "stride": 2},
    one_by_one_padded={"n": 1, "channels": 3, "out": 2, "size": (3, 4), "kernel": 1, "padding": (1, 1)},
    vae_down_and_added={"n": 2, "channels": 8, "out": 8, "size": (9, 7), "stride": 2, "padding": (0, 1), "adds": True},
    clip_patches={"n": 2, "channels": 3, "out": 6, "size": (42, 28), **CLIP_PATCHES},
    patches_that_leave_a_rest={"n": 1, "channels": 3, "out": 6, "size": (31, 30), **CLIP_PATCHES},
)
def conv2d(
    i: Inputs,
    n: int,
    channels: int,
    out: int,
    size: Size,
    kernel: int = 3,
    stride: int = 1,
    padding: tuple[int, int] = (1, 1),
    bias: bool = True,
    adds: bool = False,
) -> Array:
    """`Backend.conv2d`."""
    weight = i.weight(out, channels, kernel, kernel)
    layer = i.k.conv2d(weight, i.weight(out) if bias else None, stride, padding)
    height, width = ((length + sum(padding) - kernel) // stride + 1 for length in size)
    return i.k.from_map(layer(i.map(n, channels, *size), *([i.map(n, out, height, width)] if adds else [])))


@kernel(
    {
        "videos": N,
        "frames": FRAMES,
        "channels": CHANNELS,
        "out": CHANNELS,
        "size": SIZE,
        "reach": st.integers(0, 2),
        "adds": FLAG,
    },
    residual={"videos": 2, "frames": 4, "channels": 64, "out": 64, "size": (5, 7), "adds": True},
    residual_of_one_frame={"videos": 3, "frames": 1, "channels": 8, "out": 8, "size": (3, 2), "adds": True},
    usual={"videos": 2, "frames": 4, "channels": 32, "out": 32, "size": (5, 7)},
    one_frame={"videos": 3, "frames": 1, "channels": 8, "out": 8, "size": (3, 2)},
    two_frames={"videos": 2, "frames": 2, "channels": 8, "out": 8, "size": (3, 2)},
    one_pixel={"videos": 1, "frames": 5, "channels": 3, "out": 3, "size": (1, 1)},
    longer_than_the_video={"videos": 2, "frames": 2, "channels": 3, "out": 3, "size": (2, 2), "reach": 3},
)
def temporal_conv(
    i: Inputs, videos: int, frames: int, channels: int, out: int, size: Size, reach: int = 1, adds: bool = False
) -> Array:
    """`Backend.temporal_conv`."""
    layer = i.k.temporal_conv(i.weight(out, channels, 2 * reach + 1, 1, 1), i.weight(out))
    n = videos * frames
    return i.k.from_map(layer(i.map(n, channels, *size), frames, *([i.map(n, out, *size)] if adds else [])))


@kernel(
    {
        "shape": st.lists(st.integers(1, 6), max_size=3),
        "channels": CHANNELS,
        "out": CHANNELS,
        "bias": FLAG,
        "adds": FLAG,
    },
    tokens={"shape": (3, 35), "channels": 32, "out": 128},
    residual={"shape": (3, 35), "channels": 128, "out": 32, "adds": True},
    residual_in_part={"shape": (3, 5), "channels": 8, "out": 20, "bias": False, "adds": True},
    rows={"shape": (2,), "channels": 96, "out": 16},
    unbiased={"shape": (2, 5), "channels": 16, "out": 16, "bias": False},
    one_number={"shape": (1, 1), "channels": 1, "out": 1},
)
def linear(i: Inputs, shape: tuple[int, ...], channels: int, out: int, bias: bool = True, adds: bool = False) -> Array:
    """`Backend.linear`."""
    layer = i.k.linear(i.weight(out, channels), i.weight(out) if bias else None)
    return layer(i.array(*shape, channels), *([i.array(*shape, out)] if adds else []))


@kernel(
    {"shape": st.lists(st.integers(1, 6), min_size=1, max_size=2), "channels": CHANNELS, "half": CHANNELS},
    tokens={"shape": (3, 35), "channels": 32, "half": 128},
    one_number={"shape": (1, 1), "channels": 1, "half": 1},
)
def geglu(i: Inputs, shape: tuple[int, ...], channels: int, half: int) -> Array:
    """`Backend.geglu`."""
    return i.k.geglu(i.weight(2 * half, channels), i.weight(2 * half))(i.array(*shape, channels))


@kernel(
    {
        "videos": N,
        "frames": FRAMES,
        "groups": st.sampled_from([1, 2, 3, 8]),
        "width": st.integers(1, 4),
        "size": SIZE,
        "silu": FLAG,
        "eps": st.sampled_from([1e-6, 1e-5, 1.0]),
    },
    # Some frameworks refuse to normalise a single number.
    valid=lambda s: s["frames"] * s["width"] * s["size"][0] * s["size"][1] > 1,
    spatial={"videos": 3, "frames": 1, "groups": 32, "width": 2, "size": (9, 7)},
    temporal={"videos": 2, "frames": 4, "groups": 32, "width": 2, "size": (5, 7)},
    then_silu={"videos": 2, "frames": 3, "groups": 32, "width": 1, "size": (4, 4), "silu": True},
    one_group={"videos": 2, "frames": 2, "groups": 1, "width": 6, "size": (3, 3)},
    large_eps={"videos": 2, "frames": 2, "groups": 2, "width": 3, "size": (3, 3), "eps": 10.0},
)
def group_norm(
    i: Inputs,
    videos: int,
    frames: int,
    groups: int,
    width: int,
    size: Size,
    silu: bool = False,
    eps: float = 1e-5,
) -> Array:
    """`Backend.group_norm`."""
    channels = groups * width
    layer = i.k.group_norm(i.weight(channels), i.weight(channels), groups, eps, silu)
    x = i.map(videos * frames, channels, *size)
    return i.k.from_map(layer(x) if frames == 1 else layer(x, frames))


@kernel(
    {"shape": st.lists(st.integers(1, 6), min_size=1, max_size=3), "channels": CHANNELS},
    tokens={"shape": (3, 35), "channels": 64},
    rows={"shape": (2,), "channels": 48},
    large_eps={"shape": (2, 3), "channels": 8, "eps": 10.0},
    one_channel={"shape": (2, 3), "channels": 1},
)
def layer_norm(i: Inputs, shape: tuple[int, ...], channels: int, eps: float = 1e-5) -> Array:
    """`Backend.layer_norm`."""
    return i.k.layer_norm(i.weight(channels), i.weight(channels), eps)(i.array(*shape, channels))


@kernel(
    {"size": SIZE, "flip": FLAG},
    spatial_share={"size": (5, 7), "flip": False},
    temporal_share={"size": (5, 7), "flip": True},
)
def mix(i: Inputs, size: Size, flip: bool) -> Array:
    """`Backend.mix`, of maps and of tokens."""
    layer = i.k.mix(i.weight(1), flip)
    maps = i.k.from_map(layer(i.map(2, 3, *size), i.map(2, 3, *size)))
    tokens = layer(i.array(*size, 6), i.array(*size, 6))
    return i.k.concat([maps.reshape(-1), tokens.reshape(-1)], 0)


ANY_SHAPE: dict[str, st.SearchStrategy[Any]] = {"shape": st.lists(st.integers(1, 6), min_size=1, max_size=4)}


@kernel(ANY_SHAPE, usual={"shape": (3, 35, 64)})
def silu(i: Inputs, shape: tuple[int, ...]) -> Array:
    """`Backend.silu`."""
    return i.k.silu(i.array(*shape))


@kernel(ANY_SHAPE, usual={"shape": (3, 35, 64)})
def gelu(i: Inputs, shape: tuple[int, ...]) -> Array:
    """`Backend.gelu`."""
    return i.k.gelu(i.array(*shape))


@kernel(ANY_SHAPE, usual={"shape": (3, 35, 64)})
def quick_gelu(i: Inputs, shape: tuple[int, ...]) -> Array:
    """`Backend.quick_gelu`."""
    return i.k.quick_gelu(i.array(*shape))


@kernel(
    {"n": N, "queries": st.integers(1, 12), "keys": st.integers(1, 12), "heads": HEADS, "width": CHANNELS},
    self_attention={"n": 3, "queries": 63, "keys": 63, "heads": 4, "width": 16},
    one_head={"n": 2, "queries": 20, "keys": 20, "heads": 1, "width": 64},
    more_queries={"n": 2, "queries": 30, "keys": 7, "heads": 3, "width": 5},
    more_keys={"n": 2, "queries": 7, "keys": 30, "heads": 3, "width": 5},
    one_key={"n": 2, "queries": 9, "keys": 1, "heads": 2, "width": 4},
    one_query={"n": 2, "queries": 1, "keys": 9, "heads": 2, "width": 4},
)
def attention(i: Inputs, n: int, queries: int, keys: int, heads: int, width: int) -> Array:
    """`Backend.attention`."""
    q, k, v = (i.array(n, length, heads * width) for length in (queries, keys, keys))
    return i.k.attention(q, k, v, heads)


@kernel(
    {"videos": N, "frames": FRAMES, "positions": st.integers(1, 12), "heads": HEADS, "width": CHANNELS},
    usual={"videos": 2, "frames": 4, "positions": 35, "heads": 4, "width": 16},
    one_frame={"videos": 3, "frames": 1, "positions": 5, "heads": 2, "width": 4},
    one_position={"videos": 2, "frames": 5, "positions": 1, "heads": 2, "width": 4},
    one_head={"videos": 2, "frames": 3, "positions": 6, "heads": 1, "width": 8},
)
def temporal_attention(i: Inputs, videos: int, frames: int, positions: int, heads: int, width: int) -> Array:
    """`Backend.temporal_attention`."""
    q, k, v = (i.array(videos * frames, positions, heads * width) for _ in range(3))
    return i.k.temporal_attention(q, k, v, heads, frames)


@kernel(
    {"videos": N, "a": FRAMES, "b": FRAMES, "channels": CHANNELS},
    moves=True,
    usual={"videos": 2, "a": 3, "b": 5, "channels": 4},
)
def swap_axes(i: Inputs, videos: int, a: int, b: int, channels: int) -> Array:
    """`Backend.swap_axes`."""
    return i.k.swap_axes(i.array(videos * a, b, channels), videos)


@kernel(
    {"runs": N, "frames": FRAMES, "channels": CHANNELS, "size": SIZE},
    one_row_a_video={"runs": 2, "frames": 4, "channels": 32, "size": (3, 5)},
    one_row_a_frame={"runs": 6, "frames": 1, "channels": 8, "size": (3, 5)},
)
def add_rows(i: Inputs, runs: int, frames: int, channels: int, size: Size) -> Array:
    """`Backend.add_rows`, to maps and to tokens."""
    rows, n = i.array(runs, channels), runs * frames
    maps = i.k.from_map(i.k.add_rows(i.map(n, channels, *size), rows))
    tokens = i.k.add_rows(i.array(n, size[0] * size[1], channels), rows)
    return i.k.concat([maps.reshape(-1), tokens.reshape(-1)], 0)


@kernel(
    {"n": N, "channels": CHANNELS, "size": SIZE, "rows": st.integers(1, 4), "columns": st.integers(1, 4)},
    moves=True,
    twice={"n": 2, "channels": 8, "size": (4, 3), "rows": 4, "columns": 3},
    to_odd_sizes={"n": 2, "channels": 8, "size": (5, 7), "rows": 4, "columns": 6},
    one_pixel={"n": 1, "channels": 3, "size": (1, 1), "rows": 4, "columns": 2},
)
def upsample(i: Inputs, n: int, channels: int, size: Size, rows: int, columns: int) -> Array:
    """`Backend.upsample`, by so many rows and columns."""
    return i.k.from_map(i.k.upsample(i.map(n, channels, *size), size[0] + rows, size[1] + columns))


@kernel(
    {
        "n": N,
        "channels": CHANNELS,
        "out": CHANNELS,
        "size": SIZE,
        "result": st.tuples(st.integers(1, 12), st.integers(1, 12)),
    },
    doubled={"n": 2, "channels": 8, "out": 6, "size": (4, 3), "result": (8, 6)},
    doubled_wide={"n": 1, "channels": 256, "out": 288, "size": (5, 6), "result": (10, 12)},
    doubled_pixel={"n": 3, "channels": 256, "out": 256, "size": (1, 1), "result": (2, 2)},
    to_odd_sizes={"n": 2, "channels": 256, "out": 256, "size": (3, 4), "result": (5, 7)},
    rows_alone={"n": 2, "channels": 256, "out": 256, "size": (3, 4), "result": (6, 4)},
)
def upsample_conv2d(i: Inputs, n: int, channels: int, out: int, size: Size, result: Size) -> Array:
    """`Backend.upsample_conv2d`."""
    layer = i.k.upsample_conv2d(i.weight(out, channels, 3, 3), i.weight(out))
    return i.k.from_map(layer(i.map(n, channels, *size), *result))


@kernel(
    {"n": N, "a": CHANNELS, "b": CHANNELS, "size": SIZE},
    moves=True,
    usual={"n": 2, "a": 32, "b": 64, "size": (3, 5)},
)
def concat_channels(i: Inputs, n: int, a: int, b: int, size: Size) -> Array:
    """`Backend.concat_channels`."""
    return i.k.from_map(i.k.concat_channels(i.map(n, a, *size), i.map(n, b, *size)))


@kernel(
    {"n": N, "channels": CHANNELS, "size": SIZE},
    moves=True,
    usual={"n": 2, "channels": 4, "size": (3, 5)},
)
def tokens(i: Inputs, n: int, channels: int, size: Size) -> Array:
    """`Backend.to_map` and `tokens`."""
    return i.k.tokens(i.map(n, channels, *size))


@kernel(
    {"n": N, "channels": CHANNELS, "size": SIZE},
    moves=True,
    usual={"n": 2, "channels": 4, "size": (3, 5)},
)
def from_tokens(i: Inputs, n: int, channels: int, size: Size) -> Array:
    """`Backend.from_tokens`, `size` and `from_map`."""
    x = i.k.from_tokens(i.array(n, size[0] * size[1], channels), *size)
    assert tuple(i.k.size(x)) == tuple(size), f"size is {i.k.size(x)}, expected {size}"
    return i.k.from_map(x)


ALIKE: list[tuple[str, Shape, Shape, Shape]] = [
    ("conv2d", {"n": 1, "channels": 3, "out": 2}, {"size": (4, 6)}, {"size": (6, 4)}),
    (
        "conv2d",
        {"n": 1, "channels": 3, "out": 2, "size": (5, 5), "stride": 2},
        {"padding": (0, 1)},
        {"padding": (1, 0)},
    ),
    (
        "temporal_conv",
        {"videos": 1, "channels": 3, "out": 2},
        {"frames": 2, "size": (2, 3)},
        {"frames": 3, "size": (2, 2)},
    ),
    ("group_norm", {"groups": 2, "width": 2, "size": (3, 3)}, {"videos": 2, "frames": 3}, {"videos": 3, "frames": 2}),
    ("attention", {"n": 2, "queries": 6, "keys": 6}, {"heads": 2, "width": 6}, {"heads": 3, "width": 4}),
    (
        "temporal_attention",
        {"videos": 1, "heads": 2, "width": 3},
        {"frames": 2, "positions": 6},
        {"frames": 3, "positions": 4},
    ),
    ("add_rows", {"frames": 1, "channels": 3}, {"runs": 2, "size": (3, 2)}, {"runs": 3, "size": (2, 2)}),
    (
        "upsample",
        {"n": 1, "channels": 2},
        {"size": (2, 6), "rows": 2, "columns": 6},
        {"size": (6, 2), "rows": 6, "columns": 2},
    ),
]
"""Pairs of shapes of equal size: what a backend keeps for one must not be taken for the other."""
