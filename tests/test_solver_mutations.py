"""Planted mistakes: each is caught by the checks that the solvers pass in test_solvers.py."""

from __future__ import annotations

import functools
import math

import exact_problems as ep
import numpy as np
import pytest
from attrs import frozen

from svdkit.sampling import get_scheduler
from svdkit_schedulers import dpm_solver, euler, multistep, second_order
from svdkit_schedulers.common import slope, weighted_sum


@frozen
class Wrapped:
    """A solver that is told something else than the truth."""

    solver: object

    def step(self, denoise, x, i, sigmas, history, noise):
        return self.solver.step(denoise, x, i, sigmas, history, noise)


class OffByOne(Wrapped):
    """Steps between the levels after the right ones."""

    def step(self, denoise, x, i, sigmas, history, noise):
        return self.solver.step(denoise, x, min(i + 1, len(sigmas) - 2), sigmas, history, noise)


class EndsAtSigmaMin(Wrapped):
    """Takes the last positive level for the end."""

    def step(self, denoise, x, i, sigmas, history, noise):
        return self.solver.step(denoise, x, i, [*sigmas[:-1], sigmas[-2] * 0.999], history, noise)


class Respaced(Wrapped):
    """Puts a schedule of its own in place of the caller's levels."""

    def levels(self, sigmas):
        return [*np.geomspace(sigmas[0], 0.002, len(sigmas) - 1).tolist(), 0.0]


class SnapsLevels(Wrapped):
    """Tells the denoiser a level that went through float32."""

    def step(self, denoise, x, i, sigmas, history, noise):
        return self.solver.step(lambda x, s: denoise(x, float(np.float32(s))), x, i, sigmas, history, noise)


class ReversedHistory(Wrapped):
    """Hands over past slopes oldest first."""

    def step(self, denoise, x, i, sigmas, history, noise):
        return self.solver.step(denoise, x, i, sigmas, history and history[::-1], noise)


class InPlace(Wrapped):
    """Writes the result over x."""

    def step(self, denoise, x, i, sigmas, history, noise):
        moved, history = self.solver.step(denoise, x, i, sigmas, history, noise)
        x[:] = moved
        return x, history


class KeepsState(Wrapped):
    """Keeps its history to itself, where two runs share it."""

    memory: dict = {}  # noqa: RUF012

    def __init__(self, solver):
        super().__init__(solver)
        object.__setattr__(self, "memory", {})

    def __deepcopy__(self, memo):
        return KeepsState(self.solver)

    def step(self, denoise, x, i, sigmas, history, noise):
        x, self.memory["last"] = self.solver.step(denoise, x, i, sigmas, self.memory.get("last") if i else None, noise)
        return x, None


class ForgetsHistory(Wrapped):
    """Hands back nothing to go on with."""

    def step(self, denoise, x, i, sigmas, history, noise):
        return self.solver.step(denoise, x, i, sigmas, None, noise)[0], None


class NumpyScalars(Wrapped):
    """Computes with float64 scalars, which turn a float32 tensor into something else."""

    def step(self, denoise, x, i, sigmas, history, noise):
        x, history = self.solver.step(denoise, x, i, sigmas, history, noise)
        return x * np.float64(1.0), history


class DrawsNoise(Wrapped):
    """Draws noise that it does not use."""

    def step(self, denoise, x, i, sigmas, history, noise):
        noise(0)
        return self.solver.step(denoise, x, i, sigmas, history, noise)


class NoiseToTheEnd(Wrapped):
    """Adds noise after the last step too."""

    def step(self, denoise, x, i, sigmas, history, noise):
        x, history = self.solver.step(denoise, x, i, sigmas, history, noise)
        return (x + noise(0) * sigmas[i] if sigmas[i + 1] == 0 else x), history


class SameDraw(Wrapped):
    """Uses the first draw of a step for the second as well."""

    def step(self, denoise, x, i, sigmas, history, noise):
        return self.solver.step(denoise, x, i, sigmas, history, lambda draw: noise(0))


class Float32Coefficients:
    """Euler's step with its coefficient in single precision."""

    def step(self, denoise, x, i, sigmas, history, noise):
        return x + (x - denoise(x, sigmas[i])) * float(np.float32((sigmas[i + 1] - sigmas[i]) / sigmas[i])), None


