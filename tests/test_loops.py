"""The compiled loops: numbers far out and of large means, every float that weights can be, and how work is shared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from reference import relative_error

pytest.importorskip("numba")

from svdkit import winograd
from svdkit_loops import compiled, elementwise, scalar, threads
from svdkit_loops.stored import stored
from svdkit_loops.tile import WIDTH
from svdkit_loops.winograd import Frames, Maps
from svdkit_loops.winograd_loops import cut_size

ROUNDING = 3e-7
"""6e-8 measured."""


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("channels", [7, 40])
def test_weights_are_transformed(m: int, dtype: type, channels: int) -> None:
    weight = np.random.default_rng(0).standard_normal((WIDTH + 5, channels, 3, 3)).astype(dtype)
    _, g, _ = winograd.matrices(m)
    in_space = np.einsum("ka,oiab,lb->klio", g, weight.astype(np.float64), g).reshape(-1, channels, WIDTH + 5)
    in_time = np.einsum("ka,oia->kio", g, weight[..., 0].astype(np.float64))
    for tiling, given, expected in (
        (Maps((1, 1, 1, channels), m), weight.reshape(-1, channels, 9), in_space),
        (Frames((1, 1, channels), 1, m), np.ascontiguousarray(weight[..., 0]), in_time),
    ):
        size = 2 * channels * WIDTH
        out = np.full((tiling.taps, size + 3), 7, np.float32)
        tiles = np.zeros(cut_size(tiling.taps, 1, channels), np.float32)
        products = np.empty((tiling.taps, 3 * WIDTH), np.float32)
        tiling.multiply(tiles, 1, stored(given), 0, 2, out, channels, 1, False, products)
        assert (out[:, size:] == 7).all(), "nothing was written outside"
        columns = out[:, :size].reshape(tiling.taps, 2, channels, WIDTH).transpose(0, 2, 1, 3)
        assert relative_error(columns.reshape(tiling.taps, channels, -1)[..., : WIDTH + 5], expected) < ROUNDING


@pytest.mark.parametrize("mean", [0, 30, -3000])
@pytest.mark.parametrize("first", [0, 50])
def test_a_norm_of_a_large_mean_keeps_its_digits(mean: float, first: float) -> None:
    """And one whose first row, from which sums are taken, is far from all others."""
    x = (np.random.default_rng(0).standard_normal((2, 4096, 32)) + mean).astype(np.float32)
    x[:, 0] += first
    groups = x.astype(np.float64).reshape(2, 4096, 4, 8)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)).reshape(x.shape)
    y = np.empty_like(x)
    elementwise.group_norm(x, np.ones(32, np.float32), np.zeros(32, np.float32), 4, 1e-5, False, y)
    assert relative_error(y, expected) < ROUNDING


@pytest.mark.parametrize("function", ["exp", "silu", "gelu"])
def test_what_is_no_number_stays_none(function: str) -> None:
    """So that a broken denoiser is found out, and not smoothed over."""
    of_one: Callable[[np.float32], float] = getattr(scalar, function)
    assert np.isnan(of_one(np.float32(np.nan)))


def test_exp() -> None:
    x = np.concatenate([np.linspace(-87, 88, 100001), [-1e30, 1e30]]).astype(np.float32)
    y = np.array([scalar.exp(v) for v in x])
    assert relative_error(y[:-2] / np.exp(x[:-2].astype(np.float64)), np.ones(100001)) < ROUNDING
    assert y[-2] < 1e-37
    assert y[-1] == np.inf


def test_work_is_shared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_processors", lambda: [0, 1, 2])
    monkeypatch.setattr(threads, "keep_to", lambda thread, processor: None)
    for count in (0, 1, 2, 7, 1000):
        for size in (1, threads.PIECE):
            pieces = threads.share(lambda i, j: list(range(i, j)), count, size)
            assert [k for piece in pieces for k in piece] == list(range(count))
    assert len(threads.share(lambda i, j: None, 5, threads.PIECE)) == 5
    assert len(threads.share(lambda i, j: None, 1000, threads.PIECE)) == 3 * threads.PIECES


def test_an_error_in_a_piece_is_raised() -> None:
    def fail(i: int, j: int) -> None:
        raise ValueError(f"piece from {i}")

    with pytest.raises(ValueError, match="piece from 0"):
        threads.share(fail, 8, threads.PIECE)


FORKED = """
import os, signal
from svdkit_loops import threads
processor = threads.allowed_processors()[0]
threads.allowed_processors = lambda: [processor, processor]
whole = threads.share(lambda i, j: (i, j), 8, threads.PIECE)
child = os.fork()
if child == 0:
    signal.alarm(20)  # it would wait for ever for threads that it has not
    os._exit(threads.share(lambda i, j: (i, j), 8, threads.PIECE) != whole)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no forks")
def test_a_forked_process_has_threads_of_its_own() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True)


def test_one_processor_needs_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_processors", lambda: [0])
    assert threads.share(lambda i, j: (i, j), 8, threads.PIECE) == [(0, 8)]


def test_what_is_compiled_is_kept(tmp_path: Path) -> None:
    """A second process compiles nothing: it loads what the first one left."""
    code = """
import numpy as np
from svdkit_loops import elementwise
x = np.ones((2, 3), np.float32)
elementwise.gelu(x, np.empty_like(x))
stats = elementwise._gelu_of_each.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
    env = {"NUMBA_CACHE_DIR": str(tmp_path)}
    run = [sys.executable, "-c", code]
    seen = [subprocess.run(run, env=os.environ | env, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [process.stdout.split() for process in seen] == [["0", "1"], ["1", "0"]]


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compiled.numba.njit

    def without_a_folder(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(compiled.numba, "njit", without_a_folder)
    assert compiled.compiled(lambda x: x + 1)(2) == 3
