"""What is asked for while tiles are multiplied: the right memory, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from svdkit_loops.ahead import BYTES, MOST, ask_for
from svdkit_loops.compiled import compiled
from svdkit_loops.tile import HEIGHT, WIDTH, multiply_tile, place

X = np.zeros((40, 96), np.float32)
NOTHING_YET = -1


def addresses(x: np.ndarray, *where: int, count: int = 0, room: int = MOST) -> list[int]:
    asked = np.full(room, NOTHING_YET)
    end = ask_for(asked, count, x, *where)
    assert (asked[end:] == NOTHING_YET).all()
    assert (asked[:count] == NOTHING_YET).all()
    return [int(address) for address in asked[count:end]]


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int16])
def test_addresses_are_those_of_rows(dtype: type) -> None:
    x = X.astype(dtype)
    each = BYTES // x.itemsize
    expected = [x[row : row + 1, at:].ctypes.data for row in range(3, 8) for at in range(16, 16 + 72, each)]
    assert addresses(x, 3, 5, 16, 72, count=2) == expected
    assert all(0 <= address - x.ctypes.data < x.nbytes for address in expected)


def test_rows_that_there_are_not_are_left_out() -> None:
    assert addresses(X, 38, 10, 0, 8) == [X[row].ctypes.data for row in (38, 39)]
    assert addresses(X, 40, 2, 0, 8) == []
    assert addresses(X, 0, 4, 0, 0) == []


@pytest.mark.parametrize("parts", [1, 3, 5, 11])
def test_parts_of_rows_are_all_of_them(parts: int) -> None:
    together = [address for part in range(parts) for address in addresses(X, 30, 10, 32, 64, part, parts)]
    assert together == addresses(X, 30, 10, 32, 64)


def test_as_many_are_noted_as_there_is_room_for() -> None:
    assert addresses(X, 0, 40, 0, 96, room=7) == addresses(X, 0, 40, 0, 96)[:7]


@pytest.mark.parametrize("height", [1, HEIGHT])
@pytest.mark.parametrize("length", [1, 7, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 9, 64, 100])
def test_a_tile_is_the_same_whatever_is_asked_for(height: int, length: int, count: int) -> None:
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(-3, 4, (length, n)).astype(np.float32) for n in (height, WIDTH))
    asked = X.ctypes.data + 64 * np.arange(count)
    asked[::5] = 0  # where nothing is
    out = np.empty((height, WIDTH), np.float32)
    _multiply(rows.reshape(-1), columns.reshape(-1), asked, height, length, out.reshape(-1))
    np.testing.assert_array_equal(out, rows.T @ columns)


@compiled
def _multiply(rows, columns, asked, height, length, out):  # type: ignore[no-untyped-def]
    zeros, ahead = np.zeros(WIDTH, np.float32), place(asked, 0)
    start, count = place(zeros, 0), len(asked)
    multiply_tile(place(rows, 0), height, length, place(columns, 0), start, 0, place(out, 0), WIDTH, ahead, count)
