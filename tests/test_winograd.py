"""Winograd's convolutions: their matrices, what loops compute, and when MindSpore's CPU uses them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from svdkit.backend import Host
from svdkit.memory.meter import Ledger, Meter
from svdkit.testing.inputs import relative_error

pytest.importorskip("mindspore")

from svdkit import winograd
from svdkit_loops import parts
from svdkit_loops import winograd as loops
from svdkit_loops.patches import patches_size
from svdkit_loops.stored import stored
from svdkit_loops.tile import WIDTH
from svdkit_mindspore import eager
from svdkit_mindspore.backend import create

ROUNDING = 3e-6
"""As for the kernels of every backend; 1.2e-6 was seen on maps of 320 channels, 0.4e-6 with patches."""

# For other processors (tests/test_products.py) only the larger: loops of each size take a while to be compiled.
of_sizes = pytest.mark.parametrize("m", [4] if os.environ.get("SVDKIT_NARROWER") else [2, 4])


def convolve(x: Host, weight: Host, bias: Host) -> Host:
    """A 3x3 convolution of `(N, H, W, C)` padded by 1, in float64."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = sum(padded[:, j : j + height, i : i + width] @ weight[:, :, j, i].T for j in range(3) for i in range(3))
    return np.asarray(total + bias)


def convolve_in_time(x: Host, weight: Host, bias: Host, frames: int) -> Host:
    """A convolution over the frames of each video of `(N, P, C)`, in float64."""
    videos = x.astype(np.float64).reshape(-1, frames, *x.shape[1:])
    padded = np.pad(videos, ((0, 0), (1, 1), (0, 0), (0, 0)))
    taps = weight.astype(np.float64)[..., 0, 0]
    total = sum(padded[:, j : j + frames] @ taps[:, :, j].T for j in range(3))
    return np.asarray(total).reshape(*x.shape[:2], -1) + bias


@pytest.mark.parametrize("m", [2, 4])
def test_matrices_make_a_convolution_of_one_dimension(m: int) -> None:
    rng = np.random.default_rng(m)
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    a, weights, b = winograd.matrices(m)
    expected = [d[i : i + 3] @ g for i in range(m)]
    assert a @ ((weights @ g) * (b @ d)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("results", "first"), [(winograd.EVEN, 0), (winograd.ODD, 1)])
def test_matrices_of_every_other_result_on_doubled_inputs(m: int, results: int, first: int) -> None:
    rng = np.random.default_rng(m)
    d, g = rng.standard_normal(m + 1), rng.standard_normal(3)
    a, weights, b = winograd.matrices(m, results)
    doubled = np.repeat(d, 2)  # an even result sees one of the inputs before it, an odd one two of its own
    expected = [doubled[2 * i + 1 - first :][:3] @ g for i in range(m)]
    assert a @ ((weights @ g) * (b @ d)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("lengths", "m"), [((4,), 4), ((2,), 2), ((5,), 2), ((6,), 2), ((25,), 4), ((2, 2), 2), ((4, 4), 4), ((2, 9), 2)]
)
def test_tiles_take_few_products(lengths: tuple[int, ...], m: int) -> None:
    assert winograd.tile(*lengths) == m


@pytest.mark.parametrize(("lengths", "m"), [((1, 1), 2), ((4, 4), 4), ((5, 6), 2), ((7, 8), 4)])
def test_tiles_of_doubled_maps_take_few_products(lengths: tuple[int, ...], m: int) -> None:
    assert winograd.tile(*lengths, results=winograd.ODD) == m


