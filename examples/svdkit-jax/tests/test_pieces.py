"""Attention on more tokens than the conformance suite has: in pieces, and in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from svdkit_jax import backend
from svdkit_jax.backend import JaxBackend


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pieces of a hundred rows of 300 scores; programs of another size are forgotten."""
    monkeypatch.setattr(backend, "SCORES", 2 * 4 * 100 * 300)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("length", [300, 250, 99])
def test_pieces_equal_the_whole(small_pieces: None, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Three pieces, two and a rest, and none."""
    k, rng = JaxBackend(), np.random.default_rng(0)
    q, keys, values = (k.array(rng.standard_normal((2, n, 32))) for n in (length, 300, 300))
    pieces = k.attention(q, keys, values, 4)
    monkeypatch.setattr(backend, "SCORES", 2**26)
    jax.clear_caches()
    np.testing.assert_allclose(pieces, k.attention(q, keys, values, 4), rtol=0, atol=1e-6)  # 0 to 2e-7 measured


def test_memory_is_linear(small_pieces: None) -> None:
    """Of the program and of its gradient, as XLA tells it; the scores of 8192 tokens take 268 MB."""
    k = JaxBackend()

    def total(x: jax.Array) -> jax.Array:
        return k.attention(x, x, x, 1).sum()

    x = jax.ShapeDtypeStruct((1, 8192, 64), jnp.float32)
    for function in (total, jax.grad(total)):
        used = jax.jit(function).lower(x).compile().memory_analysis().temp_size_in_bytes
        assert used < 40e6, function  # 6 MB and 19 MB measured
