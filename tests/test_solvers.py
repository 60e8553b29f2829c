"""Solvers: exact where theory says so, of the order it says, and without hidden state."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from pathlib import Path

import exact_problems as ep
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import svdkit
from svdkit import plugins
from svdkit.errors import InputError, NumericalError, SigmasError
from svdkit.noise import Purpose, normal
from svdkit.sampling import get_scheduler, sample
from svdkit.sigmas import karras
from svdkit_schedulers.plugin import SCHEDULERS, SIGMA_SCHEDULES

PAGE = (Path(__file__).parents[1] / "docs" / "schedulers.md").read_text(encoding="utf-8")
SOLVERS = [*ep.DETERMINISTIC, *ep.STOCHASTIC, "dpm_adaptive", "dpm_adaptive:order=2"]
ONE_EVALUATION = [spec for spec, case in ep.DETERMINISTIC.items() if case.evaluations == 1] + [
    spec for spec, evaluations in ep.STOCHASTIC.items() if evaluations == 1
]

deterministic = pytest.mark.parametrize("spec", ep.DETERMINISTIC)
stochastic = pytest.mark.parametrize("spec", ep.STOCHASTIC)
every = pytest.mark.parametrize("spec", SOLVERS)


def test_all_solvers_are_here():
    assert {spec.partition(":")[0] for spec in SOLVERS} == set(SCHEDULERS)


# The problems themselves


@pytest.mark.parametrize("problem", ep.PROBLEMS, ids=["gaussian", "mixture"])
def test_closed_forms_satisfy_the_equation(problem):
    """dx/dsigma = (x - x0) / sigma, by central differences of fourth order, and the map can be gone back."""
    for sigma in (0.1, 1.0, 10.0):
        x, h = problem.start(sigma), 1e-3 * sigma
        ahead, back, far, farther = (problem.solution(x, sigma, sigma + k * h) for k in (1, -1, 2, -2))
        slope = (8 * (ahead - back) - (far - farther)) / (12 * h)
        np.testing.assert_allclose(slope, (x - problem.denoise(x, sigma)) / sigma, rtol=1e-8, atol=1e-9)
        end = problem.solution(x, sigma, 0.01)
        np.testing.assert_allclose(problem.solution(end, 0.01, sigma), x, rtol=1e-9, atol=1e-11)


# Without noise


@deterministic
def test_the_observed_order_is_the_theoretical_one(spec):
    ep.check_order(get_scheduler(spec), ep.DETERMINISTIC[spec])


@deterministic
def test_the_exact_end_point_is_approached(spec):
    ep.check_end_point(get_scheduler(spec), ep.DETERMINISTIC[spec].evaluations)


@deterministic
def test_a_single_point_is_exact(spec):
    ep.check_point(get_scheduler(spec))


@deterministic
def test_no_noise_is_drawn(spec):
    ep.check_deterministic(get_scheduler(spec))


@deterministic
def test_levels_are_used_verbatim(spec):
    solver, case = get_scheduler(spec), ep.DETERMINISTIC[spec]
    for sigmas, to_zero in ((ep.LEVELS, True), (ep.LEVELS[:-1], True), (ep.LEVELS[:-1], False), ((3.0,), True)):
        ep.check_levels(solver, sigmas, to_zero, case.second)


@given(
    st.sampled_from(ONE_EVALUATION),
    st.lists(st.floats(-6, 6), min_size=2, max_size=9, unique_by=lambda z: round(z, 3)),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_list_is_used_verbatim(spec, logs, to_zero):
    ep.check_levels(get_scheduler(spec), sorted((10**z for z in logs), reverse=True), to_zero)


@pytest.mark.parametrize("spec", ["euler", "lms", "unipc", "dpmpp_2m_sde", "dpm_adaptive"])
@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([3, 4, 1], r"sigmas\[1\] is 4, which is not below sigmas\[0\] = 3"),
        ([3, 3, 1], r"sigmas\[1\] is 3, which is not below"),
        ([3, 0, 1], r"sigmas\[1\] is 0, expected a positive number"),
        ([3, -1], r"sigmas\[1\] is -1"),
        ([3, math.nan, 1], r"sigmas\[1\] is nan"),
        ([math.inf, 1], r"sigmas\[0\] is inf"),
        ([3, "x"], r"sigmas\[1\] is 'x'"),
        ([], "empty"),
        ([0.0], "expected a positive"),
    ],
)
def test_wrong_lists_are_refused_with_index_and_value(spec, sigmas, message):
    with pytest.raises(SigmasError, match=message):
        sample(ep.GAUSSIAN.denoise, np.zeros(16), sigmas=sigmas, scheduler=spec)


# With noise


@stochastic
def test_noise_has_gone_by_the_end(spec):
    ep.check_point_reached(get_scheduler(spec))


@stochastic
def test_mean_and_variance_approach_the_exact_ones(spec):
    ep.check_moments(get_scheduler(spec))


@stochastic
def test_mean_and_variance_with_noise_from_a_seed(spec):
    ep.check_monte_carlo(get_scheduler(spec))


@stochastic
def test_draws_are_numbered_and_none_is_made_in_the_step_to_0(spec):
    ep.check_draws(get_scheduler(spec))


@stochastic
def test_levels_are_used_verbatim_with_noise_too(spec):
    """One evaluation a step: those levels; two: they begin with them, but for churn, which is a test of its own."""
    if ep.STOCHASTIC[spec] == 1:
        ep.check_levels(get_scheduler(spec))
        return
    called = []

    def denoise(x, sigma):
        called.append(sigma)
        return ep.GAUSSIAN.denoise(x, sigma)

    run = sample(denoise, ep.GAUSSIAN.start(700.0), sigmas=ep.LEVELS, scheduler=spec, noise=ep.injected)
    assert run.sigmas == ep.LEVELS
    assert run.nfe == len(called) == 2 * len(ep.LEVELS) - 3
    if not spec.startswith("edm_stochastic"):
        assert called[::2] == list(ep.LEVELS[:-1])


def test_churn_raises_the_level_that_is_evaluated():
    called = []

    def denoise(x, sigma):
        called.append(sigma)
        return ep.GAUSSIAN.denoise(x, sigma)

    solver = get_scheduler("edm_stochastic:s_churn=2.1,s_tmin=0.4,s_tmax=9")
    sample(denoise, ep.GAUSSIAN.start(700.0), sigmas=ep.LEVELS, scheduler=solver, noise=ep.injected)
    expected = [s * 1.3 if 0.4 <= s <= 9 else s for s in ep.LEVELS[:-1]]  # 2.1 / 7 steps
    np.testing.assert_allclose(called[::2], expected, rtol=1e-15)
    assert called[1::2] == list(ep.LEVELS[1:-1])


def test_churn_is_limited():
    called = []
    solver = get_scheduler("edm_stochastic:s_churn=1000,s_tmax=inf,s_tmin=0")
    sample(lambda x, s: called.append(s) or x * 0, np.ones(3), sigmas=[4.0, 2.0], scheduler=solver)
    np.testing.assert_allclose(called[0], 4 * math.sqrt(2), rtol=1e-15)


@stochastic
def test_noise_depends_on_seed_step_and_draw_alone(spec):
    solver, start = get_scheduler(spec), ep.MIXTURE.start(700.0)

    def run(**options):
        return sample(ep.MIXTURE.denoise, start, sigmas=ep.LEVELS, scheduler=solver, **options).x

    np.testing.assert_array_equal(run(seed=4), run(seed=4))
    assert not np.array_equal(run(seed=4), run(seed=5))
    by_hand = run(noise=lambda step, draw: normal(4, Purpose.STEP, start.shape, step, draw).astype(np.float64))
    np.testing.assert_array_equal(run(seed=4), by_hand)


def test_noise_differs_between_steps_draws_and_seeds():
    draws = [normal(seed, Purpose.STEP, (64,), step, draw) for seed in (0, 1) for step in (0, 1) for draw in (0, 1)]
    assert len({draw.tobytes() for draw in draws}) == 8


@pytest.mark.parametrize(
    "spec", ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"]
)
def test_s_noise_scales_the_noise(spec):
    """With a linear denoiser the answer to noise is linear; s_noise=0 leaves the step down without its noise."""

    def run(s_noise, noise=ep.injected):
        solver = get_scheduler(f"{spec}:s_noise={s_noise}")
        return sample(
            ep.GAUSSIAN.denoise, ep.GAUSSIAN.start(9.0), sigmas=[9, 4, 1, 0.3], scheduler=solver, noise=noise
        ).x

    none, whole = run(0), run(1)
    np.testing.assert_allclose(run(0.5) - none, (whole - none) / 2, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(none, run(1, lambda step, draw: np.zeros(16)))


# No hidden state


@every
def test_a_run_continues_from_x_step_and_history(spec):
    ep.check_continues(get_scheduler(spec))


@every
def test_runs_that_take_turns_do_not_touch_each_other(spec):
    ep.check_interleaved(get_scheduler(spec))


@every
def test_nothing_is_changed_in_place(spec):
    ep.check_not_in_place(get_scheduler(spec))


@every
def test_read_only_arrays_will_do(spec):
    def frozen(x):
        x = np.array(x)
        x.flags.writeable = False
        return x

    sample(
        lambda x, sigma: frozen(ep.MIXTURE.denoise(x, sigma)),
        frozen(ep.MIXTURE.start(700.0)),
        sigmas=ep.LEVELS,
        scheduler=get_scheduler(spec),
        noise=lambda step, draw: frozen(ep.injected(step, draw)),
        callback=lambda i, sigma, x: frozen(x),
    )


@every
def test_schedulers_are_immutable_values(spec):
    solver = get_scheduler(spec)
    assert solver == get_scheduler(spec)
    assert hash(solver) == hash(get_scheduler(spec))
    with pytest.raises(AttributeError):
        solver.order = 1


# Any array


@every
def test_only_plain_arithmetic_with_python_floats(spec):
    """But for dpm_adaptive, whose steps follow from the values: it may bring them to the host."""
    ep.check_arithmetic(get_scheduler(spec), ep.OnHost if spec.startswith("dpm_adaptive") else ep.Strict)


def in_float32(spec, make):
    """dpm_adaptive's first error estimates are rounding alone, so its steps differ: by less than its tolerance."""
    ep.check_framework(get_scheduler(spec), make, 0.02 if spec.startswith("dpm_adaptive") else 5e-5)


