"""svdkit's conformance suite."""

from __future__ import annotations

from collections.abc import Callable

import jax

from svdkit.backend import Array
from svdkit.testing import BackendConformance


class TestJax(BackendConformance):
    """All that a backend must do."""

    backend = "jax"

    @staticmethod
    def gradient(function: Callable[[Array], Array], x: Array) -> Array:
        """Of the sum of `function(x)`."""
        return jax.jit(jax.grad(lambda x: function(x).sum()))(x)
