"""Winograd's convolutions on MindSpore's CPU: their matrices, their numbers, and when they are used."""

from __future__ import annotations

import numpy as np
import pytest
from reference import relative_error

from svdkit.backend import Host
from svdkit.memory.meter import Ledger, Meter

pytest.importorskip("mindspore")

from svdkit import winograd
from svdkit_loops import winograd as loops
from svdkit_loops.winograd import transform_weights
from svdkit_mindspore import eager, traced
from svdkit_mindspore.backend import create

ROUNDING = 3e-6
"""As for the kernels of every backend; 1.2e-6 was seen on maps of 320 channels, 0.4e-6 with patches."""


def convolve(x: Host, weight: Host, bias: Host | float) -> Host:
    """A 3x3 convolution of `(N, C, H, W)` padded by 1, in float64."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    _, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    total = sum(
        np.einsum("nihw,oi->nohw", padded[:, :, j : j + height, i : i + width], weight[:, :, j, i])
        for j in range(3)
        for i in range(3)
    )
    return np.asarray(total + np.reshape(bias, (1, -1, 1, 1)))


@pytest.mark.parametrize("m", [2, 4])
def test_matrices_make_a_convolution_of_one_dimension(m: int) -> None:
    rng = np.random.default_rng(m)
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    a, weights, b = winograd.matrices(m)
    expected = [d[i : i + 3] @ g for i in range(m)]
    assert a @ ((weights @ g) * (b @ d)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 4), (3, 5, 7), (2, 9, 13)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_numbers(m: int, shape: tuple[int, int, int], blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    n, height, width = shape
    rng = np.random.default_rng(0)
    # A mean of several times the spread, since transforms lose digits of what they subtract.
    x = rng.standard_normal((n, 64, height, width), np.float32) + 3
    weight = rng.standard_normal((72, 64, 3, 3), np.float32) / 24
    bias = rng.standard_normal(72, np.float32)
    if blocks > 1:
        monkeypatch.setattr(loops, "runs_of", lambda tiling, *_: min(tiling.count, 5))
    k = create("cpu", "float32")
    for b in (bias, None):
        layer = k._winograd(weight, b, m)
        y = k.numpy(k.from_map(layer(k.to_map(k.array(x)))))
        assert relative_error(y, convolve(x, weight, 0 if b is None else b)) < ROUNDING


def convolve_in_time(x: Host, weight: Host, bias: Host, frames: int) -> Host:
    """A convolution over the frames of each video of `(N, C, H, W)`, in float64."""
    videos = x.astype(np.float64).reshape(-1, frames, *x.shape[1:])
    padded = np.pad(videos, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    taps = weight.astype(np.float64)[..., 0, 0]
    total = sum(np.einsum("vfihw,oi->vfohw", padded[:, j : j + frames], taps[:, :, j]) for j in range(3))
    return np.asarray(total).reshape(len(x), -1, *x.shape[2:]) + bias.reshape(1, -1, 1, 1)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("videos", "frames"), [(1, 1), (3, 1), (2, 2), (1, 3), (2, 4), (5, 5), (3, 14)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_numbers_in_time(m: int, videos: int, frames: int, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((videos * frames, 64, 3, 5), np.float32) + 3
    weight = rng.standard_normal((72, 64, 3, 1, 1), np.float32) / 14
    bias = rng.standard_normal(72, np.float32)
    if blocks > 1:
        monkeypatch.setattr(loops, "runs_of", lambda tiling, *_: min(tiling.count, 7))
    k = create("cpu", "float32")
    y = k.numpy(k.from_map(k._winograd_in_time(weight, bias, m)(k.to_map(k.array(x)), frames)))
    assert relative_error(y, convolve_in_time(x, weight, bias, frames)) < ROUNDING


@pytest.mark.parametrize("m", [2, 4])
def test_graphs_have_the_same_numbers(m: int) -> None:
    rng = np.random.default_rng(0)
    k = create("cpu", "float32")
    maps = k.array(rng.standard_normal((6, 5, 7, 64)) + 3)
    bias = k.array(rng.standard_normal(72))
    space, time = (rng.standard_normal((72, 64, 3, *last), np.float32) / 24 for last in ((3,), (1, 1)))
    for weight, call in (
        (space, lambda module, f: module.conv2d(maps, f, bias, m)),
        (time, lambda module, f: module.temporal_conv(maps.reshape(6, 35, 64), 3, f, bias, m)),
    ):
        factors = k.array(transform_weights(weight, m))
        assert relative_error(call(traced, factors).asnumpy(), call(eager, factors).asnumpy()) < ROUNDING


@pytest.mark.parametrize(
    ("weight", "options", "m"),
    [
        ((64, 64, 3, 3), {}, 4),
        ((1280, 64, 3, 3), {}, 2),
        ((64, 1280, 3, 3), {}, 4),
        ((63, 64, 3, 3), {}, 0),
        ((64, 4, 3, 3), {}, 0),
        ((64, 64, 3, 3), {"stride": 2}, 0),
        ((64, 64, 3, 3), {"stride": 2, "padding": (0, 1)}, 0),
        ((64, 64, 3, 3), {"padding": (0, 1)}, 0),
        ((64, 64, 5, 5), {"padding": (2, 2)}, 0),
        ((64, 64, 1, 1), {"padding": (0, 0)}, 0),
    ],
)
def test_when_it_is_used(
    weight: tuple[int, ...], options: dict[str, object], m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    k = create("cpu", "float32")
    monkeypatch.setattr(type(k), "_winograd", lambda self, w, b, m: used.append(m))
    k.conv2d(np.zeros(weight, np.float32), None, **options)
    assert used == ([m] if m else [])
    assert k.held("conv2d", weight, int(options.get("stride", 1))) >= np.prod(weight)  # type: ignore[call-overload]


def test_weights_are_planned_as_large_as_they_are() -> None:
    k = create("cpu", "float32")
    for shape, m in (((64, 96, 3, 3), 4), ((1280, 64, 3, 3), 2)):
        assert transform_weights(np.zeros(shape, np.float32), m).size == k.held("conv2d", shape)
    for shape, m in (((64, 96, 3, 1, 1), 4), ((1280, 64, 3, 1, 1), 2)):
        assert transform_weights(np.zeros(shape, np.float32), m).size == k.held("temporal_conv", shape)
    assert k.held("linear", (64, 96)) == 64 * 96


@pytest.mark.parametrize(("kernel", "shape"), [("conv2d", (64, 96, 3, 3)), ("temporal_conv", (64, 96, 3, 1, 1))])
def test_plans_count_what_layers_hold(kernel: str, shape: tuple[int, ...]) -> None:
    k, ledger = create("cpu", "float32"), Ledger()
    getattr(Meter(k, ledger), kernel)(np.zeros(shape, np.float32), np.zeros(64, np.float32))
    assert ledger.weights == 4 * (k.held(kernel, shape) + 64)


def test_what_does_not_fit_is_not_convolved() -> None:
    x, bias = np.zeros((2, 5, 5, 64), np.float32), np.zeros(64, np.float32)
    weights = transform_weights(np.zeros((64, 64, 3, 3), np.float32), 4)
    for tiling, out, b in (
        (loops.Maps((2, 5, 6, 64), 4), x, bias),
        (loops.Maps(x.shape, 4), x[:1].copy(), bias),
        (loops.Maps(x.shape, 4), x.copy(), bias[:3]),
    ):
        with pytest.raises(ValueError, match="do not fit tiles"):
            loops.convolve(tiling, x, weights, b, np.empty_like(out))
    with pytest.raises(ValueError, match="does not go into"):
        loops.convolve(loops.Maps(x.shape, 4), x, weights[:, :, :32].copy(), bias, np.empty_like(x))
