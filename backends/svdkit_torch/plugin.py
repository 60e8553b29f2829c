"""Registers the backend."""

from __future__ import annotations

from svdkit.hookspecs import PluginSpec, hookimpl


@hookimpl
def svdkit_backends() -> list[PluginSpec]:
    """PyTorch."""
    return [
        PluginSpec(
            name="torch",
            target="svdkit_torch.backend:TorchBackend",
            summary="CPU, CUDA, Apple MPS, and Ascend through torch_npu; float32, float16, bfloat16",
            requires=("torch", "numba"),
            install="pip install 'svdkit[torch]'",
        )
    ]
