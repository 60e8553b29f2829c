"""Noise levels, Euler's method and the loop around every scheduler, against diffusers and exact solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from attrs import frozen
from diffusers import EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import SCHEDULER

from svdkit import list_schedulers, sample
from svdkit.errors import InputError, SigmasError, UnknownPluginError
from svdkit.precondition import scalings
from svdkit.sampling import get_scheduler
from svdkit.sigmas import check_steps, karras, validate_sigmas
from svdkit.testing.inputs import relative_error

several = settings(max_examples=100, deadline=None, derandomize=True, database=None)
Vector = npt.NDArray[np.float64]
LEVELS = [700.0, 80.0, 9.0, 1.5, 0.3, 0.02]
ALL = [info.name for info in list_schedulers() if info.available]


def toy(x: Any, sigma: float) -> Any:
    """A denoiser of any array, with plain arithmetic: that of a Gaussian about 3."""
    return (x * 0.25 + 3.0 * sigma**2) / (0.25 + sigma**2)


def start(shape: Sequence[int] = (2, 3), seed: int = 0) -> Vector:
    """Noise at the first level, which nothing may write to."""
    x = LEVELS[0] * np.random.default_rng(seed).standard_normal(shape)
    x.flags.writeable = False
    return x


# Noise levels


def test_the_schedule_begins_and_ends_as_published() -> None:
    sigmas = karras(25)
    assert len(sigmas) == 26
    np.testing.assert_allclose(sigmas[:4], [700, 545.7292, 421.5691, 322.4537], atol=5e-5)
    np.testing.assert_allclose(sigmas[-4:], [0.0248, 0.0079, 0.002, 0], atol=5e-5)
    assert (sigmas[0], sigmas[-2], sigmas[-1]) == (700.0, 0.002, 0.0)


@pytest.mark.parametrize("steps", [2, 3, 10, 25, 50, 200])
def test_the_schedule_is_that_of_the_reference(steps: int) -> None:
    reference = EulerDiscreteScheduler(**SCHEDULER)
    reference.set_timesteps(steps)
    # Its levels are in float32, which rounds by up to 6e-8.
    np.testing.assert_allclose(karras(steps), reference.sigmas.numpy(), rtol=1e-7)
    c_noise = [scalings(sigma).c_noise for sigma in karras(steps)[:-1]]
    np.testing.assert_allclose(c_noise, reference.timesteps.numpy(), atol=2e-7)


@several
@given(
    steps=st.integers(1, 300),
    lowest=st.floats(1e-4, 1.0),
    ratio=st.floats(1.1, 1e6),
    rho=st.floats(1.0, 12.0),
)
def test_karras_levels_descend_between_the_ends(steps: int, lowest: float, ratio: float, rho: float) -> None:
    sigmas = karras(steps, lowest, lowest * ratio, rho)
    assert validate_sigmas(sigmas) == tuple(sigmas)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == lowest * ratio
    assert steps == 1 or sigmas[-2] == lowest
    roots = np.array(sigmas[:-1]) ** (1 / rho)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[:1].repeat(steps - 1), rtol=1e-5, atol=1e-9)


def test_rho_of_one_is_linear() -> None:
    np.testing.assert_allclose(karras(4, 1.0, 4.0, 1.0), [4, 3, 2, 1, 0])


POSITIVE = st.floats(1e-6, 1e6)
DESCENDING = st.lists(POSITIVE, min_size=1, max_size=20, unique=True).map(lambda x: sorted(x, reverse=True))


@several
@given(sigmas=DESCENDING, ending=st.sampled_from([[], [0], [0.0]]), form=st.sampled_from([list, tuple, np.array]))
def test_descending_levels_are_kept_verbatim(
    sigmas: list[float], ending: list[float], form: Callable[..., Any]
) -> None:
    levels = validate_sigmas(form([*sigmas, *ending]))
    assert levels == (*sigmas, 0.0)
    assert all(type(level) is float for level in levels)
    assert validate_sigmas(levels) == levels


@several
@given(sigmas=DESCENDING, wrong=st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.0, "x", None, 1j]), data=st.data())
def test_the_first_wrong_level_is_named(sigmas: list[float], wrong: Any, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(sigmas) - 1))
    with pytest.raises(SigmasError, match=rf"sigmas\[{i}\]"):
        validate_sigmas([*sigmas[:i], wrong, *sigmas[i:]])


@several
@given(sigmas=DESCENDING, data=st.data())
def test_levels_that_do_not_descend_are_named(sigmas: list[float], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(sigmas) - 1))
    repeated = [*sigmas[: i + 1], *sigmas[i:]]
    with pytest.raises(SigmasError, match=rf"sigmas\[{i + 1}\].*sigmas\[{i}\]"):
        validate_sigmas(repeated)
    if len(sigmas) > 1:
        with pytest.raises(SigmasError, match=r"sigmas\[1\].*descend"):
            validate_sigmas(sigmas[::-1])


@pytest.mark.parametrize(
    "sigmas", [[], (), np.array([]), [0], [0.0], 5.0, np.array(5.0), "euler", b"1", None, iter([1.0]), np.ones((2, 2))]
)
def test_what_is_no_list_of_levels(sigmas: Any) -> None:
    with pytest.raises(SigmasError):
        validate_sigmas(sigmas)


def test_float32_levels_keep_their_values() -> None:
    assert validate_sigmas(np.array([0.1, 0.01], np.float32)) == (float(np.float32(0.1)), float(np.float32(0.01)), 0)


@pytest.mark.parametrize("steps", [0, -1, 2.5, 3.0, True, "25", None])
def test_what_is_no_number_of_steps(steps: Any) -> None:
    with pytest.raises(InputError, match=r"num_inference_steps.*whole number"):
        check_steps(steps)


def test_numbers_of_steps() -> None:
    assert check_steps(1) == 1
    assert type(check_steps(np.int64(25))) is int


# Euler's method


@pytest.mark.parametrize("steps", [1, 2, 5, 25])
def test_euler_is_the_reference_step_by_step(steps: int) -> None:
    rng = np.random.default_rng(steps)
    mixing, drift = rng.standard_normal((8, 8)), rng.standard_normal(8)

    def network(x: Vector, c_noise: float) -> Vector:
        return np.tanh(x @ mixing + c_noise * drift)

    def denoise(x: Vector, sigma: float) -> Vector:
        s = scalings(sigma)
        return s.c_skip * x + s.c_out * network(s.c_in * x, s.c_noise)

    reference = EulerDiscreteScheduler(**SCHEDULER)
    reference.set_timesteps(steps)
    unit = rng.standard_normal((4, 8))
    state = torch.tensor(unit) * reference.init_noise_sigma
    expected = []
    for timestep in reference.timesteps:
        scaled = reference.scale_model_input(state, timestep)
        output = torch.tensor(network(scaled.double().numpy(), float(timestep)))
        state = reference.step(output, timestep, state).prev_sample
        expected.append(state.double().numpy())

    trajectory: list[Vector] = []
    levels = karras(steps) if steps > 1 else reference.sigmas.tolist()
    result = sample(
        denoise,
        unit * np.sqrt(levels[0] ** 2 + 1),
        sigmas=levels,
        scheduler="euler",
        callback=lambda step, sigma, x: trajectory.append(x),
    )
    assert result.nfe == len(trajectory) == len(expected) == steps
    np.testing.assert_array_equal(result.x, trajectory[-1])
    for ours, theirs in zip(trajectory, expected, strict=True):
        # The reference steps in float32: 2e-7 measured, and 1.2e-5 where one step goes from 700 to 0 or nearly.
        assert relative_error(ours, theirs) < (1e-6 if steps > 2 else 3e-5)


def gaussian_error(steps: int) -> float:
    """Of Euler's method on a Gaussian, whose trajectories scale with its spread, at a level above 0."""
    mean, variance, end = 0.7, 1.3**2, 0.5
    levels = karras(steps, end, 20.0)[:-1]

    def denoise(x: Vector, sigma: float) -> Vector:
        return (variance * x + sigma**2 * mean) / (variance + sigma**2)

    x = np.linspace(-40, 40, 9)
    exact = mean + (x - mean) * np.sqrt((variance + end**2) / (variance + levels[0] ** 2))
    return relative_error(sample(denoise, x, sigmas=levels, scheduler="euler", to_zero=False).x, exact)


