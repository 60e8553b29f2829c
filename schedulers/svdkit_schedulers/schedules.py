"""Sigma schedules: `steps` noise levels from sigma_max down to sigma_min, and a final 0.

All but AYS, which is a table, and LCM, which takes some of a ramp, are a curve from 0 to 1 laid over their range.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from svdkit.errors import InputError
from svdkit.sigmas import RHO, SIGMA_MAX, SIGMA_MIN

_Curve = npt.NDArray[np.float64]


def _check(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise InputError(
            f"The range of noise levels is {sigma_min} to {sigma_max}, expected 0 < sigma_min < sigma_max."
        )


def _finished(sigmas: _Curve, sigma_min: float, sigma_max: float) -> list[float]:
    """The levels with their exact ends, which the arithmetic may have missed by a digit, and the final 0."""
    values = [float(sigma) for sigma in sigmas]
    values[0] = float(sigma_max)
    if len(values) > 1:
        values[-1] = float(sigma_min)
    return [*values, 0.0]


def polyexponential(
    steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = 1.0
) -> list[float]:
    """A power of an even ramp, in log sigma (k-diffusion's `get_sigmas_polyexponential`); rho 1 is `exponential`."""
    _check(sigma_min, sigma_max)
    ramp = np.linspace(1, 0, steps) ** rho
    return _finished(sigma_min * (sigma_max / sigma_min) ** ramp, sigma_min, sigma_max)


def exponential(steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> list[float]:
    """Even in log sigma, which is even in what the network is told, c_noise = log(sigma) / 4."""
    return polyexponential(steps, sigma_min, sigma_max)


def sgm_uniform(steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> list[float]:
    """Even in log sigma with one more level, the last of which is left out: the step to 0 begins above sigma_min."""
    return [*exponential(steps + 1, sigma_min, sigma_max)[:-2], 0.0]


def beta(
    steps: int,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    alpha: float = 0.6,
    beta: float = 0.6,
    space: str = "log",
) -> list[float]:
    """Quantiles of a beta distribution, dense at both ends (arXiv:2407.12173).

    Args:
        steps, sigma_min, sigma_max: as everywhere.
        alpha, beta: of the distribution.
        space: `log` lays the quantiles over log sigma, that is, over what the network is told; `sigma` over sigma, as
            diffusers' `use_beta_sigmas` does.
    """
    from scipy.stats import beta as distribution

    _check(sigma_min, sigma_max)
    if space not in ("log", "sigma"):
        raise InputError(f"space is {space!r}, expected 'log' or 'sigma'.")
    quantiles = distribution.ppf(np.linspace(1, 0, steps), alpha, beta)
    if space == "sigma":
        return _finished(sigma_min + quantiles * (sigma_max - sigma_min), sigma_min, sigma_max)
    return _finished(sigma_min * (sigma_max / sigma_min) ** quantiles, sigma_min, sigma_max)


def linear_quadratic(
    steps: int,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    threshold: float = 0.025,
) -> list[float]:
    """Half of the steps over a small first part of the way, even; then ever longer ones (the schedule of Mochi 1).

    Args:
        steps, sigma_min, sigma_max: as everywhere. The way is that of sigma / (1 + sigma), the share of noise.
        threshold: the part of the way that the even half covers, before the way is stretched so that the last level
            is `sigma_min`: of 25 steps 2.9 % instead of 2.5, of 4 it is 9.1.
    """
    _check(sigma_min, sigma_max)
    linear = max(steps // 2, 1)
    quadratic = steps - linear
    way = threshold * np.arange(linear) / linear
    if quadratic:
        # The parabola continues the line with its slope and ends at 1, after the last step.
        slope = threshold / linear
        k = np.arange(quadratic) / quadratic
        way = np.concatenate([way, threshold + slope * quadratic * k + (1 - threshold - slope * quadratic) * k**2])
    low, high = sigma_min / (1 + sigma_min), sigma_max / (1 + sigma_max)
    share = high - (high - low) * way / (way[-1] if steps > 1 else 1)
    return _finished(share / (1 - share), sigma_min, sigma_max)


def laplace(
    steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, mu: float = 0.0, scale: float = 0.5
) -> list[float]:
    """Quantiles of a Laplace distribution of log sigma (arXiv:2407.03297), cut to the range.

    Args:
        steps, sigma_min, sigma_max: as everywhere.
        mu: the log sigma around which levels are dense.
        scale: how dense; smaller is denser.
    """
    _check(sigma_min, sigma_max)
    if scale <= 0:
        raise InputError(f"scale is {scale}, expected a positive number.")

    # Far from mu the distribution function is closer to 1 than floats tell, so each side keeps its own tail.
    def tail(log_sigma: float) -> tuple[bool, float]:
        above = log_sigma > mu
        return above, 0.5 * math.exp(-abs(log_sigma - mu) / scale)

    (high_above, high), (low_above, low) = tail(math.log(sigma_max)), tail(math.log(sigma_min))
    first = high if high_above else 1 - high
    last = low if low_above else 1 - low
    upper = first + (last - first) * np.linspace(0, 1, steps)  # probability of a larger sigma
    lower = (1 - last if low_above else low) + (last - first) * np.linspace(1, 0, steps)
    logs = np.where(upper <= 0.5, mu - scale * np.log(2 * upper), mu + scale * np.log(2 * np.maximum(lower, 1e-300)))
    return _finished(np.exp(logs), sigma_min, sigma_max)


def cosine(steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> list[float]:
    """Even in the angle whose tangent is sigma: alpha_bar is the square of its cosine (arXiv:2102.09672)."""
    _check(sigma_min, sigma_max)
    return _finished(np.tan(np.linspace(math.atan(sigma_max), math.atan(sigma_min), steps)), sigma_min, sigma_max)


_AYS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


def ays(steps: int) -> list[float]:
    """Align Your Steps for Stable Video Diffusion (arXiv:2404.14507).

    Ten steps are the published ones, which end at 0 in place of the table's 0.002; other numbers are interpolated
    log-linearly over the table, and end in the same way.
    """
    places = np.linspace(0, len(_AYS) - 1, steps + 1)[:-1]
    sigmas = np.exp(np.interp(places, np.arange(len(_AYS)), np.log(_AYS)))
    exact = [_AYS[int(place)] if place == int(place) else float(s) for place, s in zip(places, sigmas, strict=True)]
    return [*exact, 0.0]


def lcm(steps: int, train_steps: int = 40, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> list[float]:
    """AnimateLCM-SVD's levels: every so many of the rho = 7 ramp over the steps that it was trained with.

    Raises:
        InputError: more steps than it was trained with.
    """
    _check(sigma_min, sigma_max)
    if steps > train_steps:
        raise InputError(f"The lcm schedule has {train_steps} levels at most, {steps} were asked for.")
    places = np.arange(steps) * (train_steps // steps) / (train_steps - 1)
    high, low = sigma_max ** (1 / RHO), sigma_min ** (1 / RHO)
    sigmas = [float(sigma) for sigma in (high + places * (low - high)) ** RHO]
    return [float(sigma_max), *sigmas[1:], 0.0]