@every
def test_float32_stays_float32(spec):
    in_float32(spec, np.asarray)


@every
def test_torch_tensors(spec):
    in_float32(spec, pytest.importorskip("torch").from_numpy)


@every
def test_mindspore_tensors(spec):
    in_float32(spec, pytest.importorskip("mindspore").Tensor)


# The adaptive one


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("problem", ep.PROBLEMS, ids=["gaussian", "mixture"])
def test_the_error_of_dpm_adaptive_falls_with_its_tolerance(order, problem):
    errors, evaluations = [], []
    for rtol in (1e-1, 1e-2, 1e-3, 1e-4):
        solver = get_scheduler(f"dpm_adaptive:order={order},rtol={rtol},atol={rtol / 10}")
        run = sample(problem.denoise, problem.start(700.0), sigmas=karras(5), scheduler=solver, noise=ep.raising)
        errors.append(np.sqrt(np.mean((run.x - ep.exact(problem, 700.0, 0.0)) ** 2)))
        evaluations.append(run.nfe)
    assert errors == sorted(errors, reverse=True)
    assert evaluations == sorted(evaluations)
    assert errors[-1] < 10 * rtol  # steps are held to it one by one, and their errors add up; 2.5 to 8.6 measured


def test_dpm_adaptive_ends_when_no_step_will_do():
    def broken(x, sigma):
        return x * np.nan

    assert np.isnan(sample(broken, np.ones(3), sigmas=[9.0, 1.0], scheduler="dpm_adaptive").x).all()
    signs = itertools.cycle([1e30, -1e30])
    with pytest.raises(NumericalError, match="No step from sigma 9 is short enough for rtol=0 and atol=1e-06"):
        sample(
            lambda x, s: 0 * x + next(signs), np.ones(3), sigmas=[9.0, 1.0], scheduler="dpm_adaptive:rtol=0,atol=1e-6"
        )


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_counts_its_evaluations_and_stays_in_the_range(order):
    called = []

    def denoise(x, sigma):
        called.append(sigma)
        return ep.MIXTURE.denoise(x, sigma)

    spec = f"dpm_adaptive:order={order}"
    run = sample(denoise, ep.MIXTURE.start(700.0), sigmas=[700, 3, 0.002], scheduler=spec)
    assert run.sigmas == (700.0, 0.002, 0.0)
    assert run.nfe == len(called)
    assert run.nfe % order == 1  # steps of as many evaluations as the order, and one to 0
    assert called[0] == pytest.approx(700, rel=1e-13)
    assert min(called) >= 0.002 * (1 - 1e-13)
    kept = sample(ep.MIXTURE.denoise, ep.MIXTURE.start(700.0), sigmas=[700, 3, 0.5], scheduler=spec, to_zero=False)
    assert kept.sigmas == (700.0, 0.5)


