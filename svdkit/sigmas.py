"""Noise levels: the checks that every list passes, and the schedule that Stable Video Diffusion was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, SigmasError

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7.0
LARGEST = 1e100
"""Larger numbers could not be squared."""


def validate_sigmas(sigmas: Sequence[float] | npt.NDArray[Any], *, to_zero: bool = True) -> tuple[float, ...]:
    """A caller's noise levels, verbatim, ending in the 0 that stands for no noise.

    Args:
        sigmas: strictly descending and positive; the final 0 may be left out.
        to_zero: whether to add the 0 if it is not there.

    Raises:
        SigmasError: with the index and the value that are wrong.
    """
    if isinstance(sigmas, (str, bytes)) or not hasattr(sigmas, "__len__") or getattr(sigmas, "shape", None) == ():
        raise SigmasError(f"sigmas is {sigmas!r}, expected a list of descending numbers.")
    if len(sigmas) == 0:
        raise SigmasError("sigmas is empty, expected at least one positive noise level.")
    values: list[float] = []
    for i, value in enumerate(sigmas):
        try:
            sigma = float(value)
        except (TypeError, ValueError, OverflowError):
            raise SigmasError(f"sigmas[{i}] is {value!r}, expected a number.") from None
        if not abs(sigma) <= LARGEST:
            raise SigmasError(f"sigmas[{i}] is {sigma}, expected a finite number of at most {LARGEST:g}.")
        if sigma < 0 or (sigma == 0 and i < len(sigmas) - 1):
            raise SigmasError(f"sigmas[{i}] is {sigma:g}, expected a positive number; only the last may be 0.")
        if values and sigma >= values[-1]:
            raise SigmasError(
                f"sigmas[{i}] is {sigma:g}, which is not below sigmas[{i - 1}] = {values[-1]:g}; noise levels descend."
            )
        values.append(sigma)
    if to_zero and values[-1] > 0:
        values.append(0.0)
    if len(values) < 2:
        raise SigmasError(f"sigmas is {values}, expected a positive noise level and one to step to.")
    return tuple(values)


def check_steps(steps: int) -> int:
    """A number of denoising steps, checked.

    Raises:
        InputError: it is not a positive whole number.
    """
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise InputError(f"num_inference_steps is {steps!r}, expected a positive whole number; 25 is usual.")
    return int(steps)


def karras(steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO) -> list[float]:
    """Noise levels whose `1 / rho`-th powers are evenly spaced (arXiv:2206.00364, equation 5), then 0.

    Args:
        steps: how many, not counting the final 0.
        sigma_min, sigma_max: the last and the first of them.
        rho: larger values take smaller steps near `sigma_min`.

    Raises:
        InputError: rho is 0.
    """
    if rho == 0:
        raise InputError("rho is 0, expected a positive number; 7 is usual.")
    ramp = (np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps) ** rho).tolist()
    # The ends as they were given: the powers miss them by a digit.
    return [float(sigma_max), *ramp[1:-1], *[float(sigma_min)] * (steps > 1), 0.0]
