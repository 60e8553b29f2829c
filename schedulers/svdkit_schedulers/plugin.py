"""Registers what comes with svdkit, through the hooks that everyone uses."""

from __future__ import annotations

from svdkit.hookspecs import PluginSpec, hookimpl


@hookimpl
def svdkit_schedulers() -> list[PluginSpec]:
    """Solvers."""
    return [
        PluginSpec(
            name="euler",
            target="svdkit_schedulers.euler:Euler",
            summary="first-order, one evaluation a step; what Stable Video Diffusion is published with",
        )
    ]


@hookimpl
def svdkit_sigma_schedules() -> list[PluginSpec]:
    """Noise levels."""
    return [
        PluginSpec(
            name="karras",
            target="svdkit.sigmas:karras",
            summary="evenly spaced in sigma ** (1 / rho), rho = 7, from 700 to 0.002",
        )
    ]
