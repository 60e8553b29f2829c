"""Noise levels: the published numbers, independent formulas, and whatever a user writes."""

from __future__ import annotations

import inspect
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import svdkit
from svdkit import plugins
from svdkit.errors import InputError, SigmasError, UnknownPluginError
from svdkit.schedules import MOST_CHARACTERS, read_sigmas
from svdkit.sigmas import karras, validate_sigmas
from svdkit_schedulers.plugin import SIGMA_SCHEDULES

WITH_A_RANGE = sorted(set(SIGMA_SCHEDULES) - {"ays", "lcm"})
AYS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0)


def check_schedule(levels, steps: int, sigma_max: float, sigma_min: float | None) -> None:
    """As many levels as asked for and 0, strictly descending, with exact ends; None if it does not reach the lower."""
    assert isinstance(levels, tuple)
    assert all(type(level) is float and math.isfinite(level) for level in levels)
    assert len(levels) == steps + 1
    assert levels[0] == sigma_max
    assert levels[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(levels))
    if steps > 1 and sigma_min is not None:
        assert levels[-2] == sigma_min


@pytest.mark.parametrize("name", SIGMA_SCHEDULES)
def test_any_number_of_steps(name):
    reaches = name not in ("ays", "lcm", "sgm_uniform")
    for steps in range(1, 41 if name == "lcm" else 101):
        check_schedule(svdkit.sigma_schedule(name, steps), steps, 700.0, 0.002 if reaches else None)


@given(
    st.sampled_from(WITH_A_RANGE),
    st.integers(1, 60),
    st.floats(-4, 1),
    st.floats(0.1, 5),
)
@settings(max_examples=200, deadline=None)
def test_any_range(name, steps, low, decades):
    sigma_min, sigma_max = 10**low, 10 ** (low + decades)
    options = {"scale": 1.0} if name == "laplace" else {}
    levels = svdkit.sigma_schedule(name, steps, sigma_min=sigma_min, sigma_max=sigma_max, **options)
    check_schedule(levels, steps, sigma_max, None if name == "sgm_uniform" else sigma_min)
    assert min(levels[:-1]) >= sigma_min


@pytest.mark.parametrize("name", WITH_A_RANGE)
@pytest.mark.parametrize(("low", "high"), [(0.0, 700.0), (-1.0, 700.0), (2.0, 1.0), (1.0, 1.0), (0.002, math.inf)])
def test_wrong_ranges_are_refused(name, low, high):
    with pytest.raises(InputError):
        svdkit.sigma_schedule(name, 5, sigma_min=low, sigma_max=high)


@pytest.mark.parametrize("steps", [0, -1, 2.0, "4", None, True])
def test_wrong_numbers_of_steps_are_refused(steps):
    with pytest.raises(InputError, match="expected a positive whole number"):
        svdkit.sigma_schedule("karras", steps)


# Published numbers


def test_ays_is_the_published_table():
    assert svdkit.sigma_schedule("ays", 10) == AYS


def test_ays_with_other_numbers_of_steps_is_log_linear():
    """Twice the steps: the table's levels, and their geometric means between them."""
    table = [*AYS[:-1], 0.002]
    levels = svdkit.sigma_schedule("ays", 20)
    assert levels[:-1:2] == AYS[:-1]
    np.testing.assert_allclose(levels[1::2], [math.sqrt(a * b) for a, b in itertools.pairwise(table)], rtol=1e-12)


def test_lcm_is_animate_lcm_svds():
    levels = svdkit.sigma_schedule("lcm", 4)
    np.testing.assert_allclose(levels, [700, 128.5637, 13.6784, 0.4969, 0], rtol=1e-4)  # four digits are published
    ramp = karras(40)[:-1]
    np.testing.assert_allclose(levels[:-1], ramp[::10], rtol=1e-12)
    with pytest.raises(InputError, match="40 levels at most, 41"):
        svdkit.sigma_schedule("lcm", 41)


def test_karras_is_stable_video_diffusions():
    levels = svdkit.sigma_schedule("karras", 25)
    np.testing.assert_allclose(levels[:4], [700, 545.7292, 421.5691, 322.4537], rtol=1e-6)
    np.testing.assert_allclose(levels[-4:], [0.0248, 0.0079, 0.002, 0], atol=5e-5)