@of_sizes
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 4), (3, 5, 7), (2, 9, 13)])
@pytest.mark.parametrize(("channels", "out"), [(64, 72), (200, 31), (5, 300)])
@pytest.mark.parametrize(
    "blocks",
    [
        {},
        {"TILES": 5, "KEPT": 0, "FACTORS": 36 * 48 * WIDTH},
        {"TILES": 5, "KEPT": 0, "FAR": 0, "FACTORS": 36 * 96 * WIDTH},
    ],
)
@pytest.mark.parametrize("processors", [1, 2, 5])
def test_numbers(
    m: int,
    shape: tuple[int, int, int],
    channels: int,
    out: int,
    blocks: dict[str, int],
    processors: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, size in blocks.items():
        monkeypatch.setattr(loops, name, size)
    monkeypatch.setattr(parts, "allowed_processors", lambda: list(range(processors)))
    rng = np.random.default_rng(0)
    # A mean of several times the spread, since transforms lose digits of what they subtract.
    x = rng.standard_normal((*shape, channels), np.float32) + 3
    weight = (rng.standard_normal((out, channels, 3, 3)) / 24).astype(np.float16)
    bias = rng.standard_normal(out, np.float32)
    y = np.full((*shape, out), np.nan, np.float32)
    loops.convolve(loops.Maps(x.shape, m), x, stored(weight), bias, y)
    assert relative_error(y, convolve(x, weight, bias)) < ROUNDING
    before, more = y.copy(), rng.standard_normal(y.shape, np.float32)
    loops.convolve(loops.Maps(x.shape, m), x, stored(weight), bias, y, more)
    assert relative_error(y, before + more.astype(np.float64)) < ROUNDING


@of_sizes
@pytest.mark.parametrize(("videos", "frames"), [(1, 1), (3, 1), (2, 2), (1, 3), (2, 4), (5, 5), (3, 14)])
@pytest.mark.parametrize(("channels", "out"), [(64, 72), (200, 31)])
@pytest.mark.parametrize(
    "blocks",
    [
        {},
        {"TILES": 7, "KEPT": 0, "FACTORS": 6 * 48 * WIDTH},
        {"TILES": 7, "KEPT": 0, "FAR": 0, "FACTORS": 6 * 96 * WIDTH},
    ],
)
def test_numbers_in_time(
    m: int,
    videos: int,
    frames: int,
    channels: int,
    out: int,
    blocks: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, size in blocks.items():
        monkeypatch.setattr(loops, name, size)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((videos * frames, 15, channels), np.float32) + 3
    weight = (rng.standard_normal((out, channels, 3, 1, 1)) / 14).astype(np.float16)
    bias = rng.standard_normal(out, np.float32)
    y = np.full((videos * frames, 15, out), np.nan, np.float32)
    loops.convolve(loops.Frames(x.shape, frames, m), x, stored(weight), bias, y)
    assert relative_error(y, convolve_in_time(x, weight, bias, frames)) < ROUNDING
    before, more = y.copy(), rng.standard_normal(y.shape, np.float32)
    loops.convolve(loops.Frames(x.shape, frames, m), x, stored(weight), bias, y, more)
    assert relative_error(y, before + more.astype(np.float64)) < ROUNDING


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 4), (3, 5, 7), (1, 2, 9)])
@pytest.mark.parametrize(("channels", "out"), [(64, 72), (200, 31)])
@of_sizes
def test_numbers_of_doubled_maps(
    shape: tuple[int, int, int], channels: int, out: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "SIZES", [m])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*shape, channels), np.float32) + 3
    weight = (rng.standard_normal((out, channels, 3, 3)) / 24).astype(np.float16)
    bias = rng.standard_normal(out, np.float32)
    n, height, width = shape
    y = np.full((n, 2 * height, 2 * width, out), np.nan, np.float32)
    loops.convolve_doubled(x, stored(weight), bias, y)
    assert relative_error(y, convolve(x.repeat(2, 1).repeat(2, 2), weight, bias)) < ROUNDING


def test_what_does_not_fit_is_not_convolved() -> None:
    x, bias = np.zeros((2, 5, 5, 64), np.float32), np.zeros(64, np.float32)
    weight, tiling = np.zeros((64, 64, 3, 3), np.float32), loops.Maps(x.shape, 4)
    for t, w, b, out in (
        (loops.Maps((2, 5, 6, 64), 4), weight, bias, x),
        (tiling, weight, bias, x[:1]),
        (tiling, weight, bias[:3], x),
        (tiling, weight[:, :32], bias, x),
        (tiling, weight[:63], bias, x),
        (tiling, weight[..., :1], bias, x),
        (loops.Frames((2, 25, 64), 2, 4), weight, bias, x),
        (loops.Maps(x.shape, 4, winograd.EVEN, winograd.ODD), weight, bias, x),
    ):
        with pytest.raises(ValueError, match="do not fit tiles"):
            loops.convolve(t, x, np.ascontiguousarray(w), b, np.empty_like(out))
    with pytest.raises(ValueError, match="do not fit tiles"):
        loops.convolve(tiling, x, weight, bias, np.empty_like(x), x[:1])


# On MindSpore


