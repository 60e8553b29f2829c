"""Whole trajectories against independent implementations, in float64: k-diffusion's and diffusers' own source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete, scheduling_euler_discrete
from k_diffusion import samplers
from reference import SCHEDULER

import svdkit
from svdkit.sigmas import karras
from svdkit.testing.inputs import relative_error

SHAPE = (3, 5, 4, 4)
CENTRES, WIDTHS, SHARES = (-1.3, 0.4, 2.0), (0.3, 0.05, 0.6), (0.5, 0.2, 0.3)
"""A mixture of Gaussians in each element, whose denoiser has a closed form and is far from linear."""

SCHEDULES = {
    "karras": karras(12),
    "short": [80.0, 3.0, 0.4, 0.0],
    "uneven": [700.0, 650.0, 80.0, 79.0, 20.0, 4.0, 3.9, 1.1, 0.5, 0.02, 0.0019, 0.0],
    "not to zero": [40.0, 17.0, 6.0, 2.0, 0.9, 0.3, 0.11],
}


def denoise(x: Any, sigma: Any) -> Any:
    """The expected x0 of the mixture; of NumPy arrays or torch tensors."""
    torch_in = isinstance(x, torch.Tensor)
    x = x.numpy() if torch_in else x
    variances = [width**2 + float(sigma) ** 2 for width in WIDTHS]
    logs = np.stack(
        [
            math.log(share / math.sqrt(variance)) - (x - centre) ** 2 / (2 * variance)
            for share, centre, variance in zip(SHARES, CENTRES, variances, strict=True)
        ]
    )
    weights = np.exp(logs - logs.max(axis=0))
    means = [
        (centre * float(sigma) ** 2 + x * width**2) / variance
        for centre, width, variance in zip(CENTRES, WIDTHS, variances, strict=True)
    ]
    x0 = (weights * np.stack(means)).sum(axis=0) / weights.sum(axis=0)
    return torch.from_numpy(x0) if torch_in else x0


def start(sigma: float) -> Any:
    return np.random.default_rng(5).standard_normal(SHAPE) * sigma


def drawn(step: int, draw: int) -> Any:
    """The noise that both sides are given."""
    return np.random.default_rng([step, draw]).standard_normal(SHAPE)


def ours(scheduler: str, sigmas: Sequence[float]) -> list[Any]:
    """Our x after every step."""
    trajectory: list[Any] = []

    def keep(step: int, sigma: float, x: Any) -> None:
        trajectory.append(x)

    svdkit.sample(
        denoise, start(sigmas[0]), sigmas=sigmas, scheduler=scheduler, noise=drawn, callback=keep, to_zero=False
    )
    return trajectory


def theirs(name: str, sigmas: Sequence[float], **options: Any) -> list[Any]:
    """The same by a sampler of k-diffusion, whose callbacks are handed x before every step."""
    levels = torch.tensor(sigmas, dtype=torch.float64)
    trajectory: list[Any] = []
    step, draws = 0, 0

    def keep(info: dict[str, Any]) -> None:
        nonlocal step, draws
        step, draws = info["i"], 0
        trajectory.append(info["x"])

    def noise(sigma: Any, sigma_next: Any) -> Any:
        nonlocal draws
        draws += 1
        return torch.from_numpy(drawn(step, draws - 1))

    if name in NOISY:
        options["noise_sampler"] = noise
    sampler = getattr(samplers(), f"sample_{name}")
    end = sampler(
        lambda x, sigma: denoise(x, sigma[0]),
        torch.from_numpy(start(sigmas[0])),
        levels,
        callback=keep,
        disable=True,
        **options,
    )
    return [*trajectory[1:], end]


NOISY = ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")


def worst(found: Sequence[Any], expected: Sequence[Any]) -> float:
    assert len(found) == len(expected)
    return max(relative_error(a, b) for a, b in zip(found, expected, strict=True))


def written(options: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in options.items())


CASES: list[tuple[str, dict[str, Any]]] = [
    ("euler", {}),
    ("heun", {}),
    ("dpm_2", {}),
    ("dpmpp_2m", {}),
    *(("lms", {"order": order}) for order in (1, 2, 3, 4)),
    *(
        (name, options)
        for name in NOISY
        for options in ({}, {"eta": 0.0}, {"eta": 0.4, "s_noise": 1.1}, {"eta": 1.0, "s_noise": 0.9})
    ),
    *(("dpmpp_sde", {"r": r, "eta": 0.7}) for r in (0.3, 0.8)),
    *(("dpmpp_2m_sde", {"solver_type": "heun", "eta": eta}) for eta in (0.0, 0.5, 1.0)),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else str(value))
def test_the_trajectory_is_that_of_k_diffusion(name: str, options: dict[str, Any], schedule: str) -> None:
    sigmas = SCHEDULES[schedule]
    # Its LMS integrates with a tolerance of 1e-4, which it stays far below: the integrands are polynomials.
    assert worst(ours(f"{name}:{written(options)}", sigmas), theirs(name, sigmas, **options)) < 1e-9


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "options",
    [
        {"s_churn": 4.0, "s_tmin": 0.05, "s_tmax": 50.0},
        {"s_churn": 1.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.007},
        {"s_churn": 40.0, "s_tmin": 0.5, "s_tmax": 80.0},  # as much as a step may
        {"s_churn": 0.0},
    ],
)
def test_edm_with_churn(options: dict[str, Any], schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas = SCHEDULES[schedule]
    before: list[Any] = []

    def randn_like(x: Any) -> Any:
        before.append(x)  # once a step, at its beginning; callbacks are handed x with the noise
        return torch.from_numpy(drawn(len(before) - 1, 0))

    monkeypatch.setattr(torch, "randn_like", randn_like)
    *_, end = theirs("heun", sigmas, **options)
    assert worst(ours(f"edm_stochastic:{written(options)}", sigmas), [*before[1:], end]) < 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"order": 3},
        {"order": 2},
        {"order": 3, "rtol": 0.01, "atol": 1e-4, "h_init": 0.2},
        {"order": 2, "rtol": 0.02, "accept_safety": 0.95},
        {"order": 3, "pcoeff": 0.2, "icoeff": 0.7, "dcoeff": 0.1, "h_init": 1.5},
    ],
)
def test_dpm_adaptive(options: dict[str, Any]) -> None:
    seen: list[tuple[float, Any]] = []
    # It makes float32 of these, whatever the sample is in.
    options = {**options, **{name: float(np.float32(options.get(name, d))) for name, d in TOLERANCES.items()}}

    def watched(x: Any, sigma: Any) -> Any:
        seen.append((float(sigma), x))
        return denoise(x, sigma)

    found = svdkit.sample(
        watched,
        start(30.0),
        sigmas=[30.0, 5.0, 0.01],  # of which the one between does not matter
        scheduler=f"dpm_adaptive:{written(options | {'error_floor': 1e-8})}",
        to_zero=False,
    )
    ours_seen = list(seen)
    seen.clear()
    x, info = samplers().sample_dpm_adaptive(
        lambda x, sigma: watched(x, sigma[0]),
        torch.from_numpy(start(30.0)),
        np.float64(0.01),
        np.float64(30.0),
        disable=True,
        return_info=True,
        **options,
    )
    assert found.nfe == len(ours_seen) == len(seen) == info["nfe"]
    assert info["n_reject"] > 0, "some steps are tried again"
    for (sigma, y), (sigma_theirs, y_theirs) in zip(ours_seen, seen, strict=True):
        assert sigma == pytest.approx(sigma_theirs, rel=1e-9)
        assert relative_error(y, y_theirs) < 1e-9
    assert relative_error(found.x, x) < 1e-9


TOLERANCES = {"rtol": 0.05, "atol": 0.0078}


# diffusers


class Wide:
    """A module whose float32 is float64, for source that casts to float32 on its own."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.float32 = module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@pytest.fixture
