"""Backends that are wrong on purpose, and which tests of the suite may fail for each: those, and no others.

They are NumPy's but for one thing. `test_conformance_fakes.py` runs this file in a pytest of its own.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any, ClassVar

import numpy as np

from svdkit.hookspecs import PluginSpec, hookimpl
from svdkit.testing import BackendConformance
from svdkit_numpy.backend import NumpyBackend

DECLARED = r"test_(names|dtypes|other|with|state|capabilities|compile\[)"
LONGER = "drawn|block|component|network|trajectory|generat|by_name|batch|compiled_equals|gradients"


class Fake(BackendConformance):
    """A fake is tried with everything but drawn shapes and networks, which take longer, unless it says otherwise."""

    dtypes: ClassVar[Any] = ("float32",)
    examples = 3
    tried: ClassVar[str] = rf"^test_(?!.*({LONGER}))"
    fails: ClassVar[str]


FAKES: dict[str, type[NumpyBackend]] = {}


def fake(fails: str, **attributes: Any) -> Any:
    """Registers a backend, and a class that tests it. `fails` matches the tests that fail, each part one."""

    def register(cls: type[NumpyBackend]) -> type[NumpyBackend]:
        cls.name = f"fake-{cls.__name__.lower()}"
        FAKES[cls.name] = cls
        test = f"Test{cls.__name__}"
        members = {"backend": cls.name, "fails": fails, "__module__": __name__, **attributes}
        setattr(sys.modules[__name__], test, type(test, (Fake,), members))
        return cls

    return register


@hookimpl
def svdkit_backends():
    return [
        PluginSpec(name=name, target=f"fake_backends:{cls.__name__}", summary="a fake") for name, cls in FAKES.items()
    ]


@fake(fails="^$", tried="")
class Right(NumpyBackend):
    """Nothing is wrong: all tests pass, networks too."""


# Kernels


@fake(fails=r"kernel_on_named\w+\[.*silu|kernel_on_drawn\w+\[.*silu", tried="kernel_on")
class InPlace(NumpyBackend):
    def silu(self, x):
        np.multiply(x, 1 / (1 + np.exp(-x)), out=x)
        return x


@fake(fails=r"kernel_on_\w+\[.*silu|kernel_on_\w+\[.*group_norm|weights_come")
class LeaksFloat64(NumpyBackend):
    def silu(self, x):
        return super().silu(x.astype(np.float64))


@fake(fails=r"kernel_on_\w+\[.*silu|kernel_on_\w+\[.*group_norm|activation_everywhere.*-silu")
class Rough(NumpyBackend):
    def silu(self, x):
        with np.errstate(over="ignore", invalid="ignore"):
            return super().silu(x.astype(np.float16)).astype(np.float32)


@fake(fails=r"kernel_on_\w+\[.*ge\w*lu|deterministic.*geglu|coarse_kernel.*geglu|weights_come|slices_are")
class Flattens(NumpyBackend):
    def gelu(self, x):
        return super().gelu(x).ravel()


@fake(fails=r"kernel_on_\w+\[.*gelu|activation_everywhere.*-gelu|coarse_kernel.*geglu")
class TanhGelu(NumpyBackend):
    def gelu(self, x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(np.float32(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)))

    def geglu(self, weight, bias):
        half, exact = len(weight) // 2, NumpyBackend(self.device, self.dtype)
        value, gate = self.linear(weight[:half], bias[:half]), self.linear(weight[half:], bias[half:])
        return lambda x: value(x) * exact.gelu(gate(x))


@fake(fails=r"kernel_on_\w+\[.*group_norm|mean_much_larger.*3|one_size.*group_norm")
class IgnoresFrames(NumpyBackend):
    def group_norm(self, *args):
        layer = super().group_norm(*args)
        return lambda x, frames=1: layer(x)


@fake(fails=r"mean_much_larger")
class NaiveVariance(NumpyBackend):
    def group_norm(self, weight, bias, groups, eps, silu):
        scale, shift = (self.array(a).reshape(-1, 1, 1) for a in (weight, bias))

        def apply(x, frames=1):
            grouped = x.reshape(-1, frames, groups, x.shape[1] // groups, *x.shape[2:])
            mean, square = (a.mean((1, 3, 4, 5), keepdims=True) for a in (grouped, grouped * grouped))
            y = ((grouped - mean) / np.sqrt(np.maximum(square - mean * mean, 0) + np.float32(eps))).reshape(x.shape)
            return self.silu(y * scale + shift) if silu else y * scale + shift

        return apply


@fake(fails=r"kernel_on_\w+\[.*temporal_conv|one_size.*temporal_conv")
class ShiftsFrames(NumpyBackend):
    def temporal_conv(self, weight, bias):
        layer = super().temporal_conv(weight, bias)
        return lambda x, frames, plus=None: np.roll(layer(x, frames, plus), 1, axis=0)


@fake(fails=r"kernel_on_\w+\[.*linear", tried="kernel")
class AddsNothing(NumpyBackend):
    def linear(self, weight, bias):
        layer = super().linear(weight, bias)
        return lambda x, plus=None: layer(x)


@fake(fails=r"kernel_on_\w+\[.*conv2d|one_size.*conv2d")
class SwapsPadding(NumpyBackend):
    def conv2d(self, weight, bias, stride=1, padding=(1, 1)):
        return super().conv2d(weight, bias, stride, padding[::-1])


@fake(fails=r"kernel_on_\w+\[.*attention|one_size.*attention")
class DoesNotScale(NumpyBackend):
    def attention(self, q, k, v, heads):
        return super().attention(q * np.float32((q.shape[-1] // heads) ** 0.5), k, v, heads)


@fake(fails=r"softmax_of_large_scores")
class NaiveSoftmax(NumpyBackend):
    def attention(self, q, k, v, heads):
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (q, k, v))
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            scores = np.exp(q @ k.swapaxes(2, 3) * np.float32(q.shape[-1] ** -0.5))
            out = scores @ v / scores.sum(-1, keepdims=True)
        return out.swapaxes(1, 2).reshape(out.shape[0], out.shape[2], -1)


@fake(fails=r"kernel_on_\w+\[.*upsample|one_size.*upsample")
class OffByOne(NumpyBackend):
    def upsample(self, x, height, width):
        rows = np.minimum((np.arange(height) * x.shape[2] + height - 1) // height, x.shape[2] - 1)
        return x[:, :, rows][..., np.arange(width) * x.shape[3] // width]


@fake(fails=r"kernel_is_deterministic.*attention")
class HasMoods(NumpyBackend):
    calls: ClassVar[Any] = itertools.count()

    def attention(self, q, k, v, heads):
        return super().attention(q, k, v, heads) * np.float32(1 + 2e-7 * (next(self.calls) % 3))


@fake(fails=r"one_size.*upsample")
class RemembersBySize(NumpyBackend):
    tables: ClassVar[dict[Any, Any]] = {}

    def upsample(self, x, height, width):
        rows = np.arange(height) * x.shape[2] // height
        columns = np.arange(width) * x.shape[3] // width
        fresh = rows[:, None] * x.shape[3] + columns
        table = self.tables.setdefault((x.shape[2] * x.shape[3], height * width), fresh)
        return x.reshape(*x.shape[:2], -1)[..., table].reshape(*x.shape[:2], height, width)


@fake(fails=r"test_block|test_component", tried="kernel|test_block|test_component")
class LayersRememberBySize(NumpyBackend):
    def conv2d(self, weight, bias, stride=1, padding=(1, 1)):
        layer, shapes = super().conv2d(weight, bias, stride, padding), {}

        def apply(x, plus=None):
            y = layer(x, plus)
            return y.reshape(*y.shape[:2], *shapes.setdefault(y.size, y.shape[2:]))

        return apply


@fake(fails=r"test_component|network_is_deterministic|do_not_meet", tried="kernel|network|component|meet")
class Drifts(NumpyBackend):
    def linear(self, weight, bias):
        layer, calls = super().linear(weight, bias), [0]

        def apply(x, plus=None):
            calls[0] += 1
            return layer(x, plus) * np.float32(1 + 1e-3 * (calls[0] - 1))

        return apply


# What is declared


class Elsewhere(np.ndarray):
    device = "elsewhere"


@fake(fails=r"kernel_on_\w+\[.*-silu|group_norm-then_silu")
class WrongDevice(NumpyBackend):
    def silu(self, x):
        return super().silu(x).view(Elsewhere)


@fake(fails=r"other_devices", tried=DECLARED)
class AnyDevice(NumpyBackend):
    def __init__(self, device=None, dtype=None):
        super().__init__("cpu", dtype)


@fake(fails=r"other_dtypes", tried=DECLARED)
class AnyDtype(NumpyBackend):
    def __init__(self, device=None, dtype=None):
        super().__init__(device, dtype if dtype in self.dtypes else None)


@fake(fails=r"\[float16", dtypes=None)
class OverdeclaresFloat16(NumpyBackend):
    dtypes = ("float32", "float16")

    def array(self, values, dtype=None):
        return np.ascontiguousarray(values, np.float32)


@fake(fails=r"dtypes_are_known|\[float8", dtypes=("float32", "float8"))
class OverdeclaresFloat8(NumpyBackend):
    dtypes = ("float32", "float8")


@fake(fails=r"test_compile\[", tried=DECLARED)
class UndeclaredCompile(NumpyBackend):
    def compile(self, function):
        return function


class Declares(NumpyBackend):
    capabilities: ClassVar[Any] = frozenset({"compile"})


@fake(fails=r"test_compile\[", tried=DECLARED)
class OverdeclaresCompile(Declares):
    pass


@fake(fails=r"capabilities_are_known", tried=DECLARED)
class CapturesWithoutCompiling(Declares):
    capabilities = frozenset({"graph_capture"})


@fake(fails=r"capabilities_are_known", tried=DECLARED)
class Teleports(Declares):
    capabilities = frozenset({"teleport"})


@fake(fails=r"test_gradients", tried="gradients|capabilities")
class OverdeclaresGradients(Declares):
    capabilities = frozenset({"gradients"})


@fake(
    fails=r"test_gradients",
    tried=r"gradients.*ResnetBlock|capabilities",
    gradient=staticmethod(lambda function, x: function(x)[..., :1] * 0 + x * 0),
)
class WrongGradients(Declares):
    capabilities = frozenset({"gradients"})


@fake(fails=r"test_compile\[|compiled_equals_eager", tried="test_compile|kernel_on_named")
class StaleResults(Declares):
    """As a graph that was recorded once and is not fed."""

    def compile(self, function):
        results = {}

        def compiled(*args):
            shape = args[0].shape
            return results.setdefault(shape, function(*args))

        return compiled


@fake(fails=r"test_compile\[|compiled_equals_eager", tried="test_compile|kernel_on_named")
class OneBuffer(Declares):
    """As a graph whose output is always at the same address."""

    def compile(self, function):
        buffers = {}

        def compiled(*args):
            result = function(*args)
            buffer = buffers.setdefault(result.shape, np.empty_like(result))
            buffer[...] = result
            return buffer

        return compiled


@fake(fails=r"test_compile\[", tried="test_compile|kernel_on_named")
class CompilesByCode(Declares):
    """One graph for all functions of the same source."""

    graphs: ClassVar[dict[Any, Any]] = {}

    def compile(self, function):
        return self.graphs.setdefault(function.__code__, function)
