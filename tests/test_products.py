"""Products and attention by compiled loops, against float64: every height of a tile, edges, and other processors."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from svdkit.backend import Host
from svdkit.testing.inputs import relative_error

pytest.importorskip("numba")

from numba.core.errors import TypingError

from svdkit_loops import attention, parts, product
from svdkit_loops.attention import attend, attend_in_time
from svdkit_loops.compiled import compiled
from svdkit_loops.numbers import FEATURES
from svdkit_loops.product import multiply, multiply_gated
from svdkit_loops.stored import Stored, pack_columns, stored, stored_size
from svdkit_loops.tile import HEIGHT, WIDTH

ROUNDING = 5e-7
"""1e-7 to 3e-7 measured."""
RNG = np.random.default_rng(0)


def drawn(*shape: int) -> Host:
    return RNG.standard_normal(shape).astype(np.float32)


def exact(*arrays: Host) -> list[Host]:
    return [x.astype(np.float64) for x in arrays]


@pytest.mark.parametrize("rows", [*range(1, 2 * HEIGHT + 1), parts.CHUNK, parts.CHUNK + 1, 3 * parts.CHUNK + 5])
def test_any_number_of_rows(rows: int) -> None:
    x, weight, bias = drawn(rows, 70), drawn(WIDTH + 3, 70), drawn(WIDTH + 3)
    y = np.full((rows + 2, WIDTH + 3), 7, np.float32)
    multiply(x, stored(weight), bias, y[1:-1])
    a, b, c = exact(x, weight, bias)
    assert relative_error(y[1:-1], a @ b.T + c) < ROUNDING
    assert (y[[0, -1]] == 7).all(), "nothing was written outside"


@pytest.mark.parametrize("size", [1, 5, 16, 33, 320, parts.DEPTH + 1, 2 * parts.DEPTH + 7])
@pytest.mark.parametrize("out", [1, WIDTH - 1, WIDTH, 3 * WIDTH])
def test_any_size(size: int, out: int) -> None:
    x, weight, plus = drawn(50, size), drawn(out, size), drawn(50, out)
    y, more = np.empty((2, 50, out), np.float32)
    multiply(x, stored(weight), None, y)
    multiply(x, stored(weight), None, more, plus)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    rounding = ROUNDING * max(1, size / 320) ** 0.5  # more numbers are added up one after another
    assert relative_error(y, expected) < rounding
    assert relative_error(more, expected + plus) < rounding


def test_nothing_to_do_and_nothing_to_do_it_with() -> None:
    empty, weight = np.empty((0, 5), np.float32), np.empty((3, 5), np.float32)
    multiply(empty, weight, None, np.empty((0, 3), np.float32))
    multiply(weight, empty, None, np.empty((3, 0), np.float32))
    attend(*(np.empty((0, 4, 6), np.float32),) * 3, 2, np.empty((0, 4, 6), np.float32))
    with pytest.raises(ValueError, match="0 inputs"):
        multiply(weight[:, :0], weight[:, :0], None, np.empty((3, 3), np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        attend(drawn(1, 4, 6), drawn(1, 0, 6), drawn(1, 0, 6), 2, np.empty((1, 4, 6), np.float32))


def one_by_one(done: list[int], module: Any, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a module share its work out to so many processors, which take the pieces one by one."""

    def share(work: Any, count: int, size: int) -> None:
        done.append(count)
        for i in range(count):
            work(i, i + 1)

    for asks in (module, parts):
        monkeypatch.setattr(asks, "allowed_processors", lambda: list(range(processors)))
    monkeypatch.setattr(module, "share", share)


@pytest.mark.parametrize("processors", [1, 2, 16])
@pytest.mark.parametrize(("rows", "out"), [(3, 10), (40, 200), (2000, 40), (700, 700)])
def test_however_many_processors(processors: int, rows: int, out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, value, gate, b, c = drawn(rows, 20), drawn(out, 20) / 4, drawn(out, 20) / 4, drawn(out), drawn(out)
    done = list[int]()
    one_by_one(done, product, processors, monkeypatch)
    y = np.empty((rows, out), np.float32)
    multiply_gated(x, value, b, gate, c, y)
    assert done[0] >= min(processors, parts.panels(out)), "a part for each thread, if there are as many panels"
    x, value, gate, b, c = exact(x, value, gate, b, c)
    g = x @ gate.T + c
    expected = (x @ value.T + b) * g * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(g)
    assert relative_error(y, expected) < 2 * ROUNDING


DTYPES = np.float16, ml_dtypes.bfloat16, np.float32, np.float64


@compiled
def laid_out(weight: Stored, first: int, count: int, start: int, length: int, out: Host) -> None:
    pack_columns(weight, first * weight.shape[1] + start, weight.shape[1], count, length, out, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 7, 16, 40])
