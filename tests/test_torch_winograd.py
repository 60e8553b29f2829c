"""Winograd's convolution on torch's CPU: its numbers, its gradients, and when it is used."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from attrs import evolve

from svdkit.backend import Call, Host
from svdkit.testing.inputs import relative_error

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from torch import library  # noqa: E402

from svdkit_loops.numbers import HAS_PAIRS  # noqa: E402
from svdkit_torch import winograd  # noqa: E402
from svdkit_torch.backend import TorchBackend  # noqa: E402

ROUNDING = 3e-6
"""As for the kernels of every backend; 1.0e-6 was seen on 256 channels."""


def drawn(*shape: int) -> Host:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


def expected(x: Host, weight: Host, bias: Host | None) -> Any:
    """By torch's own convolution, in float64."""
    b = None if bias is None else torch.from_numpy(bias).double()
    return F.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), b, padding=1).numpy()


@pytest.mark.parametrize("channels", [256, 1280])
@pytest.mark.parametrize("size", [(1, 1), (4, 8), (5, 7), (13, 9)])
def test_numbers(channels: int, size: tuple[int, int]) -> None:
    x = drawn(2, 256, *size) + 3  # a mean of several times the spread: transforms lose digits of what they subtract
    weight, bias = drawn(channels, 256, 3, 3) / 48, drawn(channels)
    k = TorchBackend("cpu", "float32")
    for b in (bias, None):
        y = k.numpy(k.from_map(k.conv2d(weight, b)(k.to_map(k.array(x)))))
        assert relative_error(y, expected(x, weight, b)) < ROUNDING


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_weights_of_any_dtype(dtype: type) -> None:
    k, x = TorchBackend("cpu", "float32"), drawn(4, 320, 4, 5)
    bias, space, time = (w.astype(dtype) for w in (drawn(320), drawn(320, 320, 3, 3), drawn(320, 320, 3, 1, 1)))
    for layer, weight, options in ((k.conv2d, space, {}), (k.temporal_conv, time, {"frames": 2})):
        results = [
            k.numpy(layer(w, b)(k.array(x.transpose(0, 2, 3, 1)), **options))
            for w, b in ((weight, bias), (weight.astype(np.float32), bias.astype(np.float32)))
        ]
        assert relative_error(*results) < 1e-6


