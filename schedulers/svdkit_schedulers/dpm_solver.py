"""DPM-Solver++: exponential integrators on x0 over t = -log sigma (arXiv:2211.01095), and their stochastic forms.

In these coordinates, with h the step in t, the solution for a constant x0 is `exp(-h) * x + (1 - exp(-h)) * x0`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from attrs import field, frozen, validators

from svdkit.backend import Array
from svdkit.interfaces import Denoiser, Noise

from .common import ancestral, euler, non_negative, with_noise


@frozen
class DPMpp2M:
    """Second-order multistep (arXiv:2211.01095, algorithm 2). History is the last x0."""

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation."""
        sigma, end = sigmas[i], sigmas[i + 1]
        x0 = denoise(x, sigma)
        estimate = x0
        if history is not None and end > 0:
            ratio = math.log(sigmas[i - 1] / sigma) / math.log(sigma / end)
            estimate = x0 + (x0 - history) * (1 / (2 * ratio))
        return euler(x, estimate, sigma, end), x0


@frozen
class DPMpp2SAncestral:
    """Second-order singlestep to below the next noise level, then noise up to it (arXiv:2211.01095, algorithm 1).

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
        if down > 0:
            middle = math.sqrt(sigma * down)
            x0 = denoise(euler(x, x0, sigma, middle), middle)
        x = euler(x, x0, sigma, down)
        return with_noise(x, up * self.s_noise, noise), None


@frozen
class DPMppSDE:
    """Two ancestral steps, the second with what the first has seen (arXiv:2211.01095; k-diffusion's `dpmpp_sde`).

    Args:
        eta: 0 for none of the noise, 1 for as much as DDPM adds.
        s_noise: scale of the noise.
        r: where in t the first step ends, between 0 and 1.
    """

    eta: float = non_negative(1.0)
    s_noise: float = non_negative(1.0)
    r: float = field(default=0.5, converter=float, validator=[validators.gt(0), validators.le(1)])

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """Two evaluations, one for the step to 0; no history."""
        sigma, end = sigmas[i], sigmas[i + 1]
        x0 = denoise(x, sigma)
        if end == 0:
            return euler(x, x0, sigma, end), None

        def move(x0: Array, to: float, draw: int) -> Array:
            down, up = ancestral(sigma, to, self.eta)
            moved = euler(x, x0, sigma, down)
            return with_noise(moved, up * self.s_noise, noise, draw)

        middle = sigma * (end / sigma) ** self.r
        seen = denoise(move(x0, middle, 0), middle)
        return move(x0 + (seen - x0) * (1 / (2 * self.r)), end, 1), None


@frozen
class DPMpp2MSDE:
    """Second-order multistep for the SDE (arXiv:2211.01095). History is the last x0.

    Args:
        eta: strength of the noise; 0 makes it deterministic.
        s_noise: scale of the noise.
        solver_type: `midpoint`, or `heun`, which integrates the line through the last two x0 exactly.
    """

    eta: float = non_negative(1.0)
    s_noise: float = non_negative(1.0)
    solver_type: Literal["midpoint", "heun"] = field(default="midpoint", validator=validators.in_(("midpoint", "heun")))

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation."""
        sigma, end = sigmas[i], sigmas[i + 1]
        x0 = denoise(x, sigma)
        if end == 0:
            return x0, x0
        h = math.log(sigma / end)
        rate = h * (1 + self.eta)
        gain = -math.expm1(-rate)
        y = x * math.exp(-rate) + x0 * gain
        if history is not None:
            ratio = math.log(sigmas[i - 1] / sigma) / h
            weight = gain / 2 if self.solver_type == "midpoint" else 1 - gain / rate
            y = y + (x0 - history) * (weight / ratio)
        return _with_noise(y, end, h * self.eta, self.s_noise, noise), x0


@frozen
class DPMpp3MSDE:
    """Three-step multistep for the SDE (arXiv:2211.01095; k-diffusion's `dpmpp_3m_sde`), of second order.

    History is the last two x0, newest first. The parabola through three x0 is `x0 + d1 * u + d2 * u ** 2`, u being
    the part of the step; its exact integral is `phi_2 * d1 - 2 * phi_3 * d2`. As published the last factor is
    `phi_3`, half of that, which leaves an error of third order a step: for even steps, a fifth of what the line of
    `dpmpp_2m_sde:solver_type=heun` leaves.

    Args:
        eta: strength of the noise; 0 makes it deterministic.
        s_noise: scale of the noise.
    """

    eta: float = non_negative(1.0)
    s_noise: float = non_negative(1.0)

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation."""
        sigma, end = sigmas[i], sigmas[i + 1]
        x0 = denoise(x, sigma)
        past = history or ()
        kept = (x0, *past)[:2]
        if end == 0:
            return x0, kept
        h = math.log(sigma / end)
        rate = h * (1 + self.eta)
        gain = -math.expm1(-rate)
        phi_2 = 1 - gain / rate
        y = x * math.exp(-rate) + x0 * gain
        if past:
            ratio = math.log(sigmas[i - 1] / sigma) / h
            first = (x0 - past[0]) * (1 / ratio)
            if len(past) == 1:
                y = y + first * phi_2
            else:
                older = math.log(sigmas[i - 2] / sigmas[i - 1]) / h
                bend = (first - (past[0] - past[1]) * (1 / older)) * (1 / (ratio + older))
                y = y + (first + bend * ratio) * phi_2 - bend * (phi_2 / rate - 0.5)
        return _with_noise(y, end, h * self.eta, self.s_noise, noise), kept


def _with_noise(y: Array, end: float, eta_h: float, s_noise: float, noise: Noise) -> Array:
    if eta_h == 0:
        return y
    return y + noise(0) * (end * math.sqrt(-math.expm1(-2 * eta_h)) * s_noise)
