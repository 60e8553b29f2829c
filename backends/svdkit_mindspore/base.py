"""What the two MindSpore devices share: transfer, launch mode, compilation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from svdkit.backend import Array, Backend, F, Host


def constant(values: Host, dtype: str) -> Array:
    """Weights and index tables are `Parameter`s: the graph compiler takes those, and no plain tensor, as captured."""
    # The cast is MindSpore's: NumPy's from float16 takes twice as long.
    return ms.Parameter(_tensor(values).astype(getattr(ms, dtype)), requires_grad=False)


def _tensor(values: Host) -> Array:
    """A tensor over the array's own memory, in a dtype that MindSpore has too."""
    if values.dtype.name in ("bfloat16", "float64"):
        values = values.astype(np.float32)
    return ms.Tensor.from_numpy(np.ascontiguousarray(values))


class MindSporeBackend(Backend):
    """MindSpore, whatever the device."""

    name = "mindspore"

    def array(self, values: Host, dtype: str | None = None) -> Array:
        # A copy first: the tensor would share the memory of an array that the caller may change.
        return _tensor(np.array(values, np.float32)).astype(getattr(ms, dtype or self.dtype))

    def numpy(self, x: Array) -> Host:
        return np.asarray(x.astype(ms.float32).asnumpy())

    def cast(self, x: Array, dtype: str | None = None) -> Array:
        return x.astype(getattr(ms, dtype or self.dtype))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return arrays[0] if len(arrays) == 1 else ops.concat(tuple(arrays), axis)

    def all_finite(self, x: Array) -> bool:
        return bool(np.isfinite(x.asnumpy()).all())

    def compile(self, function: F) -> F:
        # Tracing takes any Python; the default capture parses it and refuses zip over objects and closures.
        # It treats a method's owner as a Cell, so what it is given is a plain function.
        compiled: F = ms.jit(lambda *args: function(*args), capture_mode="trace")
        return compiled

    def _share(self, factor: Host, flip: bool) -> float:
        return float(1 / (1 + np.exp(np.float64(factor[0]) * (1 if flip else -1))))

    def silu(self, x: Array) -> Array:
        return ops.silu(x)

    def quick_gelu(self, x: Array) -> Array:
        return x * ops.sigmoid(1.702 * x)

    def swap_axes(self, x: Array, videos: int) -> Array:
        a, b, channels = x.shape[0] // videos, x.shape[1], x.shape[2]
        return x.reshape(videos, a, b, channels).transpose(0, 2, 1, 3).reshape(videos * b, a, channels)

    def mix(self, factor: Host, flip: bool) -> Any:
        share = self._share(factor, flip)
        return lambda a, b: b + (a - b) * share