def layers(k: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Maps, and convolutions that are Winograd's, in space and over time, with their results in float64."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6, 5, 7, 64)) + 3).astype(np.float32)
    space, time = ((rng.standard_normal((72, 64, 3, *last)) / 24).astype(np.float16) for last in ((3,), (1, 1)))
    bias, maps = rng.standard_normal(72).astype(np.float32), k.array(x)
    frames = {
        count: convolve_in_time(x.reshape(6, 35, 64), time, bias, count).reshape(6, 5, 7, 72) for count in (1, 2, 3)
    }
    conv, over_time, bare = k.conv2d(space, bias), k.temporal_conv(time, bias), k.conv2d(space, None)
    after_upsampling, odd_rows = k.upsample_conv2d(space, bias), np.arange(9) * 5 // 9
    return maps, [
        (lambda maps: after_upsampling(maps, 10, 14), convolve(x.repeat(2, 1).repeat(2, 2), space, bias)),
        (lambda maps: after_upsampling(maps, 9, 14), convolve(x[:, odd_rows].repeat(2, 2), space, bias)),
        (conv, convolve(x, space, bias)),
        (bare, convolve(x, space, 0 * bias)),
        *((lambda maps, count=count: over_time(maps, count), expected) for count, expected in frames.items()),
    ]


def test_layers() -> None:
    k = create("cpu", "float32")
    maps, of_maps = layers(k)
    for layer, expected in of_maps:
        assert relative_error(k.numpy(layer(maps)), expected) < ROUNDING


def test_graphs_have_the_same_numbers() -> None:
    k = create("cpu", "float32")
    maps, of_maps = layers(k)
    for layer, expected in of_maps:
        graph = k.compile(lambda x, layer=layer: layer(x))
        graph(k.array(np.zeros(maps.shape)))  # what is recorded may not have these numbers in it
        assert relative_error(k.numpy(graph(maps)), expected) < ROUNDING


@pytest.mark.parametrize(
    ("weight", "options", "used"),
    [
        ((64, 64, 3, 3), {}, True),
        ((1280, 64, 3, 3), {}, True),
        ((3, 64, 3, 3), {}, True),
        ((64, 63, 3, 3), {}, False),
        ((64, 64, 3, 3), {"stride": 2}, False),
        ((64, 64, 3, 3), {"stride": 2, "padding": (0, 1)}, False),
        ((64, 64, 3, 3), {"padding": (0, 1)}, False),
        ((64, 64, 5, 5), {"padding": (2, 2)}, False),
        ((64, 64, 1, 1), {"padding": (0, 0)}, False),
    ],
)
def test_when_it_is_used(
    weight: tuple[int, ...], options: dict[str, Any], used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = eager.convolve
    monkeypatch.setattr(eager, "convolve", lambda *args: (calls.append(1), real(*args))[1])
    k = create("cpu", "float32")
    k.conv2d(np.zeros(weight, np.float32), None, **options)(k.to_map(k.array(np.zeros((1, weight[1], 6, 6)))))
    assert calls == [1] * used


@pytest.mark.parametrize(
    ("channels", "height", "used"),
    [(64, 12, ["doubled"]), (64, 11, ["upsample", "tiles"]), (63, 12, ["upsample", "patches"])],
)
def test_when_maps_are_doubled_in_it(
    channels: int, height: int, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    k = create("cpu", "float32")
    for owner, name, call in (
        (eager, "convolve_doubled", "doubled"),
        (eager, "convolve", "tiles"),
        (eager, "convolve_patches", "patches"),
        (type(k), "upsample", "upsample"),
    ):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, real=real, call=call: (calls.append(call), real(*args))[1])
    layer = k.upsample_conv2d(np.zeros((3, channels, 3, 3), np.float32), np.zeros(3, np.float32))
    layer(k.to_map(k.array(np.zeros((1, channels, 6, 5)))), height, 10)
    assert calls == used


@pytest.mark.parametrize(("height", "larger"), [(64, False), (63, True)])
def test_plans_count_the_larger_map_where_there_is_one(height: int, larger: bool) -> None:
    meter = Meter(create("cpu", "float32"))
    layer = meter.upsample_conv2d(np.zeros((64, 64, 3, 3), np.float16), np.zeros(64, np.float32))
    assert meter.ledger.weights == 2 * 64 * 64 * 9 + 4 * 64
    x = meter.new((8, 64, 32, 32))
    y = layer(x, height, 64)
    assert (meter.ledger.peak - x.nbytes - y.nbytes >= y.nbytes) == larger
    assert meter.ledger.flops == {"upsample_conv2d": 2 * 9 * 64 * 64 * 8 * height * 64}


@pytest.mark.parametrize(("stride", "patches"), [(1, False), (2, True)])
def test_plans_count_patches_where_they_are_laid_out(stride: int, patches: bool) -> None:
    meter = Meter(create("cpu", "float32"))
    layer = meter.conv2d(np.zeros((64, 640, 3, 3), np.float16), np.zeros(64, np.float32), stride)
    x = meter.new((2, 640, 64, 64))
    y = layer(x)
    assert (meter.ledger.peak - x.nbytes - y.nbytes == 4 * patches_size((64, 640, 3, 3), 2 * 32 * 32)) == patches


@pytest.mark.parametrize(("kernel", "shape"), [("conv2d", (64, 96, 3, 3)), ("temporal_conv", (64, 96, 3, 1, 1))])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_plans_count_what_layers_hold(kernel: str, shape: tuple[int, ...], dtype: type) -> None:
    k, ledger, weight = create("cpu", "float32"), Ledger(), np.zeros(shape, dtype)
    getattr(Meter(k, ledger), kernel)(weight, np.zeros(64, np.float32))
    assert ledger.weights == weight.nbytes + 4 * 64
