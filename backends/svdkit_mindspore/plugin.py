"""Registers the backend, without importing MindSpore."""

from __future__ import annotations

from svdkit.hookspecs import PluginSpec, hookimpl


@hookimpl
def svdkit_backends() -> list[PluginSpec]:
    """MindSpore."""
    return [
        PluginSpec(
            name="mindspore",
            target="svdkit_mindspore.backend:create",
            summary="the default: Ascend NPUs (ascend) and CPUs (cpu)",
            requires=("mindspore", "numba"),
            install="pip install 'svdkit[mindspore]'",
        )
    ]
