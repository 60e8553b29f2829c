"""What a tensor framework must provide to run Stable Video Diffusion: one class, about twenty-five small methods.

The architecture (`svdkit.arch`) is written once, over these. Two words are used throughout:

* a *map* is a batch of feature maps whose layout only the backend knows (channels first or last);
* *tokens* are plain arrays `(N, L, C)`: N frames, L positions in row-major order, C channels.

Methods that take weights are *layer builders*: they run once, at load, may reorder or transform what they are
given, and return a callable that is run for every step. Weights arrive as NumPy arrays in the checkpoint's
layout and dtype; the builder converts them to the backend's dtype, so that one copy is alive at the end, or keeps
them as they are.

In float16 and bfloat16, sums over many elements (normalisation statistics, softmax) are kept in float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from attrs import evolve, frozen

from .errors import InputError
from .memory import Memory, host_memory

Array: TypeAlias = Any  # whatever the framework calls a tensor: has .shape, .reshape and the operators + - * /
Map: TypeAlias = Any  # feature maps in the backend's own layout; of two equal shapes, `+` adds them
Layer: TypeAlias = Callable[..., Any]
Host: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
F = TypeVar("F", bound=Callable[..., Any])

CAPABILITIES = {
    "compile": "`compile` works; without it, `compile` raises an `InputError`",
    "graph_capture": "what is compiled is launched as one graph, so that it costs nothing to launch many kernels",
    "gradients": "results are differentiable, by the framework's own means, with respect to arrays and weights",
}
"""What a backend can declare beside its devices and dtypes."""


def mix_share(factor: Host, flip: bool) -> float:
    """The share of a mixture's first branch: `sigmoid(factor)`, or `1 - sigmoid(factor)` if flipped, in float64."""
    return float(1 / (1 + np.exp(np.float64(factor[0]) * (1 if flip else -1))))


def added(y: Array | Map, plus: Array | Map | None) -> Array | Map:
    """`y + plus`, if there is something to add: what `plus` means of layers that do not add it on the way."""
    return y if plus is None else y + plus


