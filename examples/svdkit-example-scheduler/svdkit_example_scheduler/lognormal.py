"""Noise levels that are dense around one of them."""

from __future__ import annotations

from math import exp, log
from statistics import NormalDist


def lognormal(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, mean: float = 0.6, std: float = 3.1
) -> list[float]:
    """Quantiles of a normal distribution of log sigma, cut to the range, and a final 0.

    Args:
        steps: how many levels, not counting the 0.
        sigma_min, sigma_max: the last and the first of them.
        mean: the log sigma around which levels are dense.
        std: how far they spread. By default, 11 levels are near those of Align Your Steps for Stable Video Diffusion.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"the range is {sigma_min} to {sigma_max}, expected 0 < sigma_min < sigma_max")
    if not std > 0:
        raise ValueError(f"std is {std}, expected a positive number")
    normal = NormalDist(mean, std)
    first, last = normal.cdf(log(sigma_max)), normal.cdf(log(sigma_min))
    inner = [exp(normal.inv_cdf(first + (last - first) * k / (steps - 1))) for k in range(1, steps - 1)]
    return [*[sigma_max, *inner, sigma_min][:steps], 0.0]