class UnevenHeun:
    """Six tenths of the first slope and four of the second."""

    def step(self, denoise, x, i, sigmas, history, noise):
        sigma, end = sigmas[i], sigmas[i + 1]
        first = slope(x, denoise(x, sigma), sigma)
        guess = x + first * (end - sigma)
        if end == 0:
            return guess, None
        return x + (first * 0.6 + slope(guess, denoise(guess, end), end) * 0.4) * (end - sigma), None


class ArithmeticMiddle:
    """DPM-Solver-2 with the middle in sigma; the order is the same, the method is not."""

    def step(self, denoise, x, i, sigmas, history, noise):
        sigma, end = sigmas[i], sigmas[i + 1]
        first = slope(x, denoise(x, sigma), sigma)
        if end == 0:
            return x + first * (end - sigma), None
        middle = (sigma + end) / 2
        half = x + first * (middle - sigma)
        return x + slope(half, denoise(half, middle), middle) * (end - sigma), None


class WeightsOfEvenSteps(multistep.IPNDM):
    """In place of those of `lms`."""


class HalfCorrection(dpm_solver.DPMpp2M):
    """Weighs the last x0 as if the last step had been as long as this."""

    def step(self, denoise, x, i, sigmas, history, noise):
        x0 = denoise(x, sigmas[i])
        estimate = x0 if history is None or sigmas[i + 1] == 0 else x0 * 1.5 - history * 0.5
        return x + (x - estimate) * ((sigmas[i + 1] - sigmas[i]) / sigmas[i]), x0


class StaleSlope(multistep.LMS):
    """Integrates the slopes of the steps before only."""

    def step(self, denoise, x, i, sigmas, history, noise):
        slopes = (slope(x, denoise(x, sigmas[i]), sigmas[i]), *(history or ()))[:2]
        return x + weighted_sum([1.0], slopes[-1:]) * (sigmas[i + 1] - sigmas[i]), slopes


class ChurnAtTheOldLevel(second_order.EDMStochastic):
    """Adds noise, and goes on as if the level were what it was."""

    def step(self, denoise, x, i, sigmas, history, noise):
        sigma = sigmas[i]
        if self.s_churn > 0 and self.s_tmin <= sigma <= self.s_tmax:
            raised = sigma * (1 + min(self.s_churn / (len(sigmas) - 1), math.sqrt(2) - 1))
            x = x + noise(0) * math.sqrt(raised**2 - sigma**2)
        return second_order.Heun().step(denoise, x, i, sigmas, history, noise)


class UpWithoutTheRoot(euler.EulerAncestral):
    """The share of noise where its square root belongs."""

    def step(self, denoise, x, i, sigmas, history, noise):
        sigma, end = sigmas[i], sigmas[i + 1]
        up = end * (1 - (end / sigma) ** 2)
        down = end**2 / sigma
        x0 = denoise(x, sigma)
        moved = x + (x - x0) * ((down - sigma) / sigma)
        return (moved + noise(0) * up if up > 0 else moved), None


CASES = ep.DETERMINISTIC
order = {spec: functools.partial(ep.check_order, case=case, grids=("user",)) for spec, case in CASES.items()}