def itemsize(dtype: str) -> int:
    """Bytes of one element of a float dtype."""
    return {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[dtype]


@frozen
class Call:
    """One call of a kernel, as `Backend.scratch` is told of it. Maps are `(N, C, H, W)` here, whatever their layout."""

    kernel: str
    """The method's name; `"slice"` and `"arithmetic"` are those of arrays."""
    inputs: tuple[Shape, ...]
    origins: tuple[str, ...]
    """The kernel that made each input, or made it a view; `"view"` if it is an array's `reshape`."""
    output: Shape
    weight: Shape
    """Of the layer, if it is one."""
    options: Mapping[str, int]
    """`heads`, `frames`, `stride`, `padding` (before and after together), `silu`, where the kernel has them."""
    itemsize: int
    """Bytes of one element."""


def upsample_then_conv2d(call: Call) -> tuple[Call, Call]:
    """The two calls that one of `upsample_conv2d` is where a backend composes it."""
    larger = *call.inputs[0][:2], *call.output[2:]
    upsample = evolve(call, kernel="upsample", output=larger, weight=(), options={})
    return upsample, evolve(call, kernel="conv2d", inputs=(larger,), origins=("upsample",))


def multiplies(call: Call) -> bool:
    """Whether it is a matrix product at each position: a linear layer, or a convolution that sees no other."""
    if call.kernel == "temporal_conv":
        return call.options["frames"] == 1
    if call.kernel == "conv2d":
        return call.weight[2:] == (1, 1) and call.options["stride"] == 1 and call.options["padding"] == 0
    return call.kernel in ("linear", "geglu")


def doubles(call: Call) -> bool:
    """Whether one of `upsample_conv2d` makes every row and every column two."""
    return call.output[2:] == tuple(2 * n for n in call.inputs[0][2:])


@frozen
class Device:
    """A device that a backend can compute on."""

    name: str
    """As `device=` takes it."""
    description: str = ""
    memory: int | None = None
    """In bytes, where the framework tells."""


class Backend(ABC):
    """Kernels of one framework on one device in one dtype. Instances are immutable.

    Args:
        device: what the framework calls its device, for instance `"cpu"`, `"ascend"`, `"cuda:1"`.
        dtype: `"float32"`, `"float16"`, … : the dtype of weights and activations.

    Raises:
        InputError: this backend has no such device or dtype.
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]
    """Kinds of device, the default one first."""
    dtypes: ClassVar[tuple[str, ...]]
    """Dtypes, the default one first."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What this backend can do on its device besides running kernels, of `CAPABILITIES`."""
        return frozenset()

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        self.device = device or self.devices[0]
        self.dtype = dtype or self.dtypes[0]
        kind, colon, index = self.device.partition(":")
        numbered = not colon or (index.isascii() and index.isdecimal())
        if kind not in self.devices or not numbered or (self.devices == ("cpu",) and int(index or 0)):
            raise InputError(f"Backend {self.name!r} has no device {self.device!r}; it has {', '.join(self.devices)}.")
        if self.dtype not in self.dtypes:
            raise InputError(
                f"Backend {self.name!r} does not compute in {self.dtype!r} on {self.device!r}; "
                f"choose one of {', '.join(self.dtypes)}."
            )

    def found_devices(self) -> Iterable[Device]:
        """The devices of this machine that the backend could be made for; the one it is made for, if not overridden."""
        return (Device(self.device),)

    def with_dtype(self, dtype: str) -> Backend:
        """The same backend and device in another dtype."""
        return self if dtype == self.dtype else type(self)(self.device, dtype)

    @property
    def state_dtype(self) -> str:
        """Dtype of the sampling state: float32 at least, whatever the model computes in."""
        return "float64" if self.dtype == "float64" else "float32"

    def exclusive(self) -> AbstractContextManager[Any]:
        """What a pipeline's calls enter, where the framework's operators may not be called by two threads at once."""
        return nullcontext()

    # Memory

    views: ClassVar[frozenset[str]] = frozenset()
    """Kernels whose result is a view of their argument, so that it needs no memory of its own."""

    def scratch(self, call: Call) -> Sequence[int]:
        """Bytes of each buffer that a kernel holds at its peak beside its arguments and its result, in the order made.

        Of a backend that does not say, the needs are told too small: there are none.
        """
        return ()

    def kept(self, call: Call) -> Iterable[tuple[Hashable, int]]:
        """Tables that a call leaves for later calls of its shapes: key and bytes of each."""
        return ()

    @property
    def maps_weights(self) -> bool:
        """Whether layers compute with weights as they are stored, so that files may stay mapped instead of read."""
        return False

    def held(self, weight: Host, stride: int = 1) -> int:
        """Bytes that a layer keeps of a weight, of which shape and dtype are real: in its own dtype, or as stored."""
        return weight.size * itemsize(self.dtype)

    def memory(self) -> Memory:
        """What memory the device has; the host's, if not overridden."""
        return host_memory()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error that a kernel raised says that there is no memory left."""
        return isinstance(error, MemoryError)

    # Arrays

    @abstractmethod
    def array(self, values: Host, dtype: str | None = None) -> Array:
        """A host array on the device, in `dtype` (this backend's own if not given)."""

    @abstractmethod
    def numpy(self, x: Array) -> Host:
        """An array back on the host; 16-bit floats come back as float32."""

    @abstractmethod
    def cast(self, x: Array, dtype: str | None = None) -> Array:
        """`x` in another dtype (this backend's own if not given)."""

    @abstractmethod
    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Arrays joined along an axis."""

    @abstractmethod
    def all_finite(self, x: Array) -> bool:
        """Whether no element is NaN or infinite."""

    def compile(self, function: F) -> F:
        """`function` (arrays and nested tuples of arrays in, an array out) compiled; same results.

        Raises:
            InputError: this backend cannot compile.
        """
        raise InputError(f"Backend {self.name!r} cannot compile; leave `compile=False`.")

    # Feature maps

    @abstractmethod
    def to_map(self, x: Array) -> Map:
        """`(N, C, H, W)` as feature maps."""

    @abstractmethod
    def from_map(self, x: Map) -> Array:
        """Feature maps as `(N, C, H, W)`."""

    @abstractmethod
    def tokens(self, x: Map) -> Array:
        """Feature maps as tokens `(N, H*W, C)`."""

    @abstractmethod
    def from_tokens(self, x: Array, height: int, width: int) -> Map:
        """Tokens `(N, H*W, C)` as feature maps."""

    @abstractmethod
    def size(self, x: Map) -> tuple[int, int]:
        """Height and width of feature maps."""

    @abstractmethod
    def concat_channels(self, a: Map, b: Map) -> Map:
        """The channels of `a`, then those of `b`."""

    @abstractmethod
    def upsample(self, x: Map, height: int, width: int) -> Map:
        """Nearest-neighbour resize: output row i is input row `i * H // height`, columns alike."""

    # Layers

    @abstractmethod
    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        """`(map, plus=None) -> map`. weight `(O, I, k, k)`; `padding` zeros before and after, on both axes alike.

        `plus`, a map of the result's shape, is added to the result.
        """

    @abstractmethod
    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        """`(map, frames, plus=None) -> map`: convolution over the frames of each video, zeros beyond its ends.

        weight `(O, I, k, 1, 1)`, k odd; the N maps are N / frames videos one after another. `plus` as in `conv2d`.
        """

    def upsample_conv2d(self, weight: Host, bias: Host) -> Layer:
        """`(map, height, width) -> map`: `upsample`, then `conv2d` padded by 1; weight `(O, I, 3, 3)`."""
        conv = self.conv2d(weight, bias)
        return lambda x, height, width: conv(self.upsample(x, height, width))

    @abstractmethod
    def linear(self, weight: Host, bias: Host | None) -> Layer:
        """`(…, I), plus=None -> (…, O)`. weight `(O, I)`; `plus`, of the result's shape, is added to the result."""

    @abstractmethod
    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        """`(map, frames=1) -> map`: normalised over groups of channels, then SiLU if asked for.

        With `frames > 1` the statistics are those of all frames of a video together.
        """

    @abstractmethod
    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        """`(…, C) -> (…, C)`: normalised over the last axis."""

    @abstractmethod
    def mix(self, factor: Host, flip: bool) -> Layer:
        """`(a, b) -> w * a + (1 - w) * b`, for two maps or two arrays of one shape.

        `w = sigmoid(factor)`, or `1 - sigmoid(factor)` if flipped; factor `(1,)` is learned.
        """

    def geglu(self, weight: Host, bias: Host) -> Layer:
        """`(…, I) -> (…, O)`: `a * gelu(b)` with `a, b` the halves of a linear layer (arXiv:2002.05202)."""
        half = weight.shape[0] // 2
        value = self.linear(weight[:half], bias[:half])
        gate = self.linear(weight[half:], bias[half:])
        return lambda x: value(x) * self.gelu(gate(x))

    # Functions

    @abstractmethod
    def silu(self, x: Array) -> Array:
        """`x * sigmoid(x)`."""

    @abstractmethod
    def gelu(self, x: Array) -> Array:
        """`x * Phi(x)` with the exact Gaussian distribution function, not its tanh approximation."""

    @abstractmethod
    def quick_gelu(self, x: Array) -> Array:
        """`x * sigmoid(1.702 * x)`, which some CLIP towers were trained with."""

    @abstractmethod
    def attention(self, q: Array, k: Array, v: Array, heads: int) -> Array:
        """Softmax attention of `(N, L, C)` on `(N, M, C)`, scaled by `(C / heads) ** -0.5`.

        Memory must stay linear in L and M beyond a few thousand tokens.
        """

    def temporal_attention(self, q: Array, k: Array, v: Array, heads: int, frames: int) -> Array:
        """Attention over the frames of each video, at each position apart; `(N, L, C)` in and out."""
        videos = q.shape[0] // frames
        q, k, v = (self.swap_axes(x, videos) for x in (q, k, v))
        return self.swap_axes(self.attention(q, k, v, heads), videos)

    @abstractmethod
    def swap_axes(self, x: Array, videos: int) -> Array:
        """`(videos * A, B, C) -> (videos * B, A, C)`: frames and positions of each video change places."""

    @abstractmethod
    def add_rows(self, x: Array | Map, rows: Array) -> Array | Map:
        """Adds `rows` `(R, C)` to maps or tokens: row r to all positions of the r-th of R runs of frames."""
