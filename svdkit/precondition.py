"""EDM preconditioning of a v-prediction network, with sigma_data = 1 (arXiv:2206.00364, section 5)."""

from __future__ import annotations

import math
from typing import NamedTuple


class Scalings(NamedTuple):
    """`x0 = c_skip * x + c_out * F(c_in * x, c_noise)`."""

    c_skip: float
    c_out: float
    c_in: float
    c_noise: float


def scalings(sigma: float) -> Scalings:
    """The four coefficients at one noise level `sigma > 0`, in float64."""
    variance = sigma * sigma + 1
    return Scalings(
        c_skip=1 / variance,
        c_out=-sigma / math.sqrt(variance),
        c_in=1 / math.sqrt(variance),
        c_noise=0.25 * math.log(sigma),
    )
