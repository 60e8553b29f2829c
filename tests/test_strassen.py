"""Products by Strassen's algorithm: of whole numbers, which float32 adds up exactly, and against direct ones."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from svdkit.backend import Host
from svdkit.testing.inputs import relative_error

pytest.importorskip("numba")

from svdkit_loops import parts, product, strassen
from svdkit_loops.product import multiply, multiply_gated
from svdkit_loops.stored import stored
from svdkit_loops.tile import HEIGHT, LANES, WIDTH

RNG = np.random.default_rng(0)
FEWEST = 8 * HEIGHT
HALVES = 2 * LANES
"""Of inputs: the fewest that both halves have in whole vectors."""


def whole(*shape: int) -> Host:
    return RNG.integers(-3, 4, shape).astype(np.float32)


def drawn(*shape: int) -> Host:
    return RNG.standard_normal(shape).astype(np.float32)


def parted(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    """Have products parted for so many processors, whose parts are done one by one."""
    monkeypatch.setattr(parts, "allowed_processors", lambda: list(range(processors)))
    monkeypatch.setattr(product, "share", lambda work, count, _: [work(i, i + 1) for i in range(count)])


def directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strassen, "pays", lambda *_: False)


@pytest.mark.parametrize("rows", [*range(FEWEST, FEWEST + 2 * HEIGHT + 1), parts.CHUNK + 1, 2 * parts.CHUNK + 7])
@pytest.mark.parametrize("processors", [1, 2, 7])
def test_any_number_of_rows(rows: int, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parted(monkeypatch, processors)
    # What follows the last row is no number: it may not be read as if it were the second of a pair.
    x, y = np.full((rows + 2, HALVES), np.nan, np.float32), np.full((rows + 2, 4 * WIDTH), 7, np.float32)
    x[:rows] = whole(rows, HALVES)
    weight, bias = whole(4 * WIDTH, HALVES), whole(4 * WIDTH)
    assert strassen.pays(rows, HALVES, 4 * WIDTH, gated=False)
    multiply(x[:rows], weight, bias, y[1:-1])
    np.testing.assert_array_equal(y[1:-1], x[:rows] @ weight.T + bias)
    assert (y[[0, -1]] == 7).all(), "nothing was written outside"


@pytest.mark.parametrize("size", [HALVES, parts.DEPTH, parts.DEPTH + HALVES, 2 * parts.DEPTH + 3 * HALVES])
@pytest.mark.parametrize("columns", [2 * WIDTH, 10 * WIDTH, 40 * WIDTH])
@pytest.mark.parametrize("processors", [1, 2, 16])
def test_any_size(size: int, columns: int, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels that are laid out at once, and pair by pair; sums that are kept until all inputs are multiplied."""
    parted(monkeypatch, processors)
    x, weight, bias, plus = whole(FEWEST + 3, size), whole(columns, size), whole(columns), whole(FEWEST + 3, columns)
    y, more = np.empty((2, FEWEST + 3, columns), np.float32)
    multiply(x, weight, None, y)
    multiply(x, weight, bias, more, plus)
    np.testing.assert_array_equal(y, x @ weight.T)
    np.testing.assert_array_equal(more, x @ weight.T + bias + plus)


