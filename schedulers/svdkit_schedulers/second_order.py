"""Methods that look at each step twice: Heun's, its stochastic form of EDM, and the midpoint rule of DPM-Solver-2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from svdkit.backend import Array
from svdkit.interfaces import Denoiser, Noise

from .common import ancestral, euler, non_negative, slope, with_noise


def _heun(denoise: Denoiser, x: Array, sigma: float, end: float) -> Array:
    first = slope(x, denoise(x, sigma), sigma)
    guess = x + first * (end - sigma)
    if end == 0:  # no slope there
        return guess
    second = slope(guess, denoise(guess, end), end)
    return x + (first + second) * ((end - sigma) / 2)


def _midpoint(denoise: Denoiser, x: Array, x0: Array, sigma: float, end: float) -> Array:
    middle = math.sqrt(sigma * end)
    half = euler(x, x0, sigma, middle)
    return x + slope(half, denoise(half, middle), middle) * (end - sigma)


@frozen
class Heun:
    """The trapezoidal rule (arXiv:2206.00364, algorithm 1); two evaluations, one for the step to 0."""

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """Two evaluations, no history."""
        return _heun(denoise, x, sigmas[i], sigmas[i + 1]), None


@frozen
class EDMStochastic:
    """Heun's step from a raised noise level (arXiv:2206.00364, algorithm 2).

    Args:
        s_churn: how much to raise, over all steps; a step raises by at most `sqrt(2) - 1` of its level.
        s_tmin, s_tmax: the noise levels between which it is done.
        s_noise: scale of the noise.
    """

    s_churn: float = non_negative(40.0)
    s_tmin: float = non_negative(0.05)
    s_tmax: float = non_negative(50.0)
    s_noise: float = non_negative(1.0)

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """Two evaluations, the first at the raised level; no history."""
        sigma = sigmas[i]
        if self.s_churn > 0 and self.s_tmin <= sigma <= self.s_tmax:
            raised = sigma * (1 + min(self.s_churn / (len(sigmas) - 1), math.sqrt(2) - 1))
            x = x + noise(0) * (math.sqrt(raised**2 - sigma**2) * self.s_noise)
            sigma = raised
        return _heun(denoise, x, sigma, sigmas[i + 1]), None


@frozen
class DPM2:
    """The midpoint rule, with the middle in log sigma (arXiv:2206.00927, algorithm 1 with r1 = 1/2, in this ODE)."""

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """Two evaluations, one for the step to 0; no history."""
        sigma, end = sigmas[i], sigmas[i + 1]
        x0 = denoise(x, sigma)
        return (euler(x, x0, sigma, end) if end == 0 else _midpoint(denoise, x, x0, sigma, end)), None


@frozen
class DPM2Ancestral:
    """DPM-Solver-2 (arXiv:2206.00927) to below the next noise level, then noise up to it.

    Args:
        eta: 0 for none of the noise, 1 for as much as DDPM adds.
        s_noise: scale of the noise.
    """

    eta: float = non_negative(1.0)
    s_noise: float = non_negative(1.0)

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """Two evaluations, one for a step down to 0; no history."""
        sigma = sigmas[i]
        down, up = ancestral(sigma, sigmas[i + 1], self.eta)
        x0 = denoise(x, sigma)
        x = euler(x, x0, sigma, down) if down == 0 else _midpoint(denoise, x, x0, sigma, down)
        return with_noise(x, up * self.s_noise, noise), None
