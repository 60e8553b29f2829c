"""Denoisers whose probability-flow ODE is solved in closed form, and the checks that every solver must pass on them.

Checks are plain functions that raise AssertionError, so that planted mistakes can be shown to be caught by them.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen
from scipy.optimize import brentq
from scipy.special import ndtr

from svdkit.arrays import like, to_host
from svdkit.sampling import sample
from svdkit.sigmas import karras
from svdkit.testing.problems import Gaussian, Strict


@frozen(eq=False)
class Mixture:
    """Independent coordinates, each of two normal components; arrays of shape (2, coordinates)."""

    weight: np.ndarray
    mean: np.ndarray
    spread: np.ndarray

    def denoise(self, x, sigma):
        variance = self.spread**2 + sigma**2
        logs = np.log(self.weight) - (x - self.mean) ** 2 / (2 * variance) - np.log(variance) / 2
        share = np.exp(logs - logs.max(axis=0))
        share /= share.sum(axis=0)
        return (share * (x * self.spread**2 + self.mean * sigma**2) / variance).sum(axis=0)

    def start(self, sigma):
        """Points over the middle nine tenths of the noisy distribution."""
        return np.linspace(-1.7, 1.8, self.mean.shape[1]) * math.sqrt(sigma**2 + 2)

    def solution(self, x, sigma, end):
        """The ODE keeps each coordinate's quantile: F_end(y) = F_sigma(x), solved to rounding."""
        return np.array([self._moved(j, float(x[j]), sigma, end) for j in range(len(x))])

    def _moved(self, j, x, sigma, end):
        def tail(y, level, sign):
            z = sign * (y - self.mean[:, j]) / np.sqrt(self.spread[:, j] ** 2 + level**2)
            return float(self.weight[:, j] @ ndtr(z))

        sign = 1 if tail(x, sigma, 1) < 0.5 else -1  # from the nearer end, where floats resolve it
        reach = 10 * math.sqrt(self.spread.max() ** 2 + end**2)
        low, high = self.mean[:, j].min() - reach, self.mean[:, j].max() + reach
        quantile = tail(x, sigma, sign)
        return brentq(lambda y: tail(y, end, sign) / quantile - 1, low, high, xtol=1e-15, rtol=1e-14)


def _problems():
    rng, coordinates = np.random.default_rng(5), 16
    gaussian = Gaussian(rng.uniform(-1, 1, coordinates), rng.uniform(0.5, 1.5, coordinates))
    weight = rng.uniform(0.3, 0.7, coordinates)
    mean = np.stack([rng.uniform(-2, -1, coordinates), rng.uniform(1, 2, coordinates)])
    return gaussian, Mixture(np.stack([weight, 1 - weight]), mean, rng.uniform(0.5, 1, (2, coordinates)))


GAUSSIAN, MIXTURE = PROBLEMS = _problems()


@functools.cache
def exact(problem, sigma, end):
    """Where the problem's start at sigma has gone by `end`."""
    return problem.solution(problem.start(sigma), sigma, end)


