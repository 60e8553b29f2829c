"""Exponential Adams methods: polynomials through past x0 over t = -log sigma, integrated exactly.

With noise strength tau, over a step of length h in t,
`x' = exp(-(1 + tau^2) h) x + integral of (1 + tau^2) exp(-(1 + tau^2)(t' - t)) x0(t) dt + noise` of variance
`sigma'^2 (1 - exp(-2 tau^2 h))` (arXiv:2309.05019, proposition 4.2, with alpha = 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from svdkit.backend import Array
from svdkit.interfaces import Denoiser, Noise

from .common import lagrange_weights, non_negative, order, weighted_sum


def _advance(x: Array, x0s: Sequence[Array], levels: Sequence[float], start: float, end: float, rate: float) -> Array:
    """From `start` to `end` with the polynomial through x0s at levels; rate is `1 + tau^2`."""
    t, t_end = -math.log(start), -math.log(end)
    nodes = [-math.log(level) for level in levels]
    weights = lagrange_weights(nodes, t, t_end, lambda u: rate * np.exp(-rate * (t_end - u)))
    return x * math.exp(-rate * (t_end - t)) + weighted_sum(weights, x0s)


@frozen
class ResMultistep:
    """The second-order multistep form of the refined exponential solver (arXiv:2308.02157). History is the last x0."""

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation."""
        x0 = denoise(x, sigmas[i])
        if sigmas[i + 1] == 0:
            return x0, x0
        x0s = [x0] if history is None else [x0, history]
        levels = [sigmas[i - j] for j in range(len(x0s))]
        return _advance(x, x0s, levels, sigmas[i], sigmas[i + 1], 1.0), x0


@frozen
class SASolver:
    """Stochastic Adams: each step is predicted, and corrected once the next x0 is known (arXiv:2309.05019).

    History is what the last step began with, x before it and its noise, what it predicted, and past x0, newest first.

    Args:
        tau: strength of the noise; 0 makes it deterministic.
        tau_min, tau_max: the noise levels between which noise is added.
        predictor_order, corrector_order: points of the polynomials, once there are as many; a corrector of order
            0 leaves predictions as they are.
        s_noise: scale of the noise.
    """

    tau: float = non_negative(1.0)
    tau_min: float = non_negative(0.0)
    tau_max: float = non_negative(math.inf)
    predictor_order: int = order(3, 4)
    corrector_order: int = order(4, 5, least=0)
    s_noise: float = non_negative(1.0)

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation. What a callback has changed of the prediction stays changed."""
        x0 = denoise(x, sigmas[i])
        before, drawn, predicted, past = history or (None, None, None, ())
        x0s = (x0, *past)[: max(self.predictor_order, self.corrector_order)]
        levels = [sigmas[i - j] for j in range(len(x0s))]
        if before is not None and self.corrector_order:
            used = min(self.corrector_order, len(x0s))
            x = self._move(before, x0s[:used], levels[:used], sigmas[i - 1], sigmas[i], drawn) + (x - predicted)
        if sigmas[i + 1] == 0:
            return x0, (x, None, x0, x0s)
        drawn = noise(0) if self._strength(sigmas[i]) > 0 else None
        used = min(self.predictor_order, len(x0s))
        y = self._move(x, x0s[:used], levels[:used], sigmas[i], sigmas[i + 1], drawn)
        return y, (x, drawn, y, x0s)

    def _strength(self, sigma: float) -> float:
        return self.tau if self.tau_min <= sigma <= self.tau_max else 0.0

    def _move(
        self, x: Array, x0s: Sequence[Array], levels: Sequence[float], start: float, end: float, drawn: Array | None
    ) -> Array:
        square = self._strength(start) ** 2
        y = _advance(x, x0s, levels, start, end, 1 + square)
        if drawn is None:
            return y
        scale = end * math.sqrt(-math.expm1(-2 * square * math.log(start / end)))
        return y + drawn * (scale * self.s_noise)
