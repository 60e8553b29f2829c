"""Multistep methods on the slope: polynomials through past slopes, integrated over the step.

History is the tuple of past slopes, newest first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from svdkit.backend import Array
from svdkit.interfaces import Denoiser, Noise

from .common import euler, lagrange_weights, order, slope, weighted_sum


@frozen
class LMS:
    """Adams-Bashforth for uneven steps: the polynomial is in sigma, as in the rho-AB form of DEIS (arXiv:2204.13902).

    Args:
        order: past and present slopes that are used, once there are as many.
    """

    order: int = order(4, 6)

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation."""
        slopes = (slope(x, denoise(x, sigmas[i]), sigmas[i]), *(history or ()))[: self.order]
        nodes = [sigmas[i - j] for j in range(len(slopes))]
        weights = lagrange_weights(nodes, sigmas[i], sigmas[i + 1])
        return x + weighted_sum(weights, slopes), slopes


@frozen
class DEIS:
    """The polynomial is in log sigma (arXiv:2204.13902, equation 15, with log-SNR for time).

    Args:
        order: past and present slopes that are used, once there are as many.
    """

    order: int = order(3, 4)

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation. The step to 0, where log sigma ends, is of first order."""
        sigma, end = sigmas[i], sigmas[i + 1]
        x0 = denoise(x, sigma)
        slopes = (slope(x, x0, sigma), *(history or ()))[: self.order]
        if end == 0:
            return euler(x, x0, sigma, end), slopes
        nodes = [math.log(sigmas[i - j]) for j in range(len(slopes))]
        weights = lagrange_weights(nodes, math.log(sigma), math.log(end), np.exp)
        return x + weighted_sum(weights, slopes), slopes


_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@frozen
class IPNDM:
    """Adams-Bashforth with the weights of even steps, as published (arXiv:2204.13902, section 3.4, of PNDM).

    Over steps whose lengths change smoothly it is of second order whatever the weights, over irregular ones of
    first; `lms` has the weights of the true steps.

    Args:
        order: past and present slopes that are used, once there are as many.
    """

    order: int = order(4, 4)

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation."""
        slopes = (slope(x, denoise(x, sigmas[i]), sigmas[i]), *(history or ()))[: self.order]
        mean = weighted_sum(_ADAMS_BASHFORTH[len(slopes) - 1], slopes)
        return x + mean * (sigmas[i + 1] - sigmas[i]), slopes