# Against other implementations and formulas


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("karras", "use_karras_sigmas"),
        ("exponential", "use_exponential_sigmas"),
        ("beta:space=sigma", "use_beta_sigmas"),
    ],
)
@pytest.mark.parametrize("steps", [2, 10, 25])
def test_diffusers_euler_has_the_same_levels(text, option, steps):
    """Its levels are float32, worked out in float64 from float32 ends."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        sigma_min=0.002,
        sigma_max=700.0,
        **{option: True},
    )
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(svdkit.sigma_schedule(text, steps), scheduler.sigmas.numpy(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 7, 25])
def test_sgm_uniform_leaves_out_the_last_of_one_level_more(steps):
    levels = svdkit.sigma_schedule("sgm_uniform", steps)
    expected = [700 * (0.002 / 700) ** (i / steps) for i in range(steps)]
    np.testing.assert_allclose(levels[:-1], expected, rtol=1e-12)


def test_exponential_is_uniform_in_what_the_network_is_told():
    c_noise = np.log(svdkit.sigma_schedule("uniform", 12)[:-1]) / 4
    np.testing.assert_allclose(np.diff(c_noise), np.diff(c_noise)[0], rtol=1e-12)
    assert svdkit.sigma_schedule("exponential", 12) == svdkit.sigma_schedule("uniform", 12)


@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0])
def test_polyexponential(rho):
    levels = svdkit.sigma_schedule("polyexponential", 9, rho=rho)
    places = np.log(np.array(levels[:-1]) / 0.002) / math.log(700 / 0.002)
    np.testing.assert_allclose(places, (1 - np.arange(9) / 8) ** rho, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rho", [1.0, 5.0, 7.0])
def test_karras_is_even_in_a_power(rho):
    roots = np.array(svdkit.sigma_schedule("karras", 9, rho=rho)[:-1]) ** (1 / rho)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-11)


def test_cosine_is_even_in_the_angle():
    angles = np.arctan(svdkit.sigma_schedule("cosine", 9)[:-1])
    np.testing.assert_allclose(np.diff(angles), np.diff(angles)[0], rtol=1e-10)


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (1.0, 1.0), (2.0, 0.7)])
def test_beta_levels_are_quantiles(alpha, beta):
    """Evenly many levels between any two: their distribution function is an even ramp."""
    levels = np.array(svdkit.sigma_schedule("beta", 11, alpha=alpha, beta=beta)[:-1])
    share = stats.beta.cdf(np.clip(np.log(levels / 0.002) / math.log(700 / 0.002), 0, 1), alpha, beta)
    np.testing.assert_allclose(share, np.linspace(1, 0, 11), atol=1e-10)


@pytest.mark.parametrize(("mu", "scale"), [(0.0, 0.5), (0.0, 2.0), (1.5, 1.0), (-3.0, 1.0)])
@pytest.mark.parametrize("steps", [2, 9, 25])
def test_laplace_levels_are_quantiles_of_the_truncated_distribution(mu, scale, steps):
    levels = svdkit.sigma_schedule("laplace", steps, mu=mu, scale=scale)
    law = stats.laplace(mu, scale)
    first, last = law.sf(math.log(700)), law.sf(math.log(0.002))
    tails = first + (last - first) * np.linspace(0, 1, steps)
    expected = np.exp(law.isf(tails))[1:-1]
    np.testing.assert_allclose(levels[1:-2], expected, rtol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(10.0, 700.0), (0.002, 0.05), (0.5, 2.0)])
def test_laplace_on_one_side_of_its_middle(low, high):
    levels = svdkit.sigma_schedule("laplace", 6, sigma_min=low, sigma_max=high)
    law = stats.laplace(0, 0.5)
    tails = np.linspace(law.sf(math.log(high)), law.sf(math.log(low)), 6)
    np.testing.assert_allclose(levels[:-1], np.exp(law.isf(tails)), rtol=1e-9)


@pytest.mark.parametrize("steps", [2, 5, 10, 25])
@pytest.mark.parametrize("threshold", [0.025, 0.1])
def test_linear_quadratic_is_even_and_then_quadratic(steps, threshold):
    """In the share of noise sigma / (1 + sigma): Mochi's recurrence, scaled so that the last level is sigma_min."""
    levels = np.array(svdkit.sigma_schedule("linear_quadratic", steps, threshold=threshold)[:-1])
    linear = steps // 2
    quadratic = steps - linear
    curve = [i * threshold / linear for i in range(linear)]
    difference = linear - threshold * steps
    a = difference / (linear * quadratic**2)
    b = threshold / linear - 2 * difference / quadratic**2
    c = a * linear**2
    curve += [a * i**2 + b * i + c for i in range(linear, steps)]
    high, low = 700 / 701, 0.002 / 1.002
    share = high - (high - low) * np.array(curve) / curve[-1]
    np.testing.assert_allclose(levels / (1 + levels), share, rtol=1e-9, atol=1e-12)


