"""Euler's method on the probability-flow ODE (arXiv:2206.00364, equation 1 and algorithm 1 without its correction)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from svdkit.backend import Array
from svdkit.interfaces import Denoiser, Noise


@frozen
class Euler:
    """`x + (sigma' - sigma) * (x - x0) / sigma`."""

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation, no history."""
        ratio = (sigmas[i + 1] - sigmas[i]) / sigmas[i]
        return x + (x - denoise(x, sigmas[i])) * ratio, None
