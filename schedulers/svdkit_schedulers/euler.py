"""First-order methods: Euler's, its ancestral form, DDIM, and the consistency step of LCM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from attrs import frozen

from svdkit.backend import Array
from svdkit.interfaces import Denoiser, Noise

from .common import ancestral, euler, non_negative, with_noise


@frozen
class Euler:
    """`x + (sigma' - sigma) * (x - x0) / sigma`, which is `x0 + (x - x0) * sigma' / sigma`.

    The probability-flow ODE by Euler's method (arXiv:2206.00364, algorithm 1 without its correction).
    """

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation, no history."""
        return euler(x, denoise(x, sigmas[i]), sigmas[i], sigmas[i + 1]), None


@frozen
class EulerAncestral:
    """Euler's step to below the next noise level, then noise up to it.

    Args:
        eta: 0 for none of the noise, 1 for as much as DDPM adds (arXiv:2010.02502, equation 16).
        s_noise: scale of the noise.
    """

    eta: float = non_negative(1.0)
    s_noise: float = non_negative(1.0)

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation, no history."""
        down, up = ancestral(sigmas[i], sigmas[i + 1], self.eta)
        x = euler(x, denoise(x, sigmas[i]), sigmas[i], down)
        return with_noise(x, up * self.s_noise, noise), None


@frozen
class DDIM(EulerAncestral):
    """DDIM (arXiv:2010.02502, equation 12), which in these coordinates is the ancestral Euler step with its eta.

    Args:
        eta: 0, the default, is deterministic and equals `euler`; 1 is DDPM.
        s_noise: scale of the noise.
    """

    eta: float = non_negative(0.0)


@frozen
class LCM:
    """`x0 + sigma' * noise`: the multistep sampling of a consistency model (arXiv:2303.01469, algorithm 1).

    For AnimateLCM-SVD, whose noise levels it asks for by default (arXiv:2402.00769).
    """

    sigma_schedule: ClassVar[str] = "lcm"

    def step(
        self, denoise: Denoiser, x: Array, i: int, sigmas: Sequence[float], history: Any, noise: Noise
    ) -> tuple[Array, Any]:
        """One evaluation, no history."""
        x0 = denoise(x, sigmas[i])
        return (x0 + noise(0) * sigmas[i + 1] if sigmas[i + 1] > 0 else x0), None