def test_euler_converges_with_order_one() -> None:
    errors = [gaussian_error(steps) for steps in (40, 80, 160, 320)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(orders > 0.95), orders
    assert np.all(orders < 1.05), orders
    assert errors[-1] < 5e-3


def test_a_single_point_is_reached_exactly_in_any_number_of_steps() -> None:
    for steps in (1, 2, 7):
        result = sample(lambda x, sigma: 0 * x + 2.5, start(), sigmas=LEVELS[:steps])
        np.testing.assert_allclose(result.x, 2.5, atol=1e-12)


# The loop


def test_every_level_is_visited_and_the_final_0_added() -> None:
    asked, reached = [], []

    def denoise(x: Vector, sigma: float) -> Vector:
        asked.append(sigma)
        return toy(x, sigma)

    result = sample(denoise, start(), sigmas=LEVELS, callback=lambda i, sigma, x: reached.append((i, sigma)))
    assert asked == LEVELS
    assert reached == list(enumerate([*LEVELS[1:], 0.0]))
    assert result.nfe == len(LEVELS)
    with_0 = sample(toy, start(), sigmas=[*LEVELS, 0])
    np.testing.assert_array_equal(result.x, with_0.x)


def test_what_the_callback_returns_replaces_x() -> None:
    seen = []

    def callback(step: int, sigma: float, x: Vector) -> Vector | None:
        seen.append(x)
        return np.full_like(x, 50.0) if step == 2 else None

    result = sample(toy, start(), sigmas=LEVELS, callback=callback)
    expected = sample(toy, np.full((2, 3), 50.0), sigmas=LEVELS[3:]).x
    np.testing.assert_array_equal(result.x, expected)
    assert not np.array_equal(seen[2], np.full((2, 3), 50.0)), "it is handed x as it was"
    last = sample(toy, start(), sigmas=LEVELS, callback=lambda step, sigma, x: x * 0 + step)
    np.testing.assert_array_equal(last.x, len(LEVELS) - 1)


@pytest.mark.parametrize("scheduler", [*(name for name in ALL if name != "lcm"), "sa_solver:tau=0"])
def test_what_replaces_x_is_gone_on_with(scheduler: str) -> None:
    """By solvers too that correct their last step, and so go on from what they remember; lcm begins anew from x0."""

    def end(callback: Callable[[int, float, Vector], Vector | None] | None) -> Vector:
        levels = {"sigmas": LEVELS[:4], "to_zero": False}
        end: Vector = sample(lambda x, sigma: 0 * x, start(), scheduler=scheduler, callback=callback, **levels).x
        return end

    last = len(get_scheduler(scheduler).levels(LEVELS[:4]) if scheduler == "dpm_adaptive" else LEVELS[:4]) - 2
    for step in range(last):
        assert np.abs(end(lambda i, sigma, x, s=step: x + 20 * (i == s)) - end(None)).min() > 1e-3
    np.testing.assert_array_equal(end(lambda i, sigma, x: x.copy()), end(None))


@frozen
class Halving:
    """Euler's method over levels of its own: one more between every two."""

    def levels(self, sigmas: Sequence[float]) -> list[float]:
        return [sigmas[0], *(level for a, b in pairwise(sigmas) for level in ((a + b) / 2, b))]

    def step(self, denoise: Any, x: Any, i: int, sigmas: Sequence[float], history: Any, noise: Any) -> tuple[Any, None]:
        return x + (x - denoise(x, sigmas[i])) * ((sigmas[i + 1] - sigmas[i]) / sigmas[i]), None


def test_levels_are_chosen_once() -> None:
    result = sample(toy, start(), sigmas=[9.0, 1.0], scheduler=Halving())
    assert result.sigmas == (9.0, 5.0, 1.0, 0.5, 0.0)
    assert result.nfe == 4


def test_noise_is_whole_where_x_is_of_whole_numbers() -> None:
    levels = {"sigmas": [700.0, 1.0], "scheduler": "lcm", "seed": 3, "to_zero": False}
    whole, real = (sample(lambda x, sigma: x * 0.0, np.full(8, 700, dtype), **levels).x for dtype in (int, float))
    np.testing.assert_allclose(whole, real, rtol=1e-6)
    assert np.abs(real).min() > 0


@pytest.mark.parametrize("seed", [-1, 1.5, "3"])
def test_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(InputError, match=r"seed|generator"):
        sample(toy, start(), sigmas=LEVELS, scheduler="euler_ancestral", seed=seed)


def test_a_bad_list_of_levels_calls_nothing() -> None:
    def denoise(x: Vector, sigma: float) -> Vector:
        raise AssertionError("called")

    for sigmas in ([], [1.0, 2.0], [np.nan], [0.0], [-1.0], [1e160, 1.0]):
        with pytest.raises(SigmasError):
            sample(denoise, start(), sigmas=sigmas)


# Which schedulers, and what they may do


@pytest.mark.parametrize("name", ALL)
def test_x_is_not_changed(name: str) -> None:
    x = start()
    before = x.copy()
    result = sample(toy, x, sigmas=LEVELS, scheduler=name)
    assert result.nfe >= 1
    assert result.x.shape == x.shape
    assert np.isfinite(result.x).all()
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", ALL)
def test_runs_within_runs_do_not_meet(name: str) -> None:
    """One scheduler object serves a run inside of every evaluation of another."""
    scheduler = get_scheduler(name)
    inner = []

    def denoise(x: Vector, sigma: float) -> Vector:
        inner.append(sample(toy, start(seed=1), sigmas=LEVELS, scheduler=scheduler, seed=1).x)
        return toy(x, sigma)

    alone = sample(toy, start(), sigmas=LEVELS, scheduler=get_scheduler(name)).x
    alone_inside = sample(toy, start(seed=1), sigmas=LEVELS, scheduler=get_scheduler(name), seed=1).x
    np.testing.assert_array_equal(sample(denoise, start(), sigmas=LEVELS, scheduler=scheduler).x, alone)
    assert inner
    for x in inner:
        np.testing.assert_array_equal(x, alone_inside)


def test_a_scheduler_is_a_name_or_an_object() -> None:
    by_name = sample(toy, start(), sigmas=LEVELS, scheduler="euler")
    by_object = sample(toy, start(), sigmas=LEVELS, scheduler=get_scheduler("euler"))
    default = sample(toy, start(), sigmas=LEVELS)
    np.testing.assert_array_equal(by_name.x, by_object.x)
    np.testing.assert_array_equal(by_name.x, default.x)
    scheduler = get_scheduler("euler")
    assert get_scheduler(scheduler) is scheduler


@pytest.mark.parametrize("scheduler", [None, 3, object(), Halving, EulerDiscreteScheduler, EulerDiscreteScheduler()])
def test_what_is_no_scheduler(scheduler: Any) -> None:
    with pytest.raises(InputError, match="scheduler"):
        sample(toy, start(), sigmas=LEVELS, scheduler=scheduler)


def test_a_misspelt_name_gives_the_nearest() -> None:
    with pytest.raises(UnknownPluginError, match="Did you mean 'euler'"):
        sample(toy, start(), sigmas=LEVELS, scheduler="eulr")


# Noise


@frozen
class Stochastic:
    """Draws noise twice a step, and keeps it as its history."""

    def step(
        self, denoise: Any, x: Any, i: int, sigmas: Sequence[float], history: Any, noise: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """Noise added to the clean sample."""
        drawn = noise(0), noise(1)
        return denoise(x, sigmas[i]) + (drawn[0] + drawn[1]) * sigmas[i + 1], (*(history or ()), *drawn)


def test_noise_depends_on_seed_step_and_draw_alone() -> None:
    shape = (50, 40)
    run = [sample(toy, start(shape), sigmas=LEVELS, scheduler=Stochastic(), seed=7).history for _ in range(2)]
    other = sample(toy, start(shape), sigmas=LEVELS, scheduler=Stochastic(), seed=8).history
    other_levels = sample(toy, start(shape), sigmas=[50, 5, 0.5], scheduler=Stochastic(), seed=7).history
    np.testing.assert_array_equal(run[0], run[1])
    np.testing.assert_array_equal(run[0][:6], other_levels)

    draws = np.stack([*run[0], *other]).reshape(4 * len(LEVELS), -1)
    assert draws.dtype == np.float64
    np.testing.assert_allclose(draws.mean(1), 0, atol=0.1)
    np.testing.assert_allclose(draws.std(1), 1, atol=0.1)
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 0.12  # 2000 numbers: five standard deviations


def test_noise_has_the_dtype_of_x() -> None:
    x = start().astype(np.float32)
    result = sample(toy, x, sigmas=LEVELS, scheduler=Stochastic())
    assert {draw.dtype for draw in result.history} == {np.dtype(np.float32)}
    assert result.x.dtype == np.float32


def test_noise_of_the_callers_own() -> None:
    asked = []

    def noise(step: int, draw: int) -> Vector:
        asked.append((step, draw))
        return np.full((2, 3), 10 * step + draw)

    result = sample(toy, start(), sigmas=LEVELS, scheduler=Stochastic(), noise=noise)
    assert asked == [(step, draw) for step in range(len(LEVELS)) for draw in (0, 1)]
    assert [draw[0, 0] for draw in result.history] == [10 * step + draw for step, draw in asked]


# Arrays that nobody here has heard of


class Plain:
    """An array that can be added, subtracted, multiplied and divided, and nothing else."""

    __slots__ = ("_values",)

    def __init__(self, values: Any) -> None:
        self._values = values

    def __add__(self, other: Any) -> Plain:
        return Plain(self._values + _operand(other))

    def __sub__(self, other: Any) -> Plain:
        return Plain(self._values - _operand(other))

    def __mul__(self, other: Any) -> Plain:
        return Plain(self._values * _operand(other))

    def __truediv__(self, other: Any) -> Plain:
        return Plain(self._values / _operand(other))

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> Plain:
        return Plain(_operand(other) - self._values)


def _operand(other: Any) -> Any:
    if isinstance(other, Plain):
        return other._values
    assert type(other) in (int, float), f"{type(other)} is no Python number"
    return other


@pytest.mark.parametrize("name", [name for name in ALL if name != "dpm_adaptive"])  # that one measures its error
def test_a_scheduler_only_calculates(name: str) -> None:
    x = start()
    noise = np.random.default_rng(3).standard_normal((20, 5, *x.shape))
    expected = sample(toy, x, sigmas=LEVELS, scheduler=name, noise=lambda step, draw: noise[step, draw]).x
    result = sample(toy, Plain(x), sigmas=LEVELS, scheduler=name, noise=lambda step, draw: Plain(noise[step, draw])).x
    assert type(result) is Plain
    np.testing.assert_array_equal(result._values, expected)


def test_noise_for_an_unknown_array_must_be_made_by_the_caller() -> None:
    class Shaped(Plain):
        __slots__ = ()
        shape = (2, 3)

    with pytest.raises(InputError, match=r"Shaped.*`noise`"):
        sample(toy, Shaped(start()), sigmas=LEVELS, scheduler=Stochastic())


@pytest.mark.parametrize("framework", ["torch", "mindspore"])
@pytest.mark.parametrize("scheduler", ["euler", Stochastic()])
def test_other_frameworks_tensors(framework: str, scheduler: Any) -> None:
    module = pytest.importorskip(framework)
    x = start().astype(np.float32)
    tensor = torch.tensor(x) if framework == "torch" else module.Tensor(x)
    result = sample(toy, tensor, sigmas=LEVELS, scheduler=scheduler, seed=5).x
    values = result.numpy() if framework == "torch" else result.asnumpy()
    assert type(result) is type(tensor)
    assert result.dtype == tensor.dtype
    expected = sample(toy, x, sigmas=LEVELS, scheduler=scheduler, seed=5).x
    assert relative_error(values, expected) < 1e-6