# What goes wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("karras:rh=5", "rho=7.0"),
        ("karras:rho=steep", "rho=7.0"),
        ("ays:rho=5", "no options"),
        ("beta:space=x", "'log' or 'sigma'"),
        ("laplace:scale=0", "expected a positive number"),
        ("karras:7", "name:option=value"),
    ],
)
def test_wrong_options(text, message):
    with pytest.raises(InputError, match=message):
        svdkit.sigma_schedule(text, 5)


@pytest.mark.parametrize("text", ["linear_quadratic:threshold=2", "beta:alpha=-1", "karras:rho=0", "karras:rho=nan"])
def test_options_that_do_not_descend_are_refused(text):
    with pytest.raises(InputError):
        svdkit.sigma_schedule(text, 8)


def test_unknown_schedules_are_told_of_near_names():
    with pytest.raises(UnknownPluginError, match="Did you mean 'karras'"):
        svdkit.sigma_schedule("karas", 5)


@pytest.mark.parametrize("name", SIGMA_SCHEDULES)
def test_every_schedule_is_listed_and_documented(name):
    info = {info.name: info for info in svdkit.list_sigma_schedules()}[name]
    assert info.available
    assert info.summary
    assert len(inspect.getdoc(plugins.registry().load("sigma schedule", name))) > 40


# A user's own


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12, unique=True), st.booleans(), st.booleans())
def test_any_descending_list_is_kept_verbatim(values, zero, to_zero):
    levels = tuple(sorted(values, reverse=True)) + (0.0,) * zero
    if len(levels) == 1 and not to_zero:
        with pytest.raises(SigmasError):
            validate_sigmas(levels, to_zero=to_zero)
        return
    expected = levels if zero or not to_zero else (*levels, 0.0)
    assert validate_sigmas(levels, to_zero=to_zero) == expected
    assert validate_sigmas(np.array(levels), to_zero=to_zero) == expected
    assert validate_sigmas(list(expected)) == validate_sigmas(levels)


@pytest.mark.parametrize(
    "text", ["700,54.5,0.002", "[700, 54.5, 0.002]", " 700 54.5\n0.002\n", "7e2;54.5;2e-3,0", "700.,54.5,.002"]
)
def test_lists_are_read(text):
    assert read_sigmas(text, 25) == (700.0, 54.5, 0.002, 0.0)


def test_names_are_read():
    assert read_sigmas("karras", 4) == svdkit.sigma_schedule("karras", 4)
    assert read_sigmas("karras:rho=5,sigma_max=80", 4) == svdkit.sigma_schedule("karras", 4, rho=5, sigma_max=80.0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "700\n54.5\n0.002\n"),
        ("a.txt", "700, 54.5, 0.002, 0"),
        ("a.TXT", "[700 54.5 0.002]"),
        ("a.json", "[700, 54.5, 0.002]"),
        ("a.json", "[700.0, 54.5, 0.002, 0]"),
    ],
)
def test_files_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_sigmas(str(tmp_path / name), 25) == (700.0, 54.5, 0.002, 0.0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[700, 54.5", "is not JSON"),
        ("a.json", b'{"sigmas": [700]}', "holds a dict"),
        ("a.json", b"700", "holds a int"),
        ("a.json", b'[700, "much"]', r"sigmas\[1\] is 'much'"),
        ("a.json", b"[700, null]", r"sigmas\[1\] is None"),
        ("a.json", b"[700, NaN]", r"sigmas\[1\] is nan"),
        ("a.json", b"[[700, 1]]", r"sigmas\[0\] is \[700, 1\]"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b"[]", "sigmas is empty"),
        ("a.json", b"[1, 2]", r"sigmas\[1\] is 2"),
        ("a.txt", b"700, much", r"a.txt\[1\] is 'much'"),
        ("a.txt", b"", "sigmas is empty"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read"),
        ("a.txt", b"1 " * MOST_CHARACTERS, "characters"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_sigmas(str(tmp_path / name), 25)


def test_files_that_are_not_there_and_folders_are_refused(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "none.json", tmp_path / "folder.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_sigmas(str(path), 25)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("700,abc", SigmasError),
        ("1,2", SigmasError),
        ("-1", SigmasError),
        ("700,,nan", SigmasError),
        ("", UnknownPluginError),
        ("nothing", UnknownPluginError),
        ("karras:rho", InputError),
        ("[]", InputError),
    ],
)
def test_bad_text_is_refused(text, error):
    with pytest.raises(error):
        read_sigmas(text, 25)


def test_what_is_written_as_json_is_read_back(tmp_path):
    levels = svdkit.sigma_schedule("laplace", 13)
    (tmp_path / "levels.json").write_text(json.dumps(levels))
    assert read_sigmas(str(tmp_path / "levels.json"), 1) == levels