@pytest.mark.parametrize(("size", "columns"), [(HALVES, 2 * WIDTH), (parts.DEPTH + HALVES, 6 * WIDTH)])
@pytest.mark.parametrize("rows", [2 * FEWEST, 2 * FEWEST + 1, parts.CHUNK + 3])
@pytest.mark.parametrize("processors", [1, 3])
def test_gated_rows(size: int, columns: int, rows: int, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parted(monkeypatch, processors)
    x, value, gate = drawn(rows, size), drawn(columns, size) / size**0.5, drawn(columns, size) / size**0.5
    b, c, y = drawn(columns), drawn(columns), np.full((rows + 2, columns), 7, np.float32)
    assert strassen.pays(rows, size, columns, gated=True)
    multiply_gated(x, value, b, gate, c, y[1:-1])
    exact = [a.astype(np.float64) for a in (x, value, b, gate, c)]
    g = exact[0] @ exact[3].T + exact[4]
    expected = (exact[0] @ exact[1].T + exact[2]) * g * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(g)
    assert relative_error(y[1:-1], expected) < 1.5e-6  # 2e-7 to 7e-7 measured
    assert (y[[0, -1]] == 7).all(), "nothing was written outside"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_any_dtype(dtype: type) -> None:
    x, value, gate = whole(2 * FEWEST, 96), whole(128, 96).astype(dtype), whole(128, 96).astype(dtype)
    b, c, (y, z) = whole(128), whole(128), np.empty((2, 2 * FEWEST, 128), np.float32)
    for weights, out in (((value, gate), y), ((value.astype(np.float32), gate.astype(np.float32)), z)):
        multiply_gated(x, stored(weights[0]), b, stored(weights[1]), c, out)
    np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize(("size", "most"), [(320, 1.8), (1280, 1.3), (5120, 0.7)])
def test_rounding_beside_that_of_direct_products(size: int, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of quarters round more, and of many inputs fewer are added up: 1.4, 1.0 and 0.5 times as much measured."""
    x, weight = drawn(500, size) * np.exp(drawn(500, 1)), drawn(320, size) / size**0.5
    y, z = np.empty((2, 500, 320), np.float32)
    multiply(x, weight, None, y)
    directly(monkeypatch)
    multiply(x, weight, None, z)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    assert not np.array_equal(y, z), "these were other products"
    assert relative_error(y, expected) < most * relative_error(z, expected)


def test_a_row_shares_rounding_with_its_neighbour_alone() -> None:
    """And what is no number."""
    x, weight = drawn(FEWEST, 64), drawn(64, 64)
    x[50] *= 1e4
    y = np.empty((FEWEST, 64), np.float32)
    multiply(x, weight, None, y)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    errors = np.linalg.norm(y - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert (np.delete(errors, 51) < 1e-6).all()
    assert 1e-6 < errors[51] < 1e-2
    x[50] = np.nan
    multiply(x, weight, None, y)
    assert np.isnan(y[50]).all()
    assert np.isfinite(np.delete(y, [50, 51], 0)).all()


def test_the_last_of_an_odd_number_of_rows_shares_its_rounding_with_none() -> None:
    x, weight = drawn(FEWEST + 1, 64), drawn(64, 64)
    y, z = np.empty((2, FEWEST + 1, 64), np.float32)
    multiply(x, weight, None, y)
    x[:-1] = np.nan
    multiply(x, weight, None, z)
    np.testing.assert_array_equal(z[-1], y[-1])


@pytest.mark.parametrize(
    ("rows", "size", "columns", "gated"),
    [
        (FEWEST - 1, 320, 320, False),
        (2 * FEWEST - 1, 320, 320, True),
        (FEWEST, 320 + LANES, 320, False),
        (FEWEST, 320, 320 + WIDTH, False),
    ],
)
def test_what_is_multiplied_directly(rows: int, size: int, columns: int, gated: bool) -> None:
    assert not strassen.pays(rows, size, columns, gated)
    assert strassen.pays(FEWEST * 2, 320, 320, gated)


def test_plans_count_what_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each of two threads seven quarters of rows, of panels, and of tiles."""
    monkeypatch.setattr(parts, "allowed_processors", lambda: [0, 1])
    monkeypatch.setattr(product, "allowed_processors", lambda: [0, 1])
    rows, panels, products = 7 * 320 * HEIGHT + HEIGHT + LANES, 7 * 320 * WIDTH, 7 * HEIGHT * WIDTH
    together = 320 // (2 * WIDTH)  # pairs of panels
    assert product.multiply_size(8192, 1280, 320, gated=False) == 2 * (rows + together * panels + products)
    rows += 7 * 320 * (parts.CHUNK // 2 - HEIGHT)
    assert product.multiply_size(8192, 640, 2560, gated=True) == 2 * (rows + 2 * panels + 2 * products)