@pytest.mark.parametrize("sigmas", [[700.0], [700.0, 0.0]])
def test_dpm_adaptive_with_one_level(sigmas):
    run = sample(ep.MIXTURE.denoise, ep.MIXTURE.start(700.0), sigmas=sigmas, scheduler="dpm_adaptive")
    assert run.sigmas == (700.0, 0.0)
    assert run.nfe == 1


# Equalities between solvers


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ddim", "euler"),
        ("euler_ancestral:eta=0", "euler"),
        ("lms:order=1", "euler"),
        ("deis:order=1", "euler"),
        ("ipndm:order=1", "euler"),
        ("ddim:eta=1", "euler_ancestral"),
        ("edm_stochastic:s_churn=0", "heun"),
        ("dpm_2_ancestral:eta=0", "dpm_2"),
        ("dpmpp_sde:eta=0", "dpmpp_2s_ancestral:eta=0"),
        ("dpmpp_2m_sde:eta=0", "dpmpp_2m"),
        ("res_multistep", "dpmpp_2m_sde:eta=0,solver_type=heun"),
        ("sa_solver:tau=0,predictor_order=2,corrector_order=0", "res_multistep"),
        ("sa_solver:tau=0,predictor_order=1,corrector_order=0", "euler"),
    ],
)
def test_methods_that_are_the_same(one, other):
    results = [
        sample(ep.MIXTURE.denoise, ep.MIXTURE.start(700.0), sigmas=ep.LEVELS, scheduler=spec, noise=ep.injected).x
        for spec in (one, other)
    ]
    np.testing.assert_allclose(*results, rtol=1e-11, atol=1e-11)