def grid(name: str, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
    """Levels for convergence: `karras`, `exponential`, or `user`, a random list.

    A finer user list has the same random proportions of 8 neighbouring steps more often. Lists that are all random
    anew would have errors of another size each, and no order could be read off them.
    """
    if name == "karras":
        levels = karras(steps + 1, sigma_min, sigma_max)[:-1]
    else:
        proportions = np.random.default_rng(1).uniform(0.5, 1.5, 8) if name == "user" else np.ones(8)
        places = np.concatenate([[0], np.cumsum(np.tile(proportions, steps // 8))])
        levels = (sigma_max * (sigma_min / sigma_max) ** (places / places[-1])).tolist()
    return [sigma_max, *levels[1:-1], sigma_min]


def _geometric(sigma, end):
    return math.sqrt(sigma * end)


RUNGS = (16, 32, 64, 128, 256)


@frozen
class Case:
    """What theory says of a solver without noise."""

    order: int
    evaluations: int = 1
    """Of a step that does not end at 0."""
    second: Callable[[float, float], float] | None = None
    """The level of a step's second evaluation."""
    sigma_max: float = 5.0
    """Where the order is measured from, down to 1."""
    on_user: int | None = None
    """The order on irregular steps, if it is another."""
    least: int = RUNGS[0]
    """Evaluations from which on the order is read off."""


_CORRECTED = 300.0
_HEUN, _MIDDLE = Case(2, 2, lambda sigma, end: end), Case(2, 2, _geometric)

DETERMINISTIC: dict[str, Case] = {
    "euler": Case(1),
    "euler_ancestral:eta=0": Case(1),
    "ddim": Case(1),
    "heun": _HEUN,
    "edm_stochastic:s_churn=0": _HEUN,
    "dpm_2": _MIDDLE,
    "dpm_2_ancestral:eta=0": _MIDDLE,
    "dpmpp_2s_ancestral:eta=0": _MIDDLE,
    "dpmpp_sde:eta=0": _MIDDLE,
    "dpmpp_sde:eta=0,r=0.3": Case(2, 2, lambda sigma, end: sigma * (end / sigma) ** 0.3),
    "dpmpp_sde:eta=0,r=1": _HEUN,
    # Adams-Bashforth with the weights of the true steps: the order is the number of slopes.
    **{f"lms:order={order}": Case(order) for order in (1, 2, 3, 5)},
    "lms": Case(4),
    "lms:order=6": Case(6, sigma_max=20.0, least=32),  # at 16 a third of the steps is the exact start
    **{f"deis:order={order}": Case(order) for order in (1, 2, 4)},
    "deis": Case(3),
    # The published weights are those of even steps. Where neighbouring steps differ by O(h), they are right to second
    # order whatever `order` is; where they differ by a constant factor, to first.
    "ipndm:order=2": Case(2, on_user=1),
    "ipndm:order=3": Case(2, on_user=1),
    "ipndm": Case(2, on_user=1),
    "dpmpp_2m": Case(2),
    "dpmpp_2m_sde:eta=0": Case(2),
    "dpmpp_2m_sde:eta=0,solver_type=heun": Case(2),
    "dpmpp_3m_sde:eta=0": Case(2),  # its quadratic term has half its weight, see its docstring
    "res_multistep": Case(2),
    # A corrector of as many points as its predictor's and the one ahead adds one to the order.
    "unipc": Case(3, sigma_max=_CORRECTED),
    "unipc:variant=bh1": Case(3, sigma_max=_CORRECTED),
    "unipc:order=1": Case(2, sigma_max=_CORRECTED),
    "unipc:order=3": Case(4, sigma_max=_CORRECTED),
    "unipc:order=3,variant=bh1": Case(4, sigma_max=_CORRECTED),
    "sa_solver:tau=0": Case(4, sigma_max=_CORRECTED),
    "sa_solver:tau=0,predictor_order=2,corrector_order=3": Case(3, sigma_max=_CORRECTED),
    **{f"sa_solver:tau=0,predictor_order={n},corrector_order=0": Case(n) for n in (1, 2, 3, 4)},
}
STOCHASTIC: dict[str, int] = {  # and evaluations of a step that does not end at 0
    "euler_ancestral": 1,
    "euler_ancestral:eta=0.5": 1,
    "ddim:eta=1": 1,
    "dpm_2_ancestral": 2,
    "dpmpp_2s_ancestral": 2,
    "dpmpp_sde": 2,
    "dpmpp_sde:eta=0.5,r=0.3": 2,
    "dpmpp_2m_sde": 1,
    "dpmpp_2m_sde:eta=0.5,solver_type=heun": 1,
    "dpmpp_3m_sde": 1,
    "sa_solver": 1,
    "sa_solver:tau=0.4,tau_min=0.05,tau_max=5": 1,
    "edm_stochastic": 2,
    "lcm": 1,
}
HEAD = 5
LEVELS = (700.0, 54.5, 9.0, 4.2, 1.8, 0.4, 0.04, 0.0)
"""The last step begins below edm_stochastic's s_tmin: churn would otherwise draw noise in it, as published."""


def raising(step: int, draw: int):
    raise AssertionError(f"noise was drawn in step {step}")


def injected(step: int, draw: int, size: int = 16):
    return np.random.default_rng([step, draw]).standard_normal(size)


# What a solver computes


def observed_order(solver, case: Case, name: str) -> float:
    """The slope of log error over log evaluations, 16 to 256, both problems taken together.

    It ends at 1, since the step to 0 is of first order by construction. A multistep method begins with steps of lower
    order, whose error would be all that one sees: the callback puts the first few points on the exact trajectory.
    Predictor-correctors remember the points themselves, so this does not help them; they begin at a level so high
    that x0 does not depend on x, and the first steps are exact.
    """
    errors = []
    for evaluations in RUNGS:
        levels = grid(name, evaluations // case.evaluations, case.sigma_max, 1.0)
        squares = []
        for problem in PROBLEMS:

            def exactly(i, sigma, x, problem=problem):
                return exact(problem, case.sigma_max, sigma) if i < HEAD and case.evaluations == 1 else None

            start = problem.start(levels[0])
            run = sample(
                problem.denoise, start, sigmas=levels, scheduler=solver, noise=raising, to_zero=False, callback=exactly
            )
            assert run.nfe == evaluations
            squares.append(np.mean((run.x - exact(problem, levels[0], 1.0)) ** 2))
        errors.append(math.sqrt(np.mean(squares)))
    # Rounding is about 1e-13.
    used = np.log([(n, e) for n, e in zip(RUNGS, errors, strict=True) if n >= case.least and e > 1e-11])
    return -float(np.polyfit(used[:, 0], used[:, 1], 1)[0])


def check_order(solver, case: Case, grids: Sequence[str] = ("karras", "exponential", "user")) -> None:
    for name in grids:
        order = case.on_user if name == "user" and case.on_user else case.order
        observed = observed_order(solver, case, name)
        assert abs(observed - order) < 0.3, f"observed order {observed:.2f} on {name}, expected {order}"


def check_end_point(solver, evaluations: int = 1) -> None:
    """Over SVD's own levels to 0 the error falls at least as that of a first-order method does, to what is small.

    What the step from 0.002 to 0 leaves is about 1e-6: half its square times the curvature of trajectories.
    """
    for problem in PROBLEMS:
        start, true = problem.start(700.0), exact(problem, 700.0, 0.0)
        errors = []
        for n in (64, 256):
            run = sample(problem.denoise, start, sigmas=karras(n // evaluations), scheduler=solver, noise=raising)
            errors.append(np.sqrt(np.mean((run.x - true) ** 2)))
        assert errors[1] < max(errors[0] / 3, 1e-5), f"errors {errors}"
        assert errors[1] < 0.05, f"errors {errors}"


def check_point(solver, sigmas: Sequence[float] = LEVELS) -> None:
    """Data that is a single point: x0 is known, so each step of a solver without noise is exact to rounding."""
    point, levels = np.linspace(-1, 1, 16), tuple(sigmas)
    start = point + levels[0] * injected(0, 0)

    def on_line(i, sigma, x):
        expected = point + (start - point) * (sigma / levels[0])
        # Rounding is of the size of x before the step; ipndm, whose weights do not know the steps, adds up to 4e-12.
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-11 * levels[i], err_msg=f"after step {i}")

    run = sample(
        lambda x, sigma: point + 0 * x, start, sigmas=levels, scheduler=solver, noise=raising, callback=on_line
    )
    assert run.sigmas == levels


def check_point_reached(solver) -> None:
    """The same, with noise: it has gone by the end."""
    point = np.linspace(-1, 1, 16)
    run = sample(
        lambda x, sigma: point + 0 * x, LEVELS[0] * injected(9, 9), sigmas=LEVELS, scheduler=solver, noise=injected
    )
    np.testing.assert_allclose(run.x, point, rtol=0, atol=1e-13)


def moments(solver, sigmas: Sequence[float], denoise, mean: float, deviation: float) -> tuple[float, float]:
    """Mean and variance of what a solver makes of normal noise with a linear denoiser, exactly.

    Coordinates are the answers to one source of chance each: none, the start, each draw of each step.
    """
    size = 2 + 2 * len(sigmas)
    start = np.full(size, mean)
    start[1] += deviation

    def one_hot(step, draw):
        assert draw < 2
        return np.eye(size)[2 + 2 * step + draw]

    x = sample(denoise, start, sigmas=sigmas, scheduler=solver, noise=one_hot).x
    return float(x[0]), float(np.sum((x[1:] - x[0]) ** 2))


MEAN, SPREAD, TOP = 0.7, 0.6, 80.0
_NORMAL = Gaussian(np.float64(MEAN), np.float64(SPREAD))


def denoiser_of(solver):
    """Of a normal distribution; a consistency model's x0 is the end of the trajectory, not an average."""
    if hasattr(solver, "sigma_schedule"):
        return lambda x, sigma: _NORMAL.solution(x, sigma, 0.0)
    return _NORMAL.denoise


def check_moments(solver) -> None:
    """Mean and variance approach those of the data at least as those of a first-order method do."""
    errors = []
    for n in (64, 256):
        mean, variance = moments(solver, karras(n, 0.002, TOP), denoiser_of(solver), MEAN, math.hypot(SPREAD, TOP))
        assert abs(mean - MEAN) < 1e-3, f"mean {mean} at {n} steps"
        errors.append(abs(variance / SPREAD**2 - 1))
    assert errors[1] < max(errors[0] / 3, 1e-3), f"errors of the variance {errors}"
    assert errors[1] < 0.06, f"errors of the variance {errors}"


def check_monte_carlo(solver) -> None:
    """With noise from a seed, mean and variance are those computed exactly, within 4.5 standard errors."""
    n, levels = 50_000, karras(16, 0.002, TOP)
    start = np.random.default_rng(0).normal(MEAN, math.hypot(SPREAD, TOP), n)
    x = sample(denoiser_of(solver), start, sigmas=levels, scheduler=solver, seed=3).x
    mean, variance = moments(solver, levels, denoiser_of(solver), MEAN, math.hypot(SPREAD, TOP))
    assert abs(x.mean() - mean) < 4.5 * math.sqrt(variance / n)
    assert abs(x.var() / variance - 1) < 4.5 * math.sqrt(2 / n)


# How a solver behaves


def check_levels(solver, sigmas: Sequence[float] = LEVELS, to_zero: bool = True, second=None) -> None:
    """The denoiser is asked at exactly the levels that were given, and where the method says within a step."""
    called = []

    def denoise(x, sigma):
        assert type(sigma) is float
        called.append(sigma)
        return GAUSSIAN.denoise(x, sigma)

    run = sample(denoise, GAUSSIAN.start(sigmas[0]), sigmas=sigmas, scheduler=solver, noise=injected, to_zero=to_zero)
    verbatim = (*sigmas, 0.0) if to_zero and sigmas[-1] > 0 else tuple(sigmas)
    assert run.sigmas == verbatim
    expected = []
    for sigma, end in itertools.pairwise(verbatim):
        expected += [sigma, second(sigma, end)] if second and end > 0 else [sigma]
    if second:
        np.testing.assert_allclose(called, expected, rtol=1e-15)
    else:
        assert called == expected
    assert run.nfe == len(called)


def check_deterministic(solver) -> None:
    sample(GAUSSIAN.denoise, GAUSSIAN.start(LEVELS[0]), sigmas=LEVELS, scheduler=solver, noise=raising)


def check_draws(solver) -> None:
    """Draws of a step are numbered from 0, each is used once, and none is made in the step to 0."""
    drawn: list[tuple[int, int]] = []

    def noise(step, draw):
        drawn.append((step, draw))
        return injected(step, draw)

    sample(GAUSSIAN.denoise, GAUSSIAN.start(LEVELS[0]), sigmas=LEVELS, scheduler=solver, noise=noise)
    assert drawn, "no noise was drawn"
    assert len(set(drawn)) == len(drawn)
    for step, draw in drawn:
        assert draw == 0 or (step, draw - 1) in drawn
        assert step < len(LEVELS) - 2


def stepwise(solver, x, sigmas=LEVELS, steps=None, history=None, start=0):
    """Runs one step at a time, handing over what a saved run would hold."""
    for i in range(start, len(sigmas) - 1 if steps is None else start + steps):
        run = sample(
            MIXTURE.denoise, x, sigmas=sigmas, scheduler=solver, start=i, stop=i + 1, history=history, noise=injected
        )
        assert run.step == i + 1
        x, history = pickle.loads(pickle.dumps((run.x, run.history)))
        yield x, history


def check_continues(solver) -> None:
    """Stopped after any number of steps, saved, and continued, a run ends as it would have."""
    levels = solver.levels(LEVELS) if hasattr(solver, "levels") else LEVELS
    start = MIXTURE.start(LEVELS[0])
    options: dict[str, Any] = {"sigmas": LEVELS, "scheduler": solver, "seed": 11}
    whole = sample(MIXTURE.denoise, start, **options)
    for k in range(len(levels)):
        first = sample(MIXTURE.denoise, start, stop=k, **options)
        saved = pickle.loads(pickle.dumps({"x": first.x, "start": first.step, "history": first.history}))
        rest = sample(MIXTURE.denoise, **saved, **options)
        np.testing.assert_array_equal(rest.x, whole.x, err_msg=f"stopped after {k} steps")
        assert first.nfe + rest.nfe == whole.nfe
        assert rest.step == whole.step


def check_interleaved(solver) -> None:
    """Two runs that take turns with one solver end as they do alone."""
    levels = solver.levels(LEVELS) if hasattr(solver, "levels") else LEVELS
    starts = [MIXTURE.start(LEVELS[0]), -2 * MIXTURE.start(LEVELS[0]) + 1]
    alone = [list(stepwise(copy.deepcopy(solver), x, levels))[-1][0] for x in starts]
    together = list(zip(*(stepwise(solver, x, levels) for x in starts), strict=True))[-1]
    for (x, _), expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(x, expected)


def check_not_in_place(solver) -> None:
    """Neither x, nor what the denoiser and the noise return, is written to."""
    kept: list[tuple[np.ndarray, np.ndarray]] = []

    def keep(x):
        kept.append((x, x.copy()))
        return x

    start = MIXTURE.start(LEVELS[0])
    sample(
        lambda x, sigma: keep(MIXTURE.denoise(keep(x), sigma)),
        keep(start),
        sigmas=LEVELS,
        scheduler=solver,
        noise=lambda step, draw: keep(injected(step, draw)),
        callback=lambda i, sigma, x: keep(x),
    )
    for array, before in kept:
        np.testing.assert_array_equal(array, before)


class OnHost(Strict):
    """The same, of a framework that can hand its values to the host."""

    def asnumpy(self):
        return self.values


def check_arithmetic(solver, array=Strict) -> None:
    run = sample(
        lambda x, sigma: array(MIXTURE.denoise(x.values, sigma)),
        array(MIXTURE.start(LEVELS[0])),
        sigmas=LEVELS,
        scheduler=solver,
        noise=lambda step, draw: array(injected(step, draw)),
    )
    assert isinstance(run.x, array)


def check_framework(solver, make: Callable[[np.ndarray], Any], tolerance: float = 5e-5) -> None:
    """float32 arrays of another framework stay what they are, and agree with NumPy's in float64.

    By the default tolerance: the steps begin at 700, where float32 resolves 3e-5, and then contract; measured 1.2e-5.
    """

    def denoise(x, sigma):
        return like(MIXTURE.denoise(to_host(x).astype(np.float64), sigma), x)

    start = MIXTURE.start(LEVELS[0])
    options: dict[str, Any] = {"sigmas": LEVELS, "scheduler": solver, "seed": 5}
    x = make(start.astype(np.float32))
    run, expected = sample(denoise, x, **options), sample(denoise, start, **options)
    assert type(run.x) is type(x)
    assert run.x.dtype == x.dtype
    assert run.nfe == expected.nfe
    np.testing.assert_allclose(to_host(run.x), expected.x, rtol=tolerance, atol=tolerance)