@pytest.mark.parametrize("count", [1, WIDTH - 1, WIDTH])
def test_columns_of_any_size_and_dtype(dtype: type, length: int, count: int) -> None:
    weight = RNG.standard_normal((WIDTH + 5, 43)).astype(dtype)
    for given in (weight, np.asfortranarray(weight)):
        out = np.full(length * WIDTH + 6, 7, np.float32)
        laid_out(stored(given), 4, count, 2, length, out)
        columns = out[3:-3].reshape(length, WIDTH)[:, :count]
        np.testing.assert_array_equal(columns, weight[4 : 4 + count, 2 : 2 + length].T.astype(np.float32))
        assert (out[[0, 1, 2, -3, -2, -1]] == 7).all(), "nothing was written outside"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_half_is_laid_out_exactly(dtype: type) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(dtype).reshape(WIDTH, -1)
    for length in (every.shape[1], every.shape[1] - 1):  # by vectors, and the last ones one by one
        out = np.empty(length * WIDTH + 3, np.float32)
        laid_out(stored(every), 0, WIDTH, 0, length, out)
        np.testing.assert_array_equal(out[3:].reshape(-1, WIDTH), every[:, :length].T.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_stay_where_they_are(dtype: type) -> None:
    weight = drawn(9, 5).astype(dtype)
    kept = stored(weight)
    assert np.shares_memory(kept, weight) == (dtype is not np.float64)
    assert kept.nbytes == stored_size(weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_with_weights_of_any_dtype(dtype: type) -> None:
    x, value, gate, b, c = drawn(50, 40), drawn(70, 40).astype(dtype), drawn(70, 40).astype(dtype), drawn(70), drawn(70)
    y, z = np.empty((2, 50, 70), np.float32)
    for weights, out in ((value, gate), y), ((value.astype(np.float32), gate.astype(np.float32)), z):
        multiply_gated(x, stored(weights[0]), b, stored(weights[1]), c, out)
    np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize(
    ("rows", "columns", "processors", "expected"),
    [
        (8192, 320, 2, (2, 1)),  # rows are parted: few columns are laid out twice
        (512, 5120, 2, (1, 2)),
        (2048, 640, 4, (4, 1)),
        (3, 20, 8, (1, 1)),
        (HEIGHT + 1, 20, 8, (2, 1)),
    ],
)
def test_what_is_parted(
    rows: int, columns: int, processors: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "allowed_processors", lambda: list(range(processors)))
    assert parts.cells(rows, columns) == expected


def test_what_is_no_number_stays_where_it_is() -> None:
    x, y = drawn(20, 16), np.empty((20, 40), np.float32)
    x[3, 5], x[7, 2] = np.nan, np.inf
    multiply(x, drawn(40, 16), None, y)
    assert np.isnan(y[3]).all()
    assert np.isinf(y[7]).all()
    assert np.isfinite(np.delete(y, [3, 7], 0)).all()


def test_what_does_not_fit_is_not_multiplied() -> None:
    """Loops would read and write beyond arrays."""
    x, weight, bias, y = drawn(20, 16), drawn(40, 16), drawn(40), np.zeros((20, 40), np.float32)
    for args in (
        (x[:, :15].copy(), weight, bias, y),
        (x, weight, bias, y[:19]),
        (x, weight[:39], bias, y),
        (x, weight, bias[:39], y),
        (x, weight, bias, np.zeros((20, 41), np.float32)),
    ):
        with pytest.raises(ValueError, match="does not go into"):
            multiply(*args)
        with pytest.raises(ValueError, match="does not go into"):
            multiply_gated(args[0], args[1], args[2], weight, bias, args[3])
    for args in (
        (np.asfortranarray(x), weight, bias, y),
        (x, weight[:, ::-1], bias, y),
        (x, weight.view(np.int32), bias, y),
    ):
        with pytest.raises(TypingError, match="pack_"):
            multiply(*args)  # Numba knows no such product
    assert not y.any()


def attend_either(q: Host, k: Host, v: Host, heads: int, frames: int) -> Host:
    y = np.empty_like(q)
    if frames > 1:
        attend_in_time(q, k, v, heads, frames, y)
    else:
        attend(q, k, v, heads, y)
    return y


@pytest.mark.parametrize(("queries", "keys", "values", "frames"), [(4, 5, 6, 1), (4, 5, 5, 2), (4, 4, 4, 4)])
def test_what_does_not_fit_is_not_attended_to(queries: int, keys: int, values: int, frames: int) -> None:
    q, k, v = (drawn(6, length, 8) for length in (queries, keys, values))
    with pytest.raises(ValueError, match="do not fit"):
        attend_either(q, k, v, 2, frames)
    with pytest.raises(ValueError, match="do not fit"):
        attend_either(q, q, q, 3, frames)


def attended(q: Host, k: Host, v: Host, heads: int, frames: int) -> Host:
    """By the definition, in float64."""
    count, length, channels = q.shape
    if frames > 1:
        videos = (x.reshape(-1, frames, length, channels).transpose(0, 2, 1, 3) for x in (q, k, v))
        q, k, v = (x.reshape(-1, frames, channels) for x in videos)
    a, b, c = (x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3) for x in exact(q, k, v))
    scores = a @ b.transpose(0, 1, 3, 2) / np.sqrt(channels // heads)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = (weights / weights.sum(-1, keepdims=True) @ c).transpose(0, 2, 1, 3).reshape(q.shape)
    if frames > 1:
        y = y.reshape(-1, length, frames, channels).transpose(0, 2, 1, 3)
    return np.asarray(y.reshape(count, length, channels))


IN_SPACE = (1, 1, 1, 8), (37, 50, 3, 8), (64, 64, 2, 64), (WIDTH, 1, 1, 5), (300, 257, 2, 80), (2, 9, 1, 128)
IN_TIME = (7, 7, 3, 8, 3), (33, 33, 1, 64, 6), (1, 1, 2, 16, 2), (2, 2, 1, 8, 6)


@pytest.mark.parametrize(("queries", "keys", "heads", "size", "frames"), [*((*x, 1) for x in IN_SPACE), *IN_TIME])
@pytest.mark.parametrize("spread", [1, 30])
def test_attention(queries: int, keys: int, heads: int, size: int, frames: int, spread: float) -> None:
    """Scores up to hundreds, whose exponentials float32 does not have."""
    q, k, v = (drawn(6, length, heads * size) for length in (queries, keys, keys))
    q *= spread
    y = attend_either(q, k, v, heads, frames)
    # Large scores are rounded by as much as they are larger.
    assert relative_error(y, attended(q, k, v, heads, frames)) < ROUNDING * (1 if spread == 1 else 10)


@pytest.mark.parametrize(("processors", "pieces"), [(1, 2), (16, 12)])
def test_attention_is_shared_out(processors: int, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[int]()
    one_by_one(done, attention, processors, monkeypatch)
    q, k, v = (drawn(1, 5 * WIDTH + 1, 32) for _ in range(3))
    y = np.empty_like(q)
    attend(q, k, v, 2, y)
    assert relative_error(y, attended(q, k, v, 2, 1)) < ROUNDING
    assert done == [pieces], "queries are parted where there are fewer heads than threads"


NARROWER = """
import platform, sys
machine = platform.machine
if sys.argv[3]:
    platform.machine = lambda: sys.argv[3]
import pytest
from svdkit_loops import numbers, tile
platform.machine = machine
assert (tile.LANES, tile.HEIGHT) == (int(sys.argv[1]), int(sys.argv[2]))
assert numbers.HAS_HALVES == (numbers.FEATURES.get("f16c", False) or bool(sys.argv[3]))
TESTS = "(rows or size or attention or numbers or half) and not graphs"
sys.exit(pytest.main(["-p", "no:cacheprovider", "-k", TESTS, *FILES]))
"""


@pytest.mark.parametrize(
    ("lanes", "height", "machine", "without"),
    [(8, 6, "", ("avx512",)), (4, 6, "", ("avx512", "avx2", "f16c")), (4, 14, "aarch64", ("avx512", "avx2"))],
)
def test_processors_of_shorter_vectors(
    lanes: int, height: int, machine: str, without: tuple[str, ...], tmp_path: Path
) -> None:
    """The same tests, with tiles as such a processor has them, and what Numba is told to compile for."""
    if os.environ.get("SVDKIT_NARROWER"):
        pytest.skip("in there")
    files = [__file__, *(str(Path(__file__).with_name(name)) for name in ("test_strassen.py", "test_winograd.py"))]
    code = NARROWER.replace("FILES", repr(files))
    has = {name: there and not name.startswith(without) for name, there in FEATURES.items()}
    features = ",".join(f"{'+' if there else '-'}{name}" for name, there in has.items())
    quick = {"NUMBA_OPT": "1"}  # of LLVM's levels: a sixth of the time is saved, and what is asked of it is the same
    result = subprocess.run(
        [sys.executable, "-c", code, str(lanes), str(height), machine],
        env=os.environ
        | {"NUMBA_CACHE_DIR": str(tmp_path), "SVDKIT_NARROWER": "1"}
        | {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": features}
        | quick,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
