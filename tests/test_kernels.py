"""The NumPy reference in float64 against torch in float64, and what MindSpore's kernels do inside.

That backends equal the reference is the conformance suite's to test, with the same kernels and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from svdkit.backend import Array, Backend, Host, Layer, Map, added
from svdkit.testing.inputs import Inputs, measure, reference, relative_error
from svdkit.testing.kernel_checks import NAMED
from svdkit.testing.kernels import KERNELS, UNTRIED
from svdkit.testing.tolerances import TOLERANCES

pytest.importorskip("mindspore")

from svdkit_loops import patches
from svdkit_mindspore import eager
from svdkit_mindspore.backend import create
from svdkit_numpy.backend import NumpyBackend

IN_FLOAT64 = 1e-14
"""NumPy and torch round differently; the worst measured is 6e-16."""


class TorchOracle(Backend):
    """What torch has for each kernel, in float64; maps are `(N, C, H, W)`."""

    name = "torch oracle"
    devices = ("cpu",)
    dtypes = ("float64",)

    def array(self, values: Host, dtype: str | None = None) -> Array:
        return torch.tensor(values, dtype=torch.float64)

    def numpy(self, x: Array) -> Host:
        return x.numpy()

    def cast(self, x: Array, dtype: str | None = None) -> Array:
        return x.double()

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return torch.cat(list(arrays), axis)

    def all_finite(self, x: Array) -> bool:
        return bool(x.isfinite().all())

    def to_map(self, x: Array) -> Map:
        return x

    def from_map(self, x: Map) -> Array:
        return x

    def tokens(self, x: Map) -> Array:
        return x.flatten(2).transpose(1, 2)

    def from_tokens(self, x: Array, height: int, width: int) -> Map:
        return x.transpose(1, 2).unflatten(2, (height, width))

    def size(self, x: Map) -> tuple[int, int]:
        return tuple(x.shape[2:])

    def concat_channels(self, a: Map, b: Map) -> Map:
        return torch.cat([a, b], 1)

    def upsample(self, x: Map, height: int, width: int) -> Map:
        return F.interpolate(x, size=(height, width), mode="nearest")

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        parameters = self.array(weight), None if bias is None else self.array(bias)
        return lambda x, plus=None: added(F.conv2d(F.pad(x, (*padding, *padding)), *parameters, stride=stride), plus)

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        parameters = self.array(weight), self.array(bias)

        def apply(x: Map, frames: int, plus: Map | None = None) -> Map:
            videos = x.unflatten(0, (-1, frames)).transpose(1, 2)
            y = F.conv3d(videos, *parameters, padding=(weight.shape[2] // 2, 0, 0)).transpose(1, 2).flatten(0, 1)
            return added(y, plus)

        return apply

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        parameters = self.array(weight), None if bias is None else self.array(bias)
        return lambda x, plus=None: added(F.linear(x, *parameters), plus)

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        parameters = self.array(weight), self.array(bias)

        def apply(x: Map, frames: int = 1) -> Map:
            videos = x.unflatten(0, (-1, frames)).transpose(1, 2)
            y = F.group_norm(videos, groups, *parameters, eps).transpose(1, 2).flatten(0, 1)
            return F.silu(y) if silu else y

        return apply

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        parameters = self.array(weight), self.array(bias)
        return lambda x: F.layer_norm(x, weight.shape, *parameters, eps)

    def mix(self, factor: Host, flip: bool) -> Layer:
        share = self.array(factor).sigmoid()
        return lambda a, b: torch.lerp(a, b, share) if flip else torch.lerp(b, a, share)

    def geglu(self, weight: Host, bias: Host) -> Layer:
        def apply(x: Array) -> Array:
            value, gate = F.linear(x, self.array(weight), self.array(bias)).chunk(2, -1)
            return value * F.gelu(gate)

        return apply

    def silu(self, x: Array) -> Array:
        return F.silu(x)

    def gelu(self, x: Array) -> Array:
        return F.gelu(x)

    def quick_gelu(self, x: Array) -> Array:
        return x * torch.sigmoid(1.702 * x)

    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def temporal_attention(self, q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
        # (videos, positions, heads, frames, channels of a head)
        q, k, v = (x.unflatten(0, (-1, frames)).unflatten(3, (heads, -1)).permute(0, 2, 3, 1, 4) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)

    def swap_axes(self, x: Array, videos: int) -> Array:
        return x.unflatten(0, (videos, -1)).transpose(1, 2).flatten(0, 1)

    def add_rows(self, x: Array | Map, rows: Array) -> Array | Map:
        rows = rows.repeat_interleave(x.shape[0] // rows.shape[0], 0)
        return x + (rows[:, None] if x.ndim == 3 else rows[:, :, None, None])


@pytest.mark.parametrize(("name", "shape"), NAMED)
def test_named_shapes_against_torch(name: str, shape: dict[str, Any]) -> None:
    assert measure(KERNELS[name].run, reference(), TorchOracle(), **shape) <= (0 if KERNELS[name].moves else IN_FLOAT64)


@pytest.mark.parametrize("name", KERNELS)
@given(data=st.data())
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_drawn_shapes_against_torch(name: str, data: st.DataObject) -> None:
    shape = data.draw(KERNELS[name].drawn)
    assert measure(KERNELS[name].run, reference(), TorchOracle(), **shape) <= (0 if KERNELS[name].moves else IN_FLOAT64)


def test_a_constant_is_normalised_to_nothing() -> None:
    """By the reference in float32 too: later norms would make what is left of it large again."""
    k, ones, zeros = NumpyBackend("cpu", "float32"), np.ones(32, np.float32), np.zeros(32, np.float32)
    x = np.broadcast_to(np.float32(0.7) + np.arange(32, dtype=np.float32)[:, None, None], (2, 32, 16, 16))
    assert np.abs(k.group_norm(ones, zeros, 32, 1e-6, False)(k.to_map(k.array(x)))).max() == 0
    assert np.abs(k.layer_norm(ones, zeros, 1e-6)(k.array(np.full((5, 32), 0.7)))).max() == 0


def test_every_kernel_is_tried() -> None:
    used = set()

    class Recorder(TorchOracle):
        def __getattribute__(self, name: str) -> Any:
            used.add(name)
            return super().__getattribute__(name)

    for k in KERNELS.values():
        k.run(Inputs(Recorder(), "float64"), **next(iter(k.named.values())))
    assert used >= Backend.__abstractmethods__ - UNTRIED
    assert used >= {"geglu", "temporal_attention"}


PIECES = [param for param in NAMED if param.values[0] in ("conv2d", "temporal_conv")]


@pytest.mark.parametrize("elements", [1, 200, 3000])
@pytest.mark.parametrize(("name", "shape"), PIECES)
def test_mindspore_in_pieces_equals_the_whole(
    name: str, shape: dict[str, Any], elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = create("cpu", "float32")
    whole = k.numpy(KERNELS[name].run(Inputs(k, "float32"), **shape))
    pieces = []
    multiply = patches.multiply
    monkeypatch.setattr(patches, "multiply", lambda rows, *rest: (pieces.append(len(rows)), multiply(rows, *rest))[1])
    monkeypatch.setattr(patches, "PATCHES", elements)
    assert (
        relative_error(k.numpy(KERNELS[name].run(Inputs(k, "float32"), **shape)), whole) <= TOLERANCES["float32"].kernel
    )
    in_tiles = shape.get("channels", 0) >= eager.CHANNELS and "stride" not in shape
    if elements == 1 and whole.size > 100 and 1 not in (shape.get("kernel"), shape.get("frames")) and not in_tiles:
        assert len(pieces) > 1, "nothing was cut"
