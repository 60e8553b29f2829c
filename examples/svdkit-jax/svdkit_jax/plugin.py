"""Registers the backend."""

from __future__ import annotations

from svdkit import PluginSpec, hookimpl


@hookimpl
def svdkit_backends() -> list[PluginSpec]:
    """JAX."""
    return [
        PluginSpec(
            name="jax",
            target="svdkit_jax.backend:JaxBackend",
            summary="CPUs, GPUs and TPUs through XLA; compiles, and differentiates",
            requires=("jax",),
            install="pip install svdkit-jax",
        )
    ]