# The loop


def test_the_callback_sees_and_replaces_x():
    seen = []

    def callback(i, sigma, x):
        seen.append((i, sigma))
        return x * 0 if i == 2 else None

    run = sample(lambda x, sigma: x * 0.5, np.ones(3), sigmas=[4, 3, 2, 1], callback=callback)
    assert seen == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.0)]
    np.testing.assert_array_equal(run.x, np.zeros(3))


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (3, 2), (0, 9), (9, None)])
def test_steps_that_are_not_there_are_refused(start, stop):
    with pytest.raises(InputError, match="these noise levels have steps 0 to 4"):
        sample(lambda x, sigma: x, np.ones(3), sigmas=[4, 3, 2, 1], start=start, stop=stop)


def test_no_steps_leave_x_as_it_is():
    x = np.ones(3)
    run = sample(lambda x, sigma: x, x, sigmas=[4, 3], stop=0)
    assert run.x is x
    assert (run.nfe, run.step, run.history) == (0, 0, None)


@pytest.mark.parametrize("scheduler", [None, 3, object(), dict])
def test_what_is_no_scheduler_is_refused(scheduler):
    with pytest.raises(InputError, match="expected a name or an object with a `step` method"):
        get_scheduler(scheduler)


def test_a_class_is_no_scheduler():
    with pytest.raises(InputError):
        get_scheduler(type(get_scheduler("euler")))


# Options


