"""The compiled loops: numbers far out and of large means, every float that weights can be, and how work is shared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from svdkit.testing.inputs import relative_error

pytest.importorskip("numba")

from svdkit import winograd
from svdkit_loops import compiled, elementwise, scalar, threads
from svdkit_loops.stored import stored
from svdkit_loops.tile import WIDTH
from svdkit_loops.winograd import Frames, Maps
from svdkit_loops.winograd_loops import cut_size

ROUNDING = 3e-7
"""6e-8 measured."""
RNG = np.random.default_rng(0)


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


@pytest.mark.parametrize("function", ["exp2", "silu", "gelu"])
def test_what_is_no_number_stays_none(function: str) -> None:
    """So that a broken denoiser is found out, and not smoothed over."""
    of_one: Callable[[np.float32], float] = getattr(scalar, function)
    assert np.isnan(of_one(np.float32(np.nan)))


def test_exp2() -> None:
    x = np.concatenate([np.linspace(-126, 127.4, 100001), [-1e30, 1e30]]).astype(np.float32)
    y = np.array([scalar.exp2(v) for v in x])
    ratio = y[:-2] / np.exp2(x[:-2].astype(np.float64))
    assert np.abs(ratio - 1).max() < 7e-8
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


def test_an_interruption_leaves_what_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_processors", lambda: [0, 1])
    begun, go_on, results = SimpleQueue[int](), Event(), SimpleQueue[int]()

    def work(i: int, j: int) -> None:
        begun.put(i)
        go_on.wait(20)

    class Interrupted(SimpleQueue[Any]):
        def get(self, *args: Any) -> Any:
            begun.get(timeout=20)
            raise KeyboardInterrupt

    tasks = threads._tasks(2)
    with monkeypatch.context() as patch:
        patch.setattr(threads, "SimpleQueue", Interrupted)
        patch.setattr(threads, "_tasks", lambda count: tasks)
        with pytest.raises(KeyboardInterrupt):
            threads.share(work, 4, threads.PIECE)
    go_on.set()
    assert len(threads.share(lambda i, j: results.put(i), 4, threads.PIECE)) == 4
    assert begun.qsize() <= 1, "of four pieces the two that were begun"


TOGETHER = """
import threading
from svdkit_loops import threads
threads._processors = lambda: [0, 1]
threads.allowed_processors.cache_clear()
ready = threading.Barrier(8)
def ask():
    ready.wait()
    threads.share(lambda i, j: None, 8, threads.PIECE)
asking = [threading.Thread(target=ask) for _ in range(8)]
for thread in asking: thread.start()
for thread in asking: thread.join()
print(sum(thread.name.startswith("svdkit-") for thread in threading.enumerate()))
"""


def test_threads_that_ask_first_together_begin_one_pool() -> None:
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", TOGETHER], env=env, check=True, capture_output=True, text=True)
    assert int(done.stdout) == 2


def test_where_threads_are_kept_to_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where processes take a part each: all of them would crowd on the first few. Nor where it is forbidden."""
    kept = list[tuple[int, set[int]]]()
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, to: kept.append((thread, to)), raising=False)
    monkeypatch.setattr(threads, "_processors", lambda: [4, 5, 6, 7])
    for allowed, expected in (([4, 5], []), ([4, 5, 6, 7], [(0, {6})])):
        monkeypatch.setattr(threads, "allowed_processors", lambda allowed=allowed: allowed)
        threads.keep_to(0, 6)
        assert kept == expected

    def refuse(thread: int, to: set[int]) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    threads.keep_to(0, 6)


X, ROW = np.ones((2, 3, 64), np.float32), np.ones(64, np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: elementwise.add_rows(X, X[:, 0, :32], np.empty_like(X)),
        lambda: elementwise.concat(X[0], X[1, :2], np.empty((3, 128), np.float32)),
        lambda: elementwise.mix(X, X[:1], 0.5, np.empty_like(X)),
        lambda: elementwise.gelu(X, np.empty_like(X[0])),
        lambda: elementwise.layer_norm(X[0], ROW[:8], ROW[:8], 1e-5, np.empty_like(X[0])),
        lambda: elementwise.group_norm(X, ROW[:32], ROW[:32], 32, 1e-5, False, np.empty_like(X)),
        lambda: elementwise.group_norm(X, ROW, ROW, 30, 1e-5, False, np.empty_like(X)),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], None]) -> None:
    with pytest.raises(ValueError, match="do not fit each other"):
        call()