@pytest.mark.parametrize(("videos", "frames"), [(1, 1), (2, 2), (1, 3), (2, 4), (3, 5), (1, 14)])
def test_numbers_in_time(videos: int, frames: int) -> None:
    x, weight, bias = drawn(videos * frames, 320, 3, 5) + 3, drawn(384, 320, 3, 1, 1) / 31, drawn(384)
    k = TorchBackend("cpu", "float32")
    y = k.numpy(k.from_map(k.temporal_conv(weight, bias)(k.to_map(k.array(x)), frames)))
    clips = torch.from_numpy(x).double().unflatten(0, (videos, frames)).transpose(1, 2)
    direct = F.conv3d(clips, torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), padding=(1, 0, 0))
    assert relative_error(y, direct.transpose(1, 2).flatten(0, 1).numpy()) < ROUNDING


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_doubled_maps(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tiles of the map as it was, unless its gradient is followed or it is not doubled; the numbers are the same."""
    used: list[Any] = []
    real = winograd.convolve_doubled
    monkeypatch.setattr(winograd, "convolve_doubled", lambda *args: (used.append(args[0].shape), real(*args))[1])
    k = TorchBackend("cpu", dtype)
    layer = k.upsample_conv2d(drawn(256, 320, 3, 3) / 54, drawn(256))
    x = k.array(drawn(2, 5, 6, 320))
    y = layer(x, 10, 12)
    assert used == [x.shape] * (dtype == "float32" or HAS_PAIRS)
    used.clear()
    leaf = x.clone().requires_grad_()
    followed = layer(leaf, 10, 12)
    followed.sum().backward()
    assert leaf.grad.shape == x.shape
    assert layer(x, 9, 12).shape == (2, 9, 12, 256)
    assert used == []
    assert relative_error(k.numpy(y), k.numpy(followed)) < (ROUNDING if dtype == "float32" else 5e-3)


def test_gradients_are_those_of_a_direct_convolution() -> None:
    """And what torch records of it is what it would have to know of it."""
    offset = torch.from_numpy(drawn(256))

    def check(layer: Any, convolve: Any, x: Any) -> None:
        def gradient(function: Any) -> Any:
            leaf = x.clone().requires_grad_()
            y = function(leaf)
            (y**2).sum().backward()
            assert relative_error(y.detach().numpy(), layer(x).numpy()) < ROUNDING
            return leaf.grad.numpy()

        assert relative_error(gradient(layer), gradient(convolve)) < 1e-5

    kernel = torch.from_numpy(drawn(256, 256, 3, 3) / 48)
    check(
        lambda x: winograd.convolve(x, kernel, offset, None, 0),
        lambda x: F.conv2d(x.permute(0, 3, 1, 2), kernel, offset, padding=1).permute(0, 2, 3, 1),
        torch.from_numpy(drawn(1, 5, 6, 256)),
    )
    over_time = torch.from_numpy(drawn(256, 256, 3, 1, 1) / 28)
    taps = over_time[..., 0, 0]
    check(
        lambda x: winograd.convolve(x, over_time, offset, None, 5),
        lambda x: (
            F.conv1d(x.reshape(2, 5, 6, 256).permute(0, 2, 3, 1).flatten(0, 1), taps, offset, padding=1)
            .unflatten(0, (2, 6))
            .permute(0, 3, 1, 2)
            .reshape(10, 2, 3, 256)
        ),
        torch.from_numpy(drawn(10, 2, 3, 256)),
    )
    leaf = torch.from_numpy(drawn(10, 2, 3, 256)).requires_grad_()
    more = leaf.detach().clone().requires_grad_()
    library.opcheck(torch.ops.svdkit.winograd.default, (leaf, over_time.half(), offset, more, 5))


def test_when_it_is_used() -> None:
    k, bias = TorchBackend("cpu", "float32"), np.zeros(320, np.float32)
    wide, deep, narrow = (np.zeros(s, np.float32) for s in ((320, 320, 3, 3), (1280, 320, 3, 3), (127, 320, 3, 3)))
    used: list[int] = []

    def note(x: Any, weight: Any, bias: Any, plus: Any, frames: int) -> Any:
        used.append(frames)
        return x

    x = k.to_map(k.array(np.zeros((4, 320, 3, 3))))
    in_tiles = k.conv2d(wide, None), k.conv2d(deep, None), k.conv2d(wide[:128], None)
    over_time = k.temporal_conv(wide[..., :1, None], bias), k.temporal_conv(deep[..., :1, None], drawn(1280))
    direct = (
        k.conv2d(narrow, None),
        k.conv2d(wide, None, stride=2),
        k.conv2d(wide, None, padding=(0, 1)),
        k.conv2d(wide[..., :1, :1], None, padding=(0, 0)),
        k.conv2d(torch.from_numpy(wide), None),  # a weight that is trained
    )
    direct_over_time = (
        k.temporal_conv(wide[:319, ..., :1, None], bias[:319]),
        k.temporal_conv(torch.from_numpy(wide[..., :1, None]), bias),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "convolve", note)
        for layer in (*in_tiles, *direct):
            layer(x)
        for layer in (*over_time, *direct_over_time):
            layer(x, 2)
        over_time[0](x, 1)
        other = TorchBackend("cpu", "float64")
        other.conv2d(wide, None)(other.cast(x))
        assert used == [0, 0, 0, 2, 2]
        other = TorchBackend("cpu", "bfloat16")
        for layer in (other.conv2d(wide, None), other.conv2d(narrow, None), other.conv2d(wide, None, stride=2)):
            layer(other.cast(x))
        other.temporal_conv(wide[..., :1, None], bias)(other.cast(x), 2)
    assert used[5:] == [0] * HAS_PAIRS, "in bfloat16 only in space, and on processors that multiply it"


def test_weights_are_planned_as_large_as_they_are() -> None:
    k = TorchBackend("cpu", "float32")
    for shape in ((256, 320, 3, 3), (320, 320, 3, 1, 1), (320, 320)):
        weight = np.zeros(shape, np.float16)
        assert k.held(weight) == weight.nbytes
        assert k.held(weight.astype(np.float64)) == 2 * weight.nbytes
        assert TorchBackend("cpu", "bfloat16").held(weight.astype(np.float32)) == weight.nbytes
    assert k.held(np.zeros((64, 64, 3, 3), np.float16)) == 4 * 64 * 64 * 9, "direct, in its own dtype"


def test_tiles_are_in_the_plan() -> None:
    k = TorchBackend("cpu", "float32")
    maps = (2, 256, 32, 32)
    call = Call("conv2d", (maps,), ("conv2d",), maps, (256, 256, 3, 3), {"stride": 1, "padding": 2}, 4)
    assert sum(k.scratch(call)) >= 4 * 36 * 64 * (256 + 32), "a run of 64 tiles and a panel of products, by one thread"
    halves = evolve(call, itemsize=2)
    assert sum(TorchBackend("cpu", "bfloat16").scratch(halves)) == sum(k.scratch(call)) * HAS_PAIRS, "float32 inside"
