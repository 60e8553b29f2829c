"""svdkit's own suites: of a component, for the UNet, and of kernels, for the backend that writes it down."""

from __future__ import annotations

import attrs
from svdkit_onnx.backend import OnnxBackend

from svdkit.testing import ComponentConformance, PluginConformance
from svdkit.testing.kernel_checks import KernelChecks
from svdkit.testing.tolerances import TOLERANCES


class TestUNet(ComponentConformance):
    """The component, by name."""

    component = "unet"
    backend = "numpy"
    name = "onnx"


class TestKernels(KernelChecks):
    """Every kernel, computed as soon as it is compared."""

    backend = "onnx"  # it is registered nowhere, since formulas are of use only inside the UNet
    dtypes = ("float32",)
    # onnxruntime's Sigmoid is 1e-7 off, and 0 below -18: times x, in silu, that is 1.6e-6 where the suite allows 1e-6.
    tolerances = {"float32": attrs.evolve(TOLERANCES["float32"], activation=4e-6)}  # noqa: RUF012

    def on(self, dtype: str | None = None) -> OnnxBackend:
        """Not by name."""
        return OnnxBackend(dtype=dtype)


class TestPlugin(PluginConformance):
    """What it registers, and that listing it costs nothing."""

    plugin = "svdkit_onnx.plugin"
