"""A backend that computes nothing and measures: what the networks need, found by running them on shapes.

Its arrays have a shape and an item size. Their bytes count from when they are made until Python frees them, which
is when an eager framework frees its own: so the architecture, written once, also tells its memory, and its
floating-point operations, in milliseconds and before a weight is read. What is particular to a framework, such as
the patches that its convolution gathers, the backend declares itself: see `Backend.scratch`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from ..backend import Backend, Call, F, Host, Layer, Shape, itemsize


class Ledger:
    """Bytes that are alive, the most that ever were, and operations by kernel."""

    def __init__(self) -> None:
        self.alive = 0
        self.peak = 0
        self.weights = 0
        """Bytes of the weights of layers that were built."""
        self.kept: dict[Hashable, int] = {}
        """Tables that calls left for later calls."""
        self.flops: Counter[str] = Counter()
        """Floating-point operations of products, by kernel; a multiplication and an addition are two."""

    def take(self, size: int) -> None:
        """Count memory as alive."""
        self.alive += size
        self.peak = max(self.peak, self.alive + sum(self.kept.values()))

    def free(self, size: int) -> None:
        """Count it no more."""
        self.alive -= size

    def keep(self, tables: Iterable[tuple[Hashable, int]]) -> None:
        """Tables that stay alive; of one key there is one."""
        self.kept.update(tables)


class _Storage:
    """Memory, which views share. It counts until the last of them is gone."""

    def __init__(self, ledger: Ledger, size: int) -> None:
        self.ledger, self.size = ledger, size
        ledger.take(size)

    def __del__(self) -> None:
        self.ledger.free(self.size)


class Sized:
    """An array without elements. Maps are `(N, C, H, W)`, whatever the layout of the backend that is measured."""

    def __init__(
        self, meter: Meter, shape: Iterable[int], size: int, made: str, storage: _Storage | None = None
    ) -> None:
        self.meter = meter
        self.made = made
        self.shape: Shape = tuple(int(n) for n in shape)
        self.itemsize = size
        self.storage = storage or _Storage(meter.ledger, self.nbytes)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of all elements."""
        return math.prod(self.shape) * self.itemsize

    def view(self, shape: Iterable[int], made: str = "view") -> Sized:
        """The same memory in another shape."""
        return Sized(self.meter, shape, self.itemsize, made, self.storage)

    def reshape(self, *shape: Any) -> Sized:
        """As arrays have it, with one -1 at most."""
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        known = math.prod(n for n in sizes if n != -1)
        return self.view(math.prod(self.shape) // known if n == -1 else n for n in sizes)

    def __getitem__(self, key: Any) -> Sized:
        shape = np.broadcast_to(np.empty(()), self.shape)[key].shape
        return self.meter.run("slice", [self], shape)

    def _with(self, other: Any) -> Sized:
        arrays = [a for a in (self, other) if isinstance(a, Sized)]
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
        return self.meter.run("arithmetic", arrays, shape, max(a.itemsize for a in arrays))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _with


class Meter(Backend):
    """A backend's memory and operations, without its arrays.

    Args:
        backend: what is measured: its item sizes, and what it declares of its kernels.
        ledger: where it is noted; a new one if None.
    """

    name = "meter"

    def __init__(self, backend: Backend, ledger: Ledger | None = None) -> None:
        self.backend = backend
        self.device, self.dtype = backend.device, backend.dtype
        self.ledger = ledger or Ledger()
        self.itemsize = itemsize(self.dtype)

    def with_dtype(self, dtype: str) -> Meter:
        """The same in another dtype, noted in the same ledger."""
        return Meter(self.backend.with_dtype(dtype), self.ledger)

    @property
    def state_dtype(self) -> str:
        """The measured backend's."""
        return self.backend.state_dtype

    def new(self, shape: Sequence[int], dtype: str | None = None) -> Sized:
        """An array of a shape."""
        return Sized(self, shape, itemsize(dtype or self.dtype), "array")

    def run(
        self,
        kernel: str,
        arrays: Sequence[Any],
        shape: Iterable[int],
        size: int | None = None,
        weight: Shape = (),
        flops: int = 0,
        **options: int,
    ) -> Sized:
        """What a kernel returns, after its needs are noted.

        Args:
            kernel: its name.
            arrays: its arguments.
            shape: the result's.
            size: bytes of one element of the result; as in the first argument if None.
            weight: the layer's weight's shape.
            flops: floating-point operations.
            **options: what else `Backend.scratch` may want to know.
        """
        first = arrays[0]
        if kernel in self.backend.views:
            return first.view(shape, kernel)  # type: ignore[no-any-return]
        output = tuple(int(n) for n in shape)
        size = size or first.itemsize
        origins = tuple(a.made for a in arrays)
        call = Call(kernel, tuple(a.shape for a in arrays), origins, output, weight, options, size)
        self.ledger.flops[kernel] += flops
        self.ledger.keep(self.backend.kept(call))
        scratch = [_Storage(self.ledger, bytes_) for bytes_ in self.backend.scratch(call)]
        result = Sized(self, output, size, kernel)
        del scratch
        return result

    def _weigh(self, *weights: Host | None) -> None:
        self.ledger.weights += sum(w.size * self.itemsize for w in weights if w is not None)

    def _default(self, kernel: str) -> bool:
        """Whether the backend composes a kernel of finer ones, as `Backend` does."""
        return getattr(type(self.backend), kernel) is getattr(Backend, kernel)

    # Arrays

    def array(self, values: Any, dtype: str | None = None) -> Sized:
        return self.new(values.shape, dtype)

    def numpy(self, x: Sized) -> Host:
        return np.broadcast_to(np.zeros((), np.float32), x.shape)

    def cast(self, x: Sized, dtype: str | None = None) -> Sized:
        size = itemsize(dtype or self.dtype)
        return x if size == x.itemsize else self.run("cast", [x], x.shape, size)

    def concat(self, arrays: Sequence[Sized], axis: int) -> Sized:
        shape = list(arrays[0].shape)
        shape[axis] = sum(a.shape[axis] for a in arrays)
        return arrays[0] if len(arrays) == 1 else self.run("concat", arrays, shape)

    def all_finite(self, x: Sized) -> bool:
        return True

    def compile(self, function: F) -> F:
        return function

    # Feature maps

    def to_map(self, x: Sized) -> Sized:
        return self.run("to_map", [x], x.shape)

    def from_map(self, x: Sized) -> Sized:
        return self.run("from_map", [x], x.shape)

    def tokens(self, x: Sized) -> Sized:
        n, channels, height, width = x.shape
        return self.run("tokens", [x], (n, height * width, channels))

    def from_tokens(self, x: Sized, height: int, width: int) -> Sized:
        return self.run("from_tokens", [x], (x.shape[0], x.shape[2], height, width))

    def size(self, x: Sized) -> tuple[int, int]:
        return x.shape[2], x.shape[3]

    def concat_channels(self, a: Sized, b: Sized) -> Sized:
        return self.run("concat_channels", [a, b], (a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:]))

    def upsample(self, x: Sized, height: int, width: int) -> Sized:
        return self.run("upsample", [x], (*x.shape[:2], height, width))

    # Layers

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        self._weigh(bias)
        self.ledger.weights += self.backend.held(weight, stride)
        out, channels, kernel, _ = weight.shape

        def apply(x: Sized, plus: Sized | None = None) -> Sized:
            height, width = ((n + sum(padding) - kernel) // stride + 1 for n in x.shape[2:])
            shape = x.shape[0], out, height, width
            flops = 2 * math.prod(shape) * channels * kernel**2
            return self.run(
                "conv2d", _given(x, plus), shape, weight=weight.shape, flops=flops, stride=stride, padding=sum(padding)
            )

        return apply

    def upsample_conv2d(self, weight: Host, bias: Host) -> Layer:
        if self._default("upsample_conv2d"):
            return super().upsample_conv2d(weight, bias)
        self._weigh(bias)
        self.ledger.weights += self.backend.held(weight)

        def apply(x: Sized, height: int, width: int) -> Sized:
            shape = x.shape[0], weight.shape[0], height, width
            flops = 2 * math.prod(shape) * math.prod(weight.shape[1:])
            options = {"stride": 1, "padding": 2}
            return self.run("upsample_conv2d", [x], shape, weight=weight.shape, flops=flops, **options)

        return apply

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        self._weigh(bias)
        self.ledger.weights += self.backend.held(weight)
        out, channels, taps = weight.shape[:3]

        def apply(x: Sized, frames: int, plus: Sized | None = None) -> Sized:
            shape = x.shape[0], out, *x.shape[2:]
            flops = 2 * math.prod(shape) * channels * taps
            return self.run("temporal_conv", _given(x, plus), shape, weight=weight.shape, flops=flops, frames=frames)

        return apply

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        self._weigh(bias)
        return self._product("linear", weight, weight.shape[0])

    def geglu(self, weight: Host, bias: Host) -> Layer:
        if self._default("geglu"):
            return super().geglu(weight, bias)
        self._weigh(bias)
        return self._product("geglu", weight, weight.shape[0] // 2)

    def _product(self, kernel: str, weight: Host, out: int) -> Layer:
        self.ledger.weights += self.backend.held(weight)

        def apply(x: Sized, plus: Sized | None = None) -> Sized:
            flops = 2 * math.prod(x.shape[:-1]) * weight.size
            return self.run(kernel, _given(x, plus), (*x.shape[:-1], out), weight=weight.shape, flops=flops)

        return apply

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        self._weigh(weight, bias)

        def apply(x: Sized, frames: int = 1) -> Sized:
            return self.run("group_norm", [x], x.shape, weight=weight.shape, frames=frames, silu=silu)

        return apply

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        self._weigh(weight, bias)
        return lambda x: self.run("layer_norm", [x], x.shape, weight=weight.shape)

    def mix(self, factor: Host, flip: bool) -> Layer:
        return lambda a, b: self.run("mix", [a, b], a.shape)

    # Functions

    def silu(self, x: Sized) -> Sized:
        return self.run("silu", [x], x.shape)

    def gelu(self, x: Sized) -> Sized:
        return self.run("gelu", [x], x.shape)

    def quick_gelu(self, x: Sized) -> Sized:
        return self.run("quick_gelu", [x], x.shape)

    def attention(self, q: Sized, k: Sized, v: Sized, heads: int) -> Sized:
        flops = 4 * math.prod(q.shape) * k.shape[1]
        return self.run("attention", [q, k, v], q.shape, flops=flops, heads=heads)

    def temporal_attention(self, q: Sized, k: Sized, v: Sized, heads: int, frames: int) -> Sized:
        if self._default("temporal_attention"):
            return super().temporal_attention(q, k, v, heads, frames)  # type: ignore[no-any-return]
        flops = 4 * math.prod(q.shape) * frames
        return self.run("temporal_attention", [q, k, v], q.shape, flops=flops, heads=heads, frames=frames)

    def swap_axes(self, x: Sized, videos: int) -> Sized:
        return self.run("swap_axes", [x], (videos * x.shape[1], x.shape[0] // videos, x.shape[2]))

    def add_rows(self, x: Sized, rows: Sized) -> Sized:
        return self.run("add_rows", [x, rows], x.shape)


def _given(x: Sized, plus: Sized | None) -> list[Sized]:
    return [x] if plus is None else [x, plus]
