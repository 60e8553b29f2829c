"""The family of second-order Runge-Kutta methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import field, frozen, validators

from svdkit.interfaces import Denoiser, Noise


@frozen
class RK2:
    """Any second-order method of two evaluations a step (arXiv:2206.00364, appendix D.2).

    Args:
        alpha: where in the step the second evaluation is: 1/2 is the midpoint rule, 2/3 Ralston's method, 1 Heun's.
    """

    alpha: float = field(default=2 / 3, converter=float, validator=[validators.gt(0), validators.le(1)])

    def step(
        self, denoise: Denoiser, x: Any, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Any, Any]:
        """Two evaluations, one for the step to 0; no history."""
        sigma, h = sigmas[i], sigmas[i + 1] - sigmas[i]
        first = (x - denoise(x, sigma)) / sigma
        if sigmas[i + 1] == 0:  # networks are not trained for levels below the last
            return x + first * h, None
        between = sigma + self.alpha * h
        y = x + first * (self.alpha * h)
        second = (y - denoise(y, between)) / between
        share = 1 / (2 * self.alpha)
        return x + first * ((1 - share) * h) + second * (share * h), None