def test_options_are_parsed_and_typed():
    solver = get_scheduler("dpmpp_2m_sde: eta = 1, solver_type=heun")
    assert (solver.eta, solver.solver_type, solver.s_noise) == (1.0, "heun", 1.0)
    assert type(solver.eta) is float
    solver = get_scheduler("sa_solver:tau_max=inf,predictor_order=2,corrector_order=0")
    assert (solver.tau_max, solver.predictor_order, solver.corrector_order) == (math.inf, 2, 0)
    assert get_scheduler(solver) is solver


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("euler_ancestral:eta=-1", "eta=1.0, s_noise=1.0"),
        ("euler_ancestral:eta=nan", "eta=1.0, s_noise=1.0"),
        ("euler_ancestral:eta=much", "eta=1.0, s_noise=1.0"),
        ("euler_ancestral:etta=1", "eta=1.0, s_noise=1.0"),
        ("euler:eta=1", "no options"),
        ("heun:order=3", "no options"),
        ("lms:order=0", "order=4"),
        ("lms:order=7", "order=4"),
        ("lms:order=2.5", "order=4"),
        ("deis:order=5", "order=3"),
        ("ipndm:order=5", "order=4"),
        ("unipc:order=4", "order=2, variant='bh2'"),
        ("unipc:variant=bh3", "order=2, variant='bh2'"),
        ("dpmpp_sde:r=0", "r=0.5"),
        ("dpmpp_sde:r=1.5", "r=0.5"),
        ("dpmpp_2m_sde:solver_type=euler", "solver_type='midpoint'"),
        ("sa_solver:predictor_order=5", "predictor_order=3"),
        ("sa_solver:corrector_order=-1", "corrector_order=4"),
        ("edm_stochastic:s_churn=-0.1", "s_churn=40.0"),
        ("dpm_adaptive:order=4", "order=3, rtol=0.05"),
        ("dpm_adaptive:h_init=0", "h_init=0.05"),
        ("dpm_adaptive:atol=0", "atol=0.0078"),
        ("dpm_adaptive:accept_safety=3", "accept_safety=0.81"),
        ("dpm_adaptive:error_floor=0", "error_floor=0.01"),
        ("euler_ancestral:eta=nan", "eta=1.0"),
        ("lms:4", "name:option=value"),
        ("lms:=4", "name:option=value"),
    ],
)
def test_wrong_options_name_those_there_are(spec, named):
    with pytest.raises(InputError, match=re.escape(named)):
        get_scheduler(spec)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_solver_documents_itself(name):
    """What it is, each option, and where it was published."""
    target = plugins.registry().load("scheduler", name)
    text = inspect.getdoc(target)
    for option in inspect.signature(target).parameters:
        assert re.search(rf"\b{option}\b.*:", text), f"{option} is not documented"
    assert re.search(r"arXiv:\d{4}\.\d{5}", text), "no reference"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_solvers_are_listed(name):
    info = {info.name: info for info in plugins.list_schedulers()}[name]
    assert info.available
    assert info.summary


# The page


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_page_has_every_solver_with_its_options(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*arxiv.*$|^\| `{name}` \|.*the same, with.*$", PAGE, re.MULTILINE)
    for option in inspect.signature(plugins.registry().load("scheduler", name)).parameters.values():
        assert f"{option.name}={option.default}" in row
    case = ep.DETERMINISTIC.get(name)
    if case and name not in ("lms", "deis", "unipc"):  # of the order of their option
        assert re.match(rf"\| `{name}` \| {case.order}\b", row)


@pytest.mark.parametrize("name", SIGMA_SCHEDULES)
def test_the_page_has_every_schedule_with_its_options(name):
    section = PAGE.partition("## Sigma schedules")[2]
    (row,) = [line for line in section.splitlines() if re.match(rf"\| (`\w+`, )*`{name}`(, `\w+`)* \|", line)]
    for option in inspect.signature(plugins.registry().load("sigma schedule", name)).parameters.values():
        if option.name not in ("steps", "sigma_min", "sigma_max"):
            assert f"{option.name}={option.default}" in row


def test_the_pages_examples_run():
    names: dict = {}
    blocks = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "svdkit.sample(" in block]
    for block in blocks:
        exec(block, names)
    whole = svdkit.sample(names["denoise"], names["x"], **names["options"])
    np.testing.assert_array_equal(names["rest"].x, whole.x)
    assert names["result"].nfe == 25


def test_the_pages_tables_were_made_by_the_benchmark():
    tables = PAGE.partition("<!-- solver errors: begin -->")[2]
    assert {spec.partition(":")[0] for spec in re.findall(r"^\| `([^`]+)`", tables, re.MULTILINE)} == set(
        SCHEDULERS
    ) - {
        "lcm",
        "dpm_adaptive",
    }
