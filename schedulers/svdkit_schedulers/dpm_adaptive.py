"""DPM-Solver with steps of its own choosing (arXiv:2206.00927, appendix C)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import field, frozen, validators

from svdkit.arrays import to_host
from svdkit.backend import Array
from svdkit.errors import NumericalError
from svdkit.interfaces import Denoiser, Noise

from .common import non_negative, slope


@frozen
class DPMAdaptive:
    """Two solutions of neighbouring orders are compared, and the step follows their difference (arXiv:2206.00927).

    Of the noise levels only the first and the last positive one are used; a final 0 takes one evaluation more.

    Args:
        order: 2 or 3, of the better solution; evaluations of each step tried.
        rtol, atol: relative and absolute tolerance of a step.
        h_init: the first step in log sigma.
        pcoeff, icoeff, dcoeff: of the PID controller of the step.
        accept_safety: a step is taken again if it should have been shorter than this part of itself.
        error_floor: added to the error, in units of the tolerance. Much smaller errors are rounding in float32, by
            which no two frameworks agree, and would choose the step by it: at 1e-2 backends end 5e-6 apart, at 1e-3
            1e-4, and at 1e-8, which k-diffusion has, 1e-3.
    """

    order: int = field(default=3, validator=validators.in_((2, 3)))
    rtol: float = non_negative(0.05)
    atol: float = field(default=0.0078, converter=float, validator=validators.gt(0))
    h_init: float = field(default=0.05, converter=float, validator=validators.gt(0))
    pcoeff: float = non_negative(0.0)
    icoeff: float = non_negative(1.0)
    dcoeff: float = non_negative(0.0)
    accept_safety: float = field(default=0.81, converter=float, validator=[validators.ge(0), validators.le(1)])
    error_floor: float = field(default=1e-2, converter=float, validator=validators.gt(0))

    def levels(self, sigmas: Sequence[float]) -> list[float]:
        """The range of the noise levels, and the final 0 if they have one."""
        positive = [sigma for sigma in sigmas if sigma > 0]
        return [positive[0], *positive[1:][-1:], *[0.0] * (sigmas[-1] == 0)]

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """As many evaluations as it takes, from one level to the other; no history.

        Raises:
            NumericalError: no step meets the tolerances.
        """
        if sigmas[i + 1] == 0:
            return denoise(x, sigmas[i]), None
        t, t_end = -math.log(sigmas[i]), -math.log(sigmas[i + 1])
        gains = (
            (self.pcoeff + self.icoeff + self.dcoeff) / self.order,
            -(self.pcoeff + 2 * self.dcoeff) / self.order,
            self.dcoeff / self.order,
        )
        h, previous = self.h_init, x
        errors: list[float] = []
        while t < t_end - 1e-5:
            t_next = min(t_end, t + h)
            low, high = self._pair(denoise, x, t, t_next)
            error = self._error(low, high, previous)
            if math.isnan(error):  # the denoiser's, and no shorter step would mend it
                return high, None
            inverse = 1 / (error + self.error_floor)
            errors = [inverse, *errors[1:]] if errors else [inverse] * 3
            factor = 1 + math.atan(math.prod(e**g for e, g in zip(errors, gains, strict=True)) - 1)
            h *= factor
            if t + h == t:
                raise NumericalError(
                    f"No step from sigma {math.exp(-t):g} is short enough for rtol={self.rtol:g} and "
                    f"atol={self.atol:g}. Give dpm_adaptive a larger tolerance."
                )
            if factor >= self.accept_safety:
                errors = [errors[0], errors[0], errors[1]]
                previous, x, t = low, high, t_next
        return x, None

    def _error(self, low: Array, high: Array, previous: Array) -> float:
        """Root mean square of the difference, in units of the tolerance."""
        a, b, before = (to_host(y).astype(np.float64) for y in (low, high, previous))
        allowed = np.maximum(self.atol, self.rtol * np.maximum(np.abs(a), np.abs(before)))
        return float(np.sqrt(np.mean(((a - b) / allowed) ** 2)))

    def _pair(self, denoise: Denoiser, x: Array, t: float, t_next: float) -> tuple[Array, Array]:
        """Solutions of order - 1 and order, on the noise prediction, which they share."""
        h, end = t_next - t, math.exp(-t_next)

        def predicted(y: Array, s: float) -> Array:
            return slope(y, denoise(y, math.exp(-s)), math.exp(-s))

        here = predicted(x, t)
        plain = x - here * (end * math.expm1(h))
        r = 1 / 2 if self.order == 2 else 1 / 3
        u = x - here * (math.exp(-t - r * h) * math.expm1(r * h))
        bend = predicted(u, t + r * h) - here
        second = plain - bend * (end * math.expm1(h) / (2 * r))
        if self.order == 2:
            return plain, second
        r2 = 2 / 3
        level = math.exp(-t - r2 * h)
        u = x - here * (level * math.expm1(r2 * h)) - bend * (level * r2 / r * (math.expm1(r2 * h) / (r2 * h) - 1))
        bend = predicted(u, t + r2 * h) - here
        return second, plain - bend * (end / r2 * (math.expm1(h) / h - 1))
