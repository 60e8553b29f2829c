"""Registers the scheduler and the sigma schedule."""

from __future__ import annotations

from svdkit import PluginSpec, hookimpl


@hookimpl
def svdkit_schedulers() -> list[PluginSpec]:
    """Solvers."""
    return [
        PluginSpec(
            name="rk2",
            target="svdkit_example_scheduler.rk2:RK2",
            summary="second order, 2 evaluations a step, the second at alpha; Ralston's by default",
        )
    ]


@hookimpl
def svdkit_sigma_schedules() -> list[PluginSpec]:
    """Noise levels."""
    return [
        PluginSpec(
            name="lognormal",
            target="svdkit_example_scheduler.lognormal:lognormal",
            summary="quantiles of a normal distribution of log sigma",
        )
    ]
