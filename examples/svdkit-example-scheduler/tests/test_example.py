"""What the author of a scheduler and of a sigma schedule should know of them. Run where both are installed."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from svdkit_example_scheduler.rk2 import RK2

import svdkit
from svdkit.errors import InputError

X = np.array([-14.0, 3.0, 8.0])


def denoise(x: Any, sigma: float) -> Any:
    """The exact denoiser of data that are normal with standard deviation 1."""
    return x / (1 + sigma**2)


def error(scheduler: Any, steps: int) -> float:
    """How far from the exact end the scheduler arrives, from level 8 to level 0.5."""
    sigmas = svdkit.sigma_schedule("exponential", steps + 1, sigma_min=0.5, sigma_max=8.0)[:-1]
    result = svdkit.sample(denoise, X, sigmas=sigmas, scheduler=scheduler, to_zero=False)
    exact = X * math.sqrt((1 + sigmas[-1] ** 2) / (1 + sigmas[0] ** 2))
    return float(np.abs(result.x - exact).max())


@pytest.mark.parametrize(("alpha", "order"), [(0.25, 2), (0.5, 3), (2 / 3, 2), (1.0, 2)])
def test_order(alpha: float, order: int) -> None:
    """Twice the steps make a quarter of the error, or less: on normal data the midpoint rule gains an order."""
    orders = [math.log2(error(RK2(alpha), n) / error(RK2(alpha), 2 * n)) for n in (64, 128, 256)]
    assert orders == pytest.approx([order] * 3, abs=0.15)


def test_alpha_1_is_heun() -> None:
    """An independent reference for one of the family."""
    sigmas = svdkit.sigma_schedule("karras", 12)
    ours, heun = (svdkit.sample(denoise, X, sigmas=sigmas, scheduler=s) for s in ("rk2:alpha=1", "heun"))
    np.testing.assert_allclose(ours.x, heun.x, rtol=1e-9)
    assert ours.nfe == heun.nfe == 23  # one evaluation for the step to 0


def test_ends_at_the_sample() -> None:
    """The step to 0 from a small level loses next to nothing."""
    result = svdkit.sample(denoise, X, sigmas=svdkit.sigma_schedule("karras", 100, sigma_max=10.0), scheduler="rk2")
    np.testing.assert_allclose(result.x, X / math.sqrt(1 + 10.0**2), rtol=1e-3)


@pytest.mark.parametrize("alpha", ["0", "-1", "1.5", "nan", "large"])
def test_alpha_out_of_range(alpha: str) -> None:
    """Refused before anything is computed, with the option's name."""
    with pytest.raises(InputError, match=r"rk2.*alpha"):
        svdkit.sample(denoise, X, sigmas=[2.0, 1.0], scheduler=f"rk2:alpha={alpha}")


def test_levels_are_quantiles() -> None:
    """The same probability lies between any two neighbours."""
    *levels, zero = svdkit.sigma_schedule("lognormal", 9, sigma_min=0.01, sigma_max=50.0, mean=-0.5, std=1.5)
    assert (levels[0], levels[-1], zero) == (50.0, 0.01, 0.0)
    shares = -np.diff([NormalDist(-0.5, 1.5).cdf(math.log(level)) for level in levels])
    np.testing.assert_allclose(shares, shares[0], rtol=1e-9)


def test_levels_are_near_align_your_steps() -> None:
    """The published table, within a third; svdkit leaves out the last of its 11 levels."""
    np.testing.assert_allclose(
        svdkit.sigma_schedule("lognormal", 11)[:10], svdkit.sigma_schedule("ays", 10)[:10], rtol=1 / 3
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_any_number_of_levels(steps: int) -> None:
    """One too, which is the first."""
    levels = svdkit.sigma_schedule("lognormal", steps)
    assert (len(levels), levels[0], levels[-1]) == (steps + 1, 700.0, 0.0)


@pytest.mark.parametrize("options", [{"std": 0}, {"std": math.nan}, {"sigma_min": 0}, {"sigma_min": 2, "sigma_max": 1}])
def test_lognormal_out_of_range(options: dict[str, float]) -> None:
    """Refused, with the value and what was expected."""
    with pytest.raises(InputError, match=r"'lognormal' does not take .* expected"):
        svdkit.sigma_schedule("lognormal", 5, **options)
