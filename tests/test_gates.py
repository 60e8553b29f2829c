"""GELU of gates, from tables and by a formula, beside the function itself in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba")

from svdkit_loops import gates
from svdkit_loops.compiled import compiled

OFF = {"chosen": 4e-7 if gates.HAS_TABLES else 6e-7, "formula": 6e-7}
"""3.4e-7 measured from tables, 5.9e-7 by the formula; torch's is off by 1.3e-6."""
NEAR = {"chosen": 1e-7 if gates.HAS_TABLES else 2e-7, "formula": 2e-7}
"""Of |x| < 1, as a part of it: 7.6e-8 from tables; of one degree less it would be 1.7e-7."""
WAYS = {"chosen": gates.apply_gates, "formula": compiled(gates.by_formula)}


def exact(x: np.ndarray) -> np.ndarray:
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.astype(np.float64)])


@pytest.mark.parametrize("way", WAYS)
def test_everywhere(way: str) -> None:
    """Beyond 6 it is 0 or x; pieces of the table meet at odd multiples of 3/16."""
    meet = np.arange(-31, 32, 2) * 3 / 16
    x = np.concatenate([np.linspace(-9, 9, 2**17), np.nextafter(meet, 9), meet, np.nextafter(meet, -9)])
    x = np.resize(x, -(-len(x) // 16) * 16).astype(np.float32)
    y = np.ones_like(x)
    WAYS[way](y, x, len(x))
    assert np.abs(y - exact(x)).max() < OFF[way]
    near = np.abs(x) < 1
    assert (np.abs(y - exact(x))[near] <= NEAR[way] * np.abs(x)[near]).all()


def test_tables_are_nearer_than_torch() -> None:
    torch = pytest.importorskip("torch")
    x = np.linspace(-6, 6, 2**16).astype(np.float32)
    y = np.ones_like(x)
    gates.apply_gates(y, x, len(x))
    of_torch = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    assert np.abs(y - exact(x)).max() < np.abs(of_torch - exact(x)).max()


@pytest.mark.parametrize("way", WAYS)
def test_far_out(way: str) -> None:
    x = np.zeros(16, np.float32)
    x[:11] = [-np.inf, -3e38, -1e10, -20, -0.0, 1e-38, 20, 1e10, 3e38, np.inf, np.nan]
    y = np.ones_like(x)
    WAYS[way](y, x, len(x))
    assert np.isnan(y[0]), "0 times infinity, as in torch"
    np.testing.assert_array_equal(y[1:5], 0)
    np.testing.assert_allclose(y[5:10], [5e-39, *x[6:10]], rtol=1e-6)
    assert np.isnan(y[10])


@pytest.mark.parametrize("way", WAYS)
def test_so_many_values_are_gated(way: str) -> None:
    rng = np.random.default_rng(0)
    values, x = rng.standard_normal((2, 80)).astype(np.float32)
    y = values.copy()
    WAYS[way](y, x, 48)
    np.testing.assert_allclose(y[:48], values[:48] * exact(x[:48]), rtol=0, atol=3 * OFF[way])
    np.testing.assert_array_equal(y[48:], values[48:])
