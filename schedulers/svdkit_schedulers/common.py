"""What several solvers share: slopes, ancestral steps, and weights of multistep methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import field, validators

from svdkit.backend import Array
from svdkit.interfaces import Noise

_POINTS, _GAUSS = np.polynomial.legendre.leggauss(32)  # type: ignore[no-untyped-call]


def slope(x: Array, x0: Array, sigma: float) -> Array:
    """dx/dsigma of the probability-flow ODE, `(x - x0) / sigma` (arXiv:2206.00364, equation 1)."""
    return (x - x0) * (1 / sigma)


def euler(x: Array, x0: Array, sigma: float, end: float) -> Array:
    """From `sigma` to `end` as if x0 stayed the same: Euler's step, and the first-order exponential one too."""
    # Not x + (x - x0) * (end / sigma - 1): at sigma 700 that would cost a step to 0 its last four digits in float32.
    return x0 + (x - x0) * (end / sigma)


def ancestral(sigma: float, end: float, eta: float) -> tuple[float, float]:
    """How far to step down, and how much noise to add then, to arrive at `end` (arXiv:2010.02502, equation 16).

    `down ** 2 + up ** 2 == end ** 2`; eta is 0 for none of the noise and 1 for as much as DDPM adds.
    """
    up = min(end, eta * end * math.sqrt(1 - (end / sigma) ** 2))
    return math.sqrt(max(end**2 - up**2, 0.0)), up


def with_noise(x: Array, scale: float, noise: Noise, draw: int = 0) -> Array:
    """`x` and noise of that scale; none is drawn if it is 0."""
    return x + noise(draw) * scale if scale > 0 else x


def lagrange_weights(
    nodes: Sequence[float], start: float, end: float, weight: Callable[[Any], Any] = np.ones_like
) -> list[float]:
    """Integrals from `start` to `end` of `weight(u)` times each Lagrange polynomial over the nodes.

    With them, `sum(w * f)` integrates the polynomial through the values f at the nodes. Gauss-Legendre quadrature
    with 32 points: exact for polynomials, to about 1e-15 for the exponentials that occur.
    """
    u = start + (end - start) * (_POINTS + 1) / 2
    scaled = _GAUSS * (end - start) / 2 * weight(u)
    weights = []
    for j, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        polynomial = np.prod([(u - other) / (node - other) for other in others] or [np.ones_like(u)], axis=0)
        weights.append(float(np.sum(scaled * polynomial)))
    return weights


def weighted_sum(weights: Sequence[float], arrays: Sequence[Array]) -> Array:
    """`sum(w * a)`, without starting from an integer zero."""
    total = arrays[0] * weights[0]
    for weight, array in zip(weights[1:], arrays[1:], strict=True):
        total = total + array * weight
    return total


def non_negative(default: float) -> Any:
    """An option that is a number of at least 0."""
    return field(default=default, converter=float, validator=validators.ge(0))


def order(default: int, most: int, least: int = 1) -> Any:
    """An option that is a whole number from `least` to `most`."""
    return field(default=default, validator=[validators.instance_of(int), validators.ge(least), validators.le(most)])