@pytest.mark.parametrize("frames", [1, 2, 3, 6, 15])
def test_group_norms_of_maps_whose_corners_stand_out(frames: int) -> None:
    x = RNG.standard_normal((1, frames, 16, 16, 64)).astype(np.float32)
    x[:, :, 0, 0] += 500
    x = x.reshape(1, -1, 64)
    y = np.empty_like(x)
    elementwise.group_norm(x, ROW, 0 * ROW, 32, 1e-5, False, y)
    groups = x.astype(np.float64).reshape(-1, 32, 2)
    expected = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-5)
    assert relative_error(y, expected.reshape(x.shape)) < 3e-7


def test_one_processor_needs_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "allowed_processors", lambda: [0])
    assert threads.share(lambda i, j: (i, j), 8, threads.PIECE) == [(0, 8)]


def test_what_is_compiled_is_kept(tmp_path: Path) -> None:
    """A second process compiles nothing, it loads what the first one left; unless any file of the package changed."""
    code = """
import logging, sys
import numpy as np
from svdkit_loops import elementwise
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(name)s:%(message).9s")
x = np.ones((2, 3), np.float32)
elementwise.gelu(x, np.empty_like(x))
stats = elementwise._gelu_of_each.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
    package = shutil.copytree(Path(compiled.__file__).parent, tmp_path / "svdkit_loops")
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": str(tmp_path)}

    def hits_and_misses() -> list[str]:
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert [hits_and_misses() for _ in range(2)] == [["svdkit.loops:Compiling", "0", "1"], ["1", "0"]]
    with (package / "scalar.py").open("a") as file:
        file.write("# changed")
    assert [hits_and_misses() for _ in range(2)] == [["svdkit.loops:Compiling", "0", "1"], ["1", "0"]]


ALL_LOOPS = """
import logging, sys
import numpy as np
from svdkit_loops import attention, elementwise, numbers, patches, product, winograd
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")

def some(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)

for dtype in (np.float32, np.int16)[: 1 + numbers.HAS_PAIRS]:
    for rows in (5, 300):  # few, and as many as Strassen's algorithm takes
        x, weight, y = some(rows, 64, dtype=dtype), some(64, 64, dtype=dtype), some(rows, 64, dtype=dtype)
        product.multiply(x, weight, None, y, y)
        product.multiply_gated(x, weight, some(64), weight, some(64), y)
    x = some(2, 4, 64, dtype=dtype)
    attention.attend(x, x, x, 2, x)
    elementwise.group_norm(x, some(64), some(64), 4, 1e-5, True, x)
x = some(2, 4, 64)
attention.attend_in_time(x, x, x, 2, 2, x)
elementwise.add_rows(x, some(2, 64), x)
elementwise.concat(x[0], x[1], some(4, 128))
elementwise.mix(x, x, 0.5, x)
elementwise.gelu(x, x)
elementwise.layer_norm(x[0], some(64), some(64), 1e-5, x[1])
taps = some(64, 64, 3, 3)
winograd.convolve(winograd.Frames.of(x.shape, 2), x, some(64, 64, 3, 1, 1), some(64), x)
for size in (2, 8):
    x = some(1, size, size, 64)
    winograd.convolve(winograd.Maps.of(x.shape), x, taps, some(64), x, x)
    winograd.convolve_doubled(x, taps, some(64), some(1, 2 * size, 2 * size, 64))
patches.convolve_patches(x, taps, some(64), 2, (1, 1), some(1, 4, 4, 64))
print("done")
"""


def test_no_loop_is_compiled_anew_in_each_process() -> None:
    """One that held another loop would be: Numba keeps loops by what they hold, and each process makes its own."""
    said = [
        subprocess.run([sys.executable, "-c", ALL_LOOPS], capture_output=True, text=True, check=True).stdout.split("\n")
        for _ in range(3)  # other tests, which keep loops at the same time, may have one forgotten
    ]
    assert [words[-2] for words in said] == ["done"] * 3
    assert said[-1] == ["done", ""]


def test_functions_of_no_module_are_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of whoever uses Numba beside svdkit: classes that it compiles have one."""
    monkeypatch.setattr(compiled._Tells, "told", False)
    made: dict[str, Any] = {}
    exec("def double(x): return 2 * x", {}, made)
    made["double"].__module__ = None
    assert compiled.numba.njit(made["double"])(2) == 4


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = compiled.numba.njit  # numba itself, which compiles as it imports, keeps its own

    def without_a_folder(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(compiled, "numba", SimpleNamespace(njit=without_a_folder))
    assert compiled.compiled(lambda x: x + 1)(2) == 3