MISTAKES = {
    "a level off by one": (OffByOne(get_scheduler("euler")), ep.check_point),
    "a level off by one, several steps": (OffByOne(get_scheduler("unipc")), ep.check_point),
    "the last step ends at sigma_min": (EndsAtSigmaMin(get_scheduler("euler")), ep.check_point),
    "the last step ends at sigma_min, with noise": (EndsAtSigmaMin(get_scheduler("dpm_2")), ep.check_point_reached),
    "levels are spaced again": (Respaced(get_scheduler("euler")), ep.check_levels),
    "levels through float32": (SnapsLevels(get_scheduler("dpmpp_2m")), ep.check_levels),
    "history reversed": (ReversedHistory(get_scheduler("lms")), order["lms"]),
    "history reversed, deis": (ReversedHistory(get_scheduler("deis")), order["deis"]),
    "history shared between runs": (KeepsState(get_scheduler("dpmpp_2m")), ep.check_interleaved),
    "history not handed back": (KeepsState(get_scheduler("res_multistep")), ep.check_interleaved),
    "history forgotten": (ForgetsHistory(get_scheduler("dpmpp_2m")), order["dpmpp_2m"]),
    "a step in place": (InPlace(get_scheduler("euler")), ep.check_not_in_place),
    "NumPy scalars": (NumpyScalars(get_scheduler("euler")), ep.check_arithmetic),
    "coefficients in float32": (Float32Coefficients(), ep.check_point),
    "wrong weights in Heun's step": (UnevenHeun(), order["heun"]),
    "the middle of dpm_2 in sigma": (
        ArithmeticMiddle(),
        functools.partial(ep.check_levels, second=CASES["dpm_2"].second),
    ),
    "weights of even steps": (WeightsOfEvenSteps(), order["lms"]),
    "weights of even steps, dpmpp_2m": (HalfCorrection(), order["dpmpp_2m"]),
    "the slope of the step before": (StaleSlope(), ep.check_end_point),
    "a deterministic solver draws noise": (DrawsNoise(get_scheduler("heun")), ep.check_deterministic),
    "noise in the step to 0": (NoiseToTheEnd(get_scheduler("euler_ancestral")), ep.check_draws),
    "noise left at the end": (NoiseToTheEnd(get_scheduler("dpmpp_2m_sde")), ep.check_point_reached),
    "one draw used twice": (SameDraw(get_scheduler("dpmpp_sde")), ep.check_draws),
    "churn at the old level": (ChurnAtTheOldLevel(), ep.check_moments),
    "sigma_up without its square root": (UpWithoutTheRoot(), ep.check_moments),
    "noise twice as strong": (get_scheduler("sa_solver:s_noise=2"), ep.check_moments),
    "noise a tenth too strong": (get_scheduler("dpmpp_3m_sde:s_noise=1.1"), ep.check_moments),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(mistake):
    solver, check = MISTAKES[mistake]
    with pytest.raises(AssertionError):
        check(solver)


@pytest.mark.parametrize("spec", ["euler", "heun", "lms", "dpmpp_2m", "unipc", "deis"])
def test_a_wrapper_without_a_mistake_passes(spec):
    """It is the mistake that is caught, not the wrapper."""
    solver, case = Wrapped(get_scheduler(spec)), CASES[spec]
    order[spec](solver)
    ep.check_point(solver)
    ep.check_levels(solver, second=case.second)
    ep.check_end_point(solver, case.evaluations)
    for check in (ep.check_deterministic, ep.check_interleaved, ep.check_not_in_place, ep.check_arithmetic):
        check(solver)


@pytest.mark.parametrize("spec", ["euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver"])
def test_a_wrapper_without_a_mistake_passes_with_noise(spec):
    for check in (ep.check_moments, ep.check_draws, ep.check_point_reached, ep.check_continues):
        check(Wrapped(get_scheduler(spec)))


# The loop's own mistakes


def test_a_loop_that_forgets_the_history_is_caught(monkeypatch):
    whole = ep.sample
    monkeypatch.setattr(ep, "sample", lambda *args, **options: whole(*args, **{**options, "history": None}))
    with pytest.raises(AssertionError):
        ep.check_continues(get_scheduler("dpmpp_2m"))


def test_noise_that_depends_on_how_often_it_was_drawn_is_caught(monkeypatch):
    generator = np.random.default_rng(0)
    monkeypatch.setattr("svdkit.sampling.normal", lambda seed, purpose, shape, *_: generator.standard_normal(shape))
    with pytest.raises(AssertionError):
        ep.check_continues(get_scheduler("euler_ancestral"))


def test_the_same_noise_in_every_step_is_caught(monkeypatch):
    normal = np.random.default_rng(0).standard_normal(50_000)
    monkeypatch.setattr("svdkit.sampling.normal", lambda seed, purpose, shape, *_: normal)
    with pytest.raises(AssertionError):
        ep.check_monte_carlo(get_scheduler("euler_ancestral"))


def test_a_final_0_that_is_dropped_is_caught(monkeypatch):
    monkeypatch.setattr("svdkit.sampling.levels_of", lambda solver, sigmas, to_zero: tuple(s for s in sigmas if s))
    with pytest.raises(AssertionError):
        ep.check_levels(get_scheduler("euler"))
