"""Registers the UNet."""

from __future__ import annotations

from svdkit import ComponentSpec, hookimpl


@hookimpl
def svdkit_components() -> list[ComponentSpec]:
    """For NumPy alone: what is registered for a backend is used with it unasked, and only there it is sure to help."""
    return [
        ComponentSpec(
            name="onnx",
            component="unet",
            backend="numpy",
            target="svdkit_onnx.unet:OnnxUNet",
            summary="the UNet as an ONNX graph, run by onnxruntime on the CPU in float32",
            requires=("onnx", "onnxruntime"),
            install="pip install 'onnx>=1.17,<2' 'onnxruntime>=1.20,<2'",
        )
    ]
