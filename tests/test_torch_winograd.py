"""Winograd's convolution on torch's CPU: its numbers, in bands too, its gradients, and when it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import relative_error

from svdkit.backend import Call, Host

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812

from svdkit import winograd as matrices  # noqa: E402
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
@pytest.mark.parametrize("elements", [1, 2**24])
def test_numbers(channels: int, size: tuple[int, int], elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "TILE_ELEMENTS", elements)
    x = drawn(2, 256, *size) + 3  # a mean of several times the spread: transforms lose digits of what they subtract
    weight, bias = drawn(channels, 256, 3, 3) / 48, drawn(channels)
    k = TorchBackend("cpu", "float32")
    for b in (bias, None):
        y = k.numpy(k.from_map(k.conv2d(weight, b)(k.to_map(k.array(x)))))
        assert relative_error(y, expected(x, weight, b)) < ROUNDING


def test_gradients_are_those_of_a_direct_convolution() -> None:
    x, weight = torch.from_numpy(drawn(1, 5, 6, 256)), drawn(256, 256, 3, 3) / 48
    bias = torch.zeros(256)

    def gradient(convolve: Any) -> Any:
        leaf = x.clone().requires_grad_()
        (convolve(leaf) ** 2).sum().backward()
        return leaf.grad.numpy()

    direct = F.conv2d
    found = gradient(winograd.conv2d(weight, bias, 4))
    kernel = torch.from_numpy(weight)
    assert relative_error(found, gradient(lambda x: direct(x.permute(0, 3, 1, 2), kernel, bias, padding=1))) < 1e-5


def test_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(winograd, "conv2d", lambda weight, bias, m: used.append(m))
    wide, deep, narrow = (np.zeros(s, np.float32) for s in ((256, 256, 3, 3), (1280, 256, 3, 3), (255, 256, 3, 3)))
    k = TorchBackend("cpu", "float32")
    k.conv2d(wide, None)
    k.conv2d(deep, None)
    assert used == [4, 2]
    k.temporal_conv(wide[..., :1, None], np.zeros(256, np.float32))
    k.conv2d(narrow, None)
    k.conv2d(wide, None, stride=2)
    k.conv2d(wide, None, padding=(0, 1))
    k.conv2d(wide[..., :1, :1], None, padding=(0, 0))
    k.conv2d(torch.from_numpy(wide), None)  # a weight that is trained
    TorchBackend("cpu", "float64").conv2d(wide, None)
    TorchBackend("cpu", "bfloat16").conv2d(wide, None)
    assert len(used) == 2


def test_weights_are_planned_as_large_as_they_are() -> None:
    k = TorchBackend("cpu", "float32")
    for shape, m in (((256, 320, 3, 3), 4), ((1280, 256, 3, 3), 2)):
        assert k.held("conv2d", shape) == matrices.transform_weights(np.zeros(shape, np.float32), m).size
        assert TorchBackend("cpu", "bfloat16").held("conv2d", shape) == np.prod(shape)
    assert k.held("temporal_conv", (256, 256, 3, 1, 1)) == 256 * 256 * 3


def test_tiles_are_in_the_plan() -> None:
    k = TorchBackend("cpu", "float32")
    maps = (2, 256, 32, 32)
    call = Call("conv2d", (maps,), ("conv2d",), maps, (256, 256, 3, 3), {"stride": 1, "padding": 2}, 4)
    assert sum(k.scratch(call)) >= 4 * 2 * 36 * 2 * 8 * 8 * 256
    assert sum(TorchBackend("cpu", "bfloat16").scratch(call)) == 0