def widened(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The formulas of diffusers in float64: they are the same, and only their casts are not."""
    for module in (scheduling_euler_discrete, scheduling_euler_ancestral_discrete):
        monkeypatch.setattr(module, "torch", Wide(torch))
        monkeypatch.setattr(module, "np", Wide(np))
    return


def run(scheduler: Any, sigmas: Sequence[float], scaled: bool = False, sign: int = -1) -> list[Any]:
    """The x after every step of a diffusers scheduler whose noise levels are set, told the v of the denoiser.

    Args:
        scheduler: with as many timesteps as the noise levels have steps.
        sigmas: its noise levels.
        scaled: whether it steps samples of variance 1.
        sign: of the model's output.
    """
    x = torch.from_numpy(start(sigmas[0]))
    trajectory = []
    for i, sigma in enumerate(sigmas[:-1]):
        v = (denoise(x, sigma) - x / (sigma**2 + 1)) * (sign * math.sqrt(sigma**2 + 1) / sigma)
        given, end = (math.sqrt(s**2 + 1) if scaled else 1.0 for s in (sigma, sigmas[i + 1]))
        scheduler.scale_model_input(x, scheduler.timesteps[i])
        x = scheduler.step(v, scheduler.timesteps[i], x / given, return_dict=False)[0] * end
        trajectory.append(x)
    return trajectory


def with_sigmas(scheduler: Any, sigmas: Sequence[float]) -> Any:
    """A scheduler that steps between noise levels which it has no argument for."""
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.set_begin_index(0)
    return scheduler


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.usefixtures("widened")
def test_diffusers_euler(schedule: str) -> None:
    sigmas = SCHEDULES[schedule]
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(sigmas=sigmas)
    assert scheduler.sigmas.tolist() == list(sigmas), "in float64"
    assert worst(ours("euler", sigmas), run(scheduler, sigmas)) < 1e-9


def test_diffusers_euler_untouched() -> None:
    """In its own float32, whose rounding (6e-8) of levels and samples is what is left."""
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(25)
    sigmas = scheduler.sigmas.tolist()
    assert sigmas == pytest.approx(karras(25), rel=1e-6)
    assert worst(ours("euler", sigmas), run(scheduler, sigmas)) < 1e-6


@pytest.mark.usefixtures("widened")
def test_diffusers_euler_ancestral(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter(range(100))
    monkeypatch.setattr(
        scheduling_euler_ancestral_discrete,
        "randn_tensor",
        lambda shape, **_: torch.from_numpy(drawn(next(steps), 0)),
    )
    sigmas = SCHEDULES["karras"]
    scheduler = with_sigmas(EulerAncestralDiscreteScheduler(prediction_type="v_prediction"), sigmas)
    assert worst(ours("euler_ancestral", sigmas), run(scheduler, sigmas)) < 1e-9


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("schedule", ["karras", "short", "uneven"])
@pytest.mark.parametrize(
    ("options", "scheduler"),
    [
        ({}, "dpmpp_2m"),
        ({"solver_type": "heun"}, "dpmpp_2m_sde:eta=0,solver_type=heun"),
        ({"solver_order": 1}, "euler"),
        ({"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde"),
        ({"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, "dpmpp_2m_sde:solver_type=heun"),
        ({"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, "euler_ancestral"),
        # The second step is of second order, for which k-diffusion, whose third order ours is, has heun's formula.
        ({"solver_order": 3, "solver_type": "heun", "lower_order_final": False}, "dpmpp_3m_sde:eta=0"),
    ],
    ids=str,
)
def test_diffusers_edm_dpm_solver(
    options: dict[str, Any], scheduler: str, schedule: str, prediction_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sigma_data = 1 it is the solver of Stable Video Diffusion; "epsilon" is v with the other sign."""
    steps = iter(range(100))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_edm_dpmsolver_multistep.randn_tensor",
        lambda shape, **_: torch.from_numpy(drawn(next(steps), 0)),
    )
    sigmas = SCHEDULES[schedule]
    theirs = EDMDPMSolverMultistepScheduler(sigma_data=1.0, prediction_type=prediction_type, **options)
    trajectory = run(with_sigmas(theirs, sigmas), sigmas, sign=-1 if prediction_type == "v_prediction" else 1)
    assert worst(ours(scheduler, sigmas), trajectory) < 1e-9


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_diffusers_unipc(schedule: str, order: int, variant: str) -> None:
    """It steps samples of variance 1, x / sqrt(sigma^2 + 1), between any levels that it is told."""
    sigmas = SCHEDULES[schedule]
    if sigmas[-1] == 0 and order == 3:
        sigmas = sigmas[:-1]  # its third order cannot go to 0 and lowers itself before, which ours need not do
    theirs = UniPCMultistepScheduler(
        prediction_type="v_prediction", solver_order=order, solver_type=variant, lower_order_final=sigmas[-1] == 0
    )
    trajectory = run(with_sigmas(theirs, sigmas), sigmas, scaled=True)
    assert worst(ours(f"unipc:order={order},variant={variant}", sigmas), trajectory) < 1e-9


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_diffusers_deis(schedule: str, order: int) -> None:
    """The same; its last level is never 0, to which its formulas do not go, and it only goes there in first order."""
    sigmas = [sigma for sigma in SCHEDULES[schedule] if sigma > 0]
    theirs = DEISMultistepScheduler(prediction_type="v_prediction", solver_order=order, lower_order_final=False)
    trajectory = run(with_sigmas(theirs, sigmas), sigmas, scaled=True)
    assert worst(ours(f"deis:order={order}", sigmas), trajectory) < 1e-9
