"""What the two MindSpore devices share: transfer, launch mode, compilation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from itertools import count
from threading import RLock
from typing import Any, cast

import mindspore as ms
import numpy as np
from mindspore import ops

from svdkit.backend import Array, Backend, Device, F, Host


def constant(values: Host, dtype: str) -> Array:
    """Weights and index tables are `Parameter`s: the graph compiler takes those, and no plain tensor, as captured."""
    # The cast is MindSpore's: NumPy's from float16 takes twice as long.
    tensor = _tensor(values).astype(getattr(ms, dtype))
    # Made of a tensor, a parameter copies it, half the time of loading; given it afterwards, it takes its memory.
    parameter = ms.Parameter(ms.Tensor(0, tensor.dtype), requires_grad=False)
    parameter.set_data(tensor, slice_shape=True)
    return parameter


def _tensor(values: Host) -> Array:
    """A tensor over the array's own memory, in a dtype that MindSpore has too."""
    if values.dtype.name in ("bfloat16", "float64"):
        values = values.astype(np.float32)
    return ms.Tensor.from_numpy(np.ascontiguousarray(values))


class MindSporeBackend(Backend):
    """MindSpore, whatever the device."""

    name = "mindspore"
    capabilities = frozenset({"compile"})

    def found_devices(self) -> Iterator[Device]:
        yield Device("cpu")
        ascend = ms.device_context.ascend
        for i in range(ascend.device_count() if ascend.is_available() else 0):
            yield Device(f"ascend:{i}", "Ascend NPU")

    def exclusive(self) -> RLock:
        return _ONE_AT_A_TIME

    def is_out_of_memory(self, error: BaseException) -> bool:
        text = str(error).lower()
        said = isinstance(error, RuntimeError) and ("out of memory" in text or "memory not enough" in text)
        return said or super().is_out_of_memory(error)

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
        # Tracing takes any Python; the default capture parses it and refuses zip over objects and closures. Tensors
        # in tuples would be constants of the graph, so they are handed over one by one.
        graphs: dict[Any, F] = {}

        def compiled(*args: Any) -> Array:
            tensors: list[Array] = []
            structure = _flatten(args, tensors)
            signature = structure, tuple((x.shape, x.dtype) for x in tensors)
            if signature in graphs:
                return _in_graph(graphs[signature], tensors)

            def graph(*tensors: Array) -> Array:
                return function(*_unflatten(structure, iter(tensors)))

            # Graphs are kept for ever by name and address, and the address may be another function's later.
            graph.__name__ = f"graph_{next(_NUMBERS)}"
            step = ms.jit(graph, capture_mode="trace")
            # Tracing reads the source line of every caller and fails where there is none, as under `python -m` and
            # in interactive sessions. A new thread has no callers.
            with ThreadPoolExecutor(1) as thread:
                output = thread.submit(_in_graph, step, tensors).result()
            graphs[signature] = step
            return output

        return cast(F, compiled)

    def silu(self, x: Array) -> Array:
        return ops.silu(x)

    def quick_gelu(self, x: Array) -> Array:
        return x * ops.sigmoid(1.702 * x)

    def swap_axes(self, x: Array, videos: int) -> Array:
        a, b, channels = x.shape[0] // videos, x.shape[1], x.shape[2]
        return x.reshape(videos, a, b, channels).transpose(0, 2, 1, 3).reshape(videos * b, a, channels)


_ONE_AT_A_TIME = RLock()
"""MindSpore 2.10 gives wrong numbers, or ends the process, when two threads call operators."""
_NUMBERS = count()
IN_GRAPH = ContextVar("IN_GRAPH", default=False)
"""Whether operators are being recorded, and so have no values."""


def _in_graph(step: Any, tensors: Sequence[Array]) -> Any:
    before = IN_GRAPH.set(True)
    try:
        return step(*tensors)
    finally:
        IN_GRAPH.reset(before)


def _flatten(tree: Any, leaves: list[Array]) -> Any:
    """The nesting of tuples, which the leaves, collected in order, are without."""
    if isinstance(tree, tuple):
        return tuple(_flatten(branch, leaves) for branch in tree)
    leaves.append(tree)
    return None


def _unflatten(structure: Any, leaves: Iterator[Array]) -> Any:
    if structure is None:
        return next(leaves)
    return tuple(_unflatten(branch, leaves) for branch in structure)
