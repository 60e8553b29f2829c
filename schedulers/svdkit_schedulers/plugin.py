"""Registers what comes with svdkit, through the hooks that everyone uses."""

from __future__ import annotations

from typing import Any

from svdkit.hookspecs import PluginSpec, hookimpl

SCHEDULERS = {
    "euler": ("euler:Euler", "first order, 1 evaluation a step; what Stable Video Diffusion is published with"),
    "euler_ancestral": ("euler:EulerAncestral", "first order, stochastic"),
    "ddim": ("euler:DDIM", "first order; eta=0 is euler, eta=1 is DDPM"),
    "lcm": ("euler:LCM", "consistency sampling, stochastic; for AnimateLCM-SVD"),
    "heun": ("second_order:Heun", "second order, 2 evaluations a step"),
    "dpm_2": ("second_order:DPM2", "second order, 2 evaluations a step"),
    "dpm_2_ancestral": ("second_order:DPM2Ancestral", "second order, 2 evaluations a step, stochastic"),
    "edm_stochastic": ("second_order:EDMStochastic", "second order, 2 evaluations a step, stochastic by churn"),
    "lms": ("multistep:LMS", "Adams-Bashforth in sigma, fourth order, 1 evaluation a step"),
    "deis": ("multistep:DEIS", "Adams-Bashforth in log sigma, third order, 1 evaluation a step"),
    "ipndm": ("multistep:IPNDM", "Adams-Bashforth with the weights of even steps, 1 evaluation a step"),
    "dpmpp_2m": ("dpm_solver:DPMpp2M", "DPM-Solver++, second order, 1 evaluation a step"),
    "dpmpp_2s_ancestral": ("dpm_solver:DPMpp2SAncestral", "DPM-Solver++, second order, 2 evaluations, stochastic"),
    "dpmpp_sde": ("dpm_solver:DPMppSDE", "DPM-Solver++, 2 evaluations a step, stochastic"),
    "dpmpp_2m_sde": ("dpm_solver:DPMpp2MSDE", "DPM-Solver++, second order, 1 evaluation a step, stochastic"),
    "dpmpp_3m_sde": (
        "dpm_solver:DPMpp3MSDE",
        "DPM-Solver++ of three steps, second order, 1 evaluation, stochastic",
    ),
    "dpm_adaptive": ("dpm_adaptive:DPMAdaptive", "DPM-Solver with steps of its own choosing"),
    "unipc": ("unipc:UniPC", "predictor and corrector, third order, 1 evaluation a step"),
    "res_multistep": ("exponential:ResMultistep", "exponential Adams, second order, 1 evaluation a step"),
    "sa_solver": ("exponential:SASolver", "stochastic Adams, predictor and corrector, 1 evaluation a step"),
}
SIGMA_SCHEDULES = {
    "karras": ("svdkit.sigmas:karras", "even in sigma ** (1 / rho); what Stable Video Diffusion is published with"),
    "exponential": ("svdkit_schedulers.schedules:exponential", "even in log sigma"),
    "polyexponential": ("svdkit_schedulers.schedules:polyexponential", "a power of an even ramp, in log sigma"),
    "uniform": ("svdkit_schedulers.schedules:exponential", "even in what the network is told, log(sigma) / 4"),
    "sgm_uniform": (
        "svdkit_schedulers.schedules:sgm_uniform",
        "even in log sigma, stopping one level before sigma_min",
    ),
    "ays": ("svdkit_schedulers.schedules:ays", "Align Your Steps, the table for Stable Video Diffusion"),
    "beta": ("svdkit_schedulers.schedules:beta", "quantiles of a beta distribution, dense at both ends"),
    "linear_quadratic": ("svdkit_schedulers.schedules:linear_quadratic", "half the steps near sigma_max"),
    "laplace": ("svdkit_schedulers.schedules:laplace", "dense around sigma 1, by a Laplace distribution"),
    "cosine": ("svdkit_schedulers.schedules:cosine", "even in the angle whose tangent is sigma"),
    "lcm": ("svdkit_schedulers.schedules:lcm", "AnimateLCM-SVD's levels"),
}
NEEDS: dict[str, dict[str, Any]] = {"beta": {"requires": ("scipy",), "install": "pip install scipy"}}


@hookimpl
def svdkit_schedulers() -> list[PluginSpec]:
    """Solvers."""
    return [
        PluginSpec(name=name, target=f"svdkit_schedulers.{target}", summary=summary)
        for name, (target, summary) in SCHEDULERS.items()
    ]


@hookimpl
def svdkit_sigma_schedules() -> list[PluginSpec]:
    """Noise levels."""
    return [
        PluginSpec(name=name, target=target, summary=summary, **NEEDS.get(name, {}))
        for name, (target, summary) in SIGMA_SCHEDULES.items()
    ]
