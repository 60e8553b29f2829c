"""Threads that take turns: each part is done once, whoever is slower, and nothing else is written to."""

from __future__ import annotations

import time
from threading import Thread
from typing import Any

import numpy as np
import pytest

from svdkit.backend import Host
from svdkit.testing.inputs import relative_error

pytest.importorskip("numba")

from svdkit_loops import parts, product
from svdkit_loops.compiled import compiled
from svdkit_loops.parts import edges
from svdkit_loops.product import multiply, multiply_gated
from svdkit_loops.turns import Turns, take, turns_of, wait_for

RNG = np.random.default_rng(0)


@compiled
def all_that_are_left(turns: Turns, count: int, out: Host) -> int:
    taken = 0
    while True:
        part = take(turns, 1)
        if part >= count:
            return taken
        out[part] += 1
        taken += 1


def test_each_is_taken_once() -> None:
    count, turns, taken = 2_000_000, turns_of(1, 3), []
    out = np.zeros(count, np.int64)
    all_that_are_left(turns_of(1, 3)[0], 0, out)  # and is compiled
    threads = [Thread(target=lambda: taken.append(all_that_are_left(turns[0], count, out))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (out == 1).all()
    assert sum(taken) == count
    assert turns.tolist() == [[0, count + 3, 0]]


@compiled
def once(turns: Turns) -> int:
    return take(turns, 0)


def test_waits_for_who_is_at_work() -> None:
    turns = turns_of(1, 1)[0]
    wait_for(turns, 0, 0)
    waits = Thread(target=wait_for, args=(turns, 0, 2), daemon=True)
    waits.start()
    for k in range(2):
        time.sleep(0.05)
        assert waits.is_alive(), "it waits until the count is as large"
        assert once(turns) == k
    waits.join(10)
    assert not waits.is_alive()


def test_neighbours_share_what_both_have() -> None:
    def of(*arguments: Any) -> list[tuple[int, ...]]:
        return [edges(*arguments, cell) for cell in range(arguments[2] * arguments[3])]

    assert of(10, 8, 1, 2, False) == [(0, 10, 0, 8, 0), (0, 10, 0, 8, 1)]
    assert of(10, 9, 2, 3, False)[3:] == [(5, 10, 0, 6, 0), (5, 10, 0, 6, 1), (5, 10, 6, 9, 0)]
    assert of(10, 8, 2, 1, False) == [(0, 5, 0, 8, 0), (5, 10, 0, 8, 0)]
    assert of(12, 8, 3, 1, True) == [(0, 8, 0, 8, 0), (0, 8, 0, 8, 1), (8, 12, 0, 8, 0)]


PRODUCTS = {
    "panels, of long rows": (300, 1920, 640, False),
    "panels, of several chunks": (2500, 64, 1920, True),
    "panels, of several chunks of long rows": (1000, 1280, 1280, False),
    "runs of rows, that are long": (1500, 1920, 128, False),
    "runs of rows": (3000, 64, 64, True),
    "directly, panels of long rows": (60, 1930, 320, False),
    "directly, gated": (100, 200, 330, True),
    "directly, a single panel": (1900, 20, 20, False),
}


def multiplied(rows: int, size: int, columns: int, gated: bool) -> Host:
    rng, out = np.random.default_rng(1), np.full((rows, columns), np.nan, np.float32)
    x, value, gate = (rng.standard_normal((n, size), np.float32) for n in (rows, columns, columns))
    b, c, plus = (rng.standard_normal(shape, np.float32) for shape in (columns, columns, (rows, columns)))
    if gated:
        multiply_gated(x, value, b, gate, c, out)
    else:
        multiply(x, value, b, out, plus)
        assert relative_error(out, x.astype(np.float64) @ value.T.astype(np.float64) + b + plus) < 5e-6
    return out


@pytest.mark.parametrize("processors", [2, 3, 8])
@pytest.mark.parametrize("late", ["the first", "the second", "by chance"])
@pytest.mark.parametrize("case", PRODUCTS)
def test_whoever_is_late(case: str, late: str, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One does what the other would have; results are the same to the last bit, and counts are as many as planned."""
    guarded = list[Turns]()

    def with_guards(threads: int, counts: int) -> Turns:
        guarded.append(np.full((threads, counts + 8), 7, np.int64))
        guarded[-1][:, 4:-4] = 0
        return guarded[-1][:, 4:-4]

    def share(work: Any, count: int, size: int) -> None:
        threads = [Thread(target=work, args=(i, i + 1)) for i in range(count)]
        for thread in reversed(threads) if late == "the first" else threads:
            thread.start()
            if late == "by chance":
                time.sleep(RNG.uniform(0, 1e-3))
            else:
                thread.join()
        for thread in threads:
            thread.join()

    monkeypatch.setattr(parts, "allowed_processors", lambda: [0])
    expected = multiplied(*PRODUCTS[case])
    monkeypatch.setattr(parts, "allowed_processors", lambda: list(range(processors)))
    monkeypatch.setattr(product, "share", share)
    monkeypatch.setattr(product, "turns_of", with_guards)
    for _ in range(8 if late == "by chance" else 1):
        np.testing.assert_array_equal(multiplied(*PRODUCTS[case]), expected)
    assert all((turns[:, :4] == 7).all() and (turns[:, -4:] == 7).all() for turns in guarded)
    _, size, _, gated = PRODUCTS[case]
    if processors == 2:  # and both take turns with everything
        assert {turns[0, -5] for turns in guarded} == {1 if gated else -(-size // parts.DEPTH)}
