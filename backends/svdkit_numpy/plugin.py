"""Registers the backend."""

from __future__ import annotations

from svdkit.hookspecs import PluginSpec, hookimpl


@hookimpl
def svdkit_backends() -> list[PluginSpec]:
    """NumPy."""
    return [
        PluginSpec(
            name="numpy",
            target="svdkit_numpy.backend:NumpyBackend",
            summary="the readable reference, in float32 or float64; slow",
            requires=("scipy",),
            install="pip install 'svdkit[numpy]'",
        )
    ]
