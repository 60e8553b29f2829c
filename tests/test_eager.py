"""What compiled loops do in MindSpore's memory: their numbers, their threads, and what they leave alone."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from svdkit.backend import Host
from svdkit.testing.inputs import relative_error

ms = pytest.importorskip("mindspore")

from svdkit_loops import patches, threads  # noqa: E402
from svdkit_mindspore import eager, traced  # noqa: E402
from svdkit_mindspore.backend import create  # noqa: E402
from svdkit_mindspore.weight import Weight  # noqa: E402

ROUNDING = 6e-7
"""5e-8 to 1e-7 measured, in either way, and 3.1e-7 where 180 products are added to what is larger than they."""
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 50, 64)) * 2 + 5  # of a mean that is larger than the spread
SCALE, SHIFT, ROWS = RNG.standard_normal(64), RNG.standard_normal(64), RNG.standard_normal((3, 64))
VALUE, GATE = (RNG.standard_normal((50, 64)).astype(np.float16) / np.float16(8) for _ in range(2))
BOTH, B, C = np.concatenate([VALUE, GATE]), RNG.standard_normal(50), RNG.standard_normal(50)
X0, Y0, Z = X[0] - 5, RNG.standard_normal((50, 50)), (X - 5) / 3


def gelu(x: Host) -> Host:
    return x * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(x)


def normalised(x: Host, axes: tuple[int, ...]) -> Host:
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5))


def group_norm(x: Host) -> Host:
    y = normalised(x.reshape(3, 50, 8, 8), (1, 3)).reshape(x.shape) * SCALE + SHIFT
    return np.asarray(y / (1 + np.exp(-y)))


def conv2d(x: Host, weight: Host, stride: int, before: int, after: int) -> Host:
    """Of `(N, H, W, C)`, by summing over taps."""
    kernel = weight.shape[2]
    padded = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    height, width = ((size - kernel) // stride + 1 for size in padded.shape[1:3])
    rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
    return np.asarray(
        sum(
            padded[:, j : j + rows : stride, i : i + columns : stride] @ weight[:, :, j, i].T.astype(np.float64)
            for j in range(kernel)
            for i in range(kernel)
        )
    )


def attended(frames: int) -> Host:
    """Of queries Z, keys Z from the last on, and values X, in four heads."""

    def split(x: Host) -> Host:
        n, length, channels = x.shape
        x = x.reshape(n, length, 4, channels // 4)
        return x.transpose(1, 2, 0, 3) if frames > 1 else x.transpose(0, 2, 1, 3)

    q, k, v = split(Z), split(Z[::-1]), split(X)
    scores = np.exp(q @ k.swapaxes(2, 3) * q.shape[3] ** -0.5)
    y = scores / scores.sum(-1, keepdims=True) @ v
    return (y.transpose(2, 0, 1, 3) if frames > 1 else y.transpose(0, 2, 1, 3)).reshape(X.shape)


MAPS, TAPS = RNG.standard_normal((4, 6, 8, 20)), (RNG.standard_normal((50, 20, 3, 3)) / 14).astype(np.float16)
BETWEEN, OVER_TIME = RNG.standard_normal((4, 6, 8, 50)), TAPS[..., :1]
HALVED, LARGE = conv2d(MAPS, TAPS, 2, 0, 1) + B, RNG.standard_normal((50, 20, 5, 5)).astype(np.float16) / np.float16(20)

CASES: dict[str, tuple[Callable[..., Any], tuple[Host, ...], Host]] = {
    "add_rows": (lambda k, x, r: k.add_rows(x, r), (X, ROWS), X + ROWS[:, None]),
    "concat_channels": (lambda k, a, b: k.concat_channels(a, b), (MAPS, BETWEEN), np.concatenate([MAPS, BETWEEN], -1)),
    "conv2d, stride 2": (lambda k, x: k.conv2d(x, Weight(TAPS), Weight(B), 2, (0, 1)), (MAPS,), HALVED),
    "conv2d, stride 2, plus": (
        lambda k, x, y: k.conv2d(x, Weight(TAPS), Weight(B), 2, (0, 1), y),
        (MAPS, HALVED[::-1]),
        HALVED + HALVED[::-1],
    ),
    "conv2d, 5 x 5": (
        lambda k, x: k.conv2d(x, Weight(LARGE), Weight(B), 1, (3, 1)),
        (MAPS,),
        conv2d(MAPS, LARGE, 1, 3, 1) + B,
    ),
    "temporal_conv": (
        lambda k, x, y: k.temporal_conv(x, 2, Weight(OVER_TIME[..., None]), Weight(B), y),
        (MAPS, BETWEEN),
        # Frames by positions as maps, with what the other two columns of taps would see set to zero.
        conv2d(MAPS.reshape(2, 2, 48, 20), np.pad(OVER_TIME, ((0, 0), (0, 0), (0, 0), (1, 1))), 1, 1, 1).reshape(
            BETWEEN.shape
        )
        + B
        + BETWEEN,
    ),
    "gelu": (lambda k, x: k.gelu(x), (X0,), gelu(X0)),
    "linear": (lambda k, x: k.linear(x, Weight(VALUE), Weight(B)), (X0,), X0 @ VALUE.T + B),
    "linear, no bias": (lambda k, x: k.linear(x, Weight(VALUE), None), (X0,), X0 @ VALUE.T),
    "linear, plus": (lambda k, x, y: k.linear(x, Weight(VALUE), Weight(B), y), (X0, Y0), X0 @ VALUE.T + B + Y0),
    "geglu": (
        lambda k, x: k.geglu(x, Weight(BOTH), Weight(np.concatenate([B, C]))),
        (X0,),
        (X0 @ VALUE.T + B) * gelu(X0 @ GATE.T + C),
    ),
    "group_norm": (lambda k, x: k.group_norm(x, 3, Weight(SCALE), Weight(SHIFT), 8, 1e-5, True), (X,), group_norm(X)),
    "attention": (lambda k, q, x, v: k.attention(q, x, v, 4, 1), (Z, Z[::-1], X), attended(1)),
    "attention over time": (lambda k, q, x, v: k.attention(q, x, v, 4, 3), (Z, Z[::-1], X), attended(3)),
    "mix": (lambda k, a, b: k.mix(a, b, 0.3), (X, X[::-1]), 0.3 * X + 0.7 * X[::-1]),
    "layer_norm": (
        lambda k, x: k.layer_norm(x, Weight(SCALE), Weight(SHIFT), 1e-5),
        (X[0],),
        normalised(X[0], (1,)) * SCALE + SHIFT,
    ),
}


@pytest.mark.parametrize("module", [eager, traced])
@pytest.mark.parametrize("piece", [1, 2**18])
@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str, piece: int, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PIECE", piece)
    monkeypatch.setattr(patches, "PATCHES", 7 * 180 * piece)  # seven results at a time, or all
    monkeypatch.setattr(traced, "PATCH_ELEMENTS", 7 * 4 * 180 * piece)
    monkeypatch.setattr(traced, "SCORE_ELEMENTS", 7 * 3 * 4 * X.shape[1] * piece)  # seven queries, or all
    function, args, expected = CASES[name]
    k = create("cpu", "float32")
    assert relative_error(function(module, *(k.array(x) for x in args)).asnumpy(), expected) < ROUNDING


def test_gelu_far_out() -> None:
    x = np.array([[-np.inf, -3e38, -1e10, -20, -6, 0, 6, 20, 1e10, 3e38, np.inf, np.nan]], np.float32)
    y = eager.gelu(create("cpu", "float32").array(x)).asnumpy()[0]
    assert np.isnan(y[0]), "0 times infinity, as in torch"
    assert abs(y[1:5]).max() < 1e-8
    np.testing.assert_array_equal(y[5:6], 0)
    np.testing.assert_allclose(y[6:11], x[0, 6:11], rtol=1e-7)
    assert np.isnan(y[11])


def test_arguments_are_left_alone() -> None:
    k = create("cpu", "float32")
    for name in CASES:
        function, args, _ = CASES[name]
        tensors = [k.array(x) for x in args]
        function(eager, *tensors)
        for tensor, x in zip(tensors, args, strict=True):
            np.testing.assert_array_equal(tensor.asnumpy(), x.astype(np.float32))


WORKERS = """
import os, threading
from pathlib import Path
from svdkit_mindspore.backend import create
import numpy as np
k = create("cpu", "float32")
before = os.sched_getaffinity(0)
layer = k.linear(np.ones((64, 64), np.float32), np.ones(64, np.float32))
k.numpy(layer(k.array(np.ones((9000, 64)))))
names = {int(t.name): (t / "comm").read_text().strip() for t in Path("/proc/self/task").glob("*")}
computing = [t for t, name in names.items() if name.startswith(("ActorThread_", "KernelThread_"))]
print([sorted(os.sched_getaffinity(t)) for t in computing])
ours = [t.native_id for t in threading.enumerate() if t.name.startswith("svdkit")]
print([sorted(os.sched_getaffinity(t)) for t in ours])
assert os.sched_getaffinity(0) == before, "the thread that asks, and what it starts, may run anywhere"
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinities")
def test_threads_that_compute_keep_to_a_processor_each() -> None:
    processors = sorted(os.sched_getaffinity(0))[:2]
    if len(processors) < 2:
        pytest.skip("one processor")

    def run(environment: dict[str, str]) -> list[list[list[int]]]:
        code = f"import os; os.sched_setaffinity(0, {processors})\n{WORKERS}"
        result = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
        )
        return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]

    workers, ours = run({"OMP_NUM_THREADS": "2"})
    assert sorted(workers) == [[p] for p in processors]
    assert ours
    assert sorted(ours) == [[p] for p in processors][: len(ours)]  # a pool begins its threads as they are needed
    _, ours = run({"OMP_NUM_THREADS": "1"})
    assert ours == []
