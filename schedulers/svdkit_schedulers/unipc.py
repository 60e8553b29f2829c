"""UniPC: a predictor and a corrector of one form; the corrector costs no evaluation (arXiv:2302.04867)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from attrs import field, frozen, validators

from svdkit.backend import Array
from svdkit.interfaces import Denoiser, Noise

from .common import euler, order, weighted_sum


@frozen
class UniPC:
    """Each step is predicted, and corrected once the next x0 is known (arXiv:2302.04867).

    Of order `order + 1`, or 3 where the steps that it starts with, of lower order, matter.

    History is what the last step began with, x before it, what it predicted, and past x0, newest first.

    Args:
        order: points of the predictor's polynomial, once there are as many.
        variant: `bh1` or `bh2`, the function B(h) of equation 5.
    """

    order: int = order(2, 3)
    variant: Literal["bh1", "bh2"] = field(default="bh2", validator=validators.in_(("bh1", "bh2")))

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation. What a callback has changed of the prediction stays changed."""
        x0 = denoise(x, sigmas[i])
        before, predicted, past = history or (None, None, ())
        if before is not None:
            x = self._move(before, past, sigmas, i - 1, x0) + (x - predicted)
        x0s = (x0, *past)[: self.order]
        y = x0 if sigmas[i + 1] == 0 else self._move(x, x0s, sigmas, i, None)
        return y, (x, y, x0s)

    def _move(self, x: Array, x0s: Sequence[Array], sigmas: Sequence[float], i: int, ahead: Array | None) -> Array:
        """From `sigmas[i]` to the next with x0s at `sigmas[i]` and before, and, to correct, the one ahead."""
        h = math.log(sigmas[i] / sigmas[i + 1])
        places = [-math.log(sigmas[i - k] / sigmas[i]) / h for k in range(1, len(x0s))]
        differences = [(past - x0s[0]) * (1 / r) for past, r in zip(x0s[1:], places, strict=True)]
        if ahead is not None:
            places.append(1.0)
            differences.append(ahead - x0s[0])
        y = euler(x, x0s[0], sigmas[i], sigmas[i + 1])
        if not places:
            return y
        scale = -h if self.variant == "bh1" else math.expm1(-h)
        weights = self._weights(places, h, scale)
        return y - weighted_sum([w * scale for w in weights], differences)

    @staticmethod
    def _weights(places: Sequence[float], h: float, scale: float) -> list[float]:
        """Solves equation 5: powers of the places against phi functions."""
        if len(places) == 1:
            return [0.5]  # what the system tends to for short steps; the authors' choice
        phi = math.expm1(-h) / -h - 1
        factorial, right = 1, []
        for k in range(1, len(places) + 1):
            right.append(phi * factorial / scale)
            factorial *= k + 1
            phi = phi / -h - 1 / factorial
        powers = np.vander(places, increasing=True).T
        return [float(w) for w in np.linalg.solve(powers, right)]
