"""What the meter says of single kernels and of whole networks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from memory_peaks import UNET, VAE

from svdkit.arch.resnet import ResnetBlock, TemporalResnetBlock
from svdkit.backend import Backend
from svdkit.checkpoint import ARCHITECTURES
from svdkit.config import UNetConfig, from_dict
from svdkit.memory.meter import Meter
from svdkit.memory.planning import Job, Settings, metered, run
from svdkit.params import Params, expected_shapes
from svdkit.testing.random_checkpoint import random_tensor
from svdkit_numpy.backend import NumpyBackend


@pytest.fixture
def meter() -> Meter:
    return Meter(NumpyBackend(dtype="float32"))


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("kernel", "layer", "shapes", "flops"),
    [
        ("conv2d", lambda k: k.conv2d(zeros(8, 4, 3, 3), zeros(8)), [(2, 4, 6, 10)], 2 * 2 * 8 * 6 * 10 * 4 * 9),
        ("conv2d", lambda k: k.conv2d(zeros(8, 4, 3, 3), None, 2), [(2, 4, 6, 10)], 2 * 2 * 8 * 3 * 5 * 4 * 9),
        ("linear", lambda k: k.linear(zeros(8, 4), None), [(2, 7, 4)], 2 * 2 * 7 * 4 * 8),
        (
            "temporal_conv",
            lambda k: lambda x: k.temporal_conv(zeros(8, 4, 3, 1, 1), zeros(8))(x, 2),
            [(2, 4, 5, 5)],
            2 * 2 * 8 * 25 * 4 * 3,
        ),
        ("attention", lambda k: lambda *x: k.attention(*x, 2), [(3, 7, 8), (3, 5, 8), (3, 5, 8)], 4 * 3 * 7 * 5 * 8),
    ],
)
def test_operations_of_a_kernel(
    meter: Meter, kernel: str, layer: Callable[[Backend], Any], shapes: list[tuple[int, ...]], flops: int
) -> None:
    layer(meter)(*(meter.new(shape) for shape in shapes))
    assert meter.ledger.flops[kernel] == flops


def test_memory_counts_while_it_is_held(meter: Meter) -> None:
    x = meter.new((2, 4, 8, 8))
    assert meter.ledger.alive == x.nbytes == 2 * 4 * 8 * 8 * 4
    view = meter.tokens(x).reshape(-1, 4)[1:]
    assert view.shape == (127, 4)
    y = x + x * 2.0  # two results at the peak, one after it
    assert (meter.ledger.alive, meter.ledger.peak) == (2 * x.nbytes, 3 * x.nbytes)
    size = x.nbytes
    del x
    assert meter.ledger.alive == 2 * size, "a view still holds the memory"
    del view, y
    assert meter.ledger.alive == 0


def test_items_of_two_bytes(meter: Meter) -> None:
    class Half(NumpyBackend):
        dtypes = ("float16",)

    assert Meter(Half()).new((10,)).nbytes == 20
    assert Meter(Half()).cast(Meter(Half()).new((10,)), "float32").nbytes == 40


class _Random:
    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes, self.rng = shapes, np.random.default_rng(0)

    def keys(self) -> Any:
        return self.shapes.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self.shapes[key]

    def read(self, key: str) -> np.ndarray[Any, Any]:
        return random_tensor(self.rng, key, self.shapes[key]).astype(np.float32)


class Frugal(NumpyBackend):
    """Whose kernels, of which convolutions gather patches, hide nothing."""

    def scratch(self, call: Any) -> list[int]:
        return []


class Real(NumpyBackend):
    """Arrays where the planner makes shapes."""

    def new(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        return np.ones(shape, dtype or self.dtype)


@pytest.mark.parametrize(
    ("stage", "name", "config"), [("encode", "vae", VAE), ("denoise", "unet", UNET), ("decode", "vae", VAE)]
)
@pytest.mark.parametrize("chunk", [None, 1])
def test_a_stage_needs_in_numpy_what_the_meter_says(stage: str, name: str, config: Any, chunk: int | None) -> None:
    """`tracemalloc` sees every array of NumPy, so nothing else disturbs: 2 % at most, measured 1."""
    config = from_dict(ARCHITECTURES[name][0], config)
    settings, job = Settings(False, chunk, 2), Job(128, 192, 2)
    meter = Meter(NumpyBackend(dtype="float32"))
    network = metered(name, config, meter)
    before = meter.ledger.alive
    expected = run(stage, network, job, settings)
    planned = meter.ledger.peak - before

    architecture = ARCHITECTURES[name][1]
    shapes = expected_shapes(lambda p: architecture(config, p))
    real = architecture(config, Params(_Random(shapes), Real(dtype="float32")))
    tracemalloc.start()
    result = run(stage, real, job, settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.shape == expected.shape
    assert planned == pytest.approx(peak, rel=0.02)
    weights = sum(int(np.prod(s)) * 4 for key, s in shapes.items() if not key.endswith("mix_factor"))
    assert meter.ledger.weights == weights


@pytest.mark.parametrize("make", [ResnetBlock, TemporalResnetBlock])
def test_a_residual_block_holds_three_maps(make: Callable[..., Any]) -> None:
    """Its own, what is normalised or was, and a result: what a norm has read is let go before the next convolution."""
    arguments = (64, 64) if make is ResnetBlock else (64,)

    def architecture(p: Params) -> Any:
        return make(p, *arguments, eps=1e-5)

    k = Meter(Frugal(dtype="float32"))
    block = architecture(Params(_Random(expected_shapes(architecture)), k))
    x = k.new((4, 64, 8, 8))
    y = block(x) if make is ResnetBlock else block(x, 2)
    assert k.ledger.peak == 3 * x.nbytes
    assert k.ledger.alive == x.nbytes + y.nbytes


def test_chunks_need_less() -> None:
    def peak(chunk: int | None) -> int:
        k = Meter(Frugal(dtype="float32"))
        run("denoise", metered("unet", UNetConfig(**UNET_WITHOUT_CLASS), k), Job(64, 64, 8), Settings(False, chunk, 1))
        return k.ledger.peak

    assert peak(1) < peak(None)


UNET_WITHOUT_CLASS = {key: tuple(v) if isinstance(v, list) else v for key, v in UNET.items()}
