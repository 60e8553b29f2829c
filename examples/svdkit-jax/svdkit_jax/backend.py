"""The kernels of Stable Video Diffusion in JAX. Maps are `(N, H, W, C)`, so that tokens are the same numbers in a row.

What `jax.jit` compiles takes weights as arguments: layers of one shape share one program, and no program holds weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint

from svdkit.backend import Array, Backend, F, Host, Layer, Map, added
from svdkit.errors import InputError

EXACT = lax.Precision.HIGHEST  # else GPUs round the factors of a product to TF32, and TPUs to bfloat16
SCORES = 2**26  # of attention, that exist at a time: 256 MB of them


@partial(jax.jit, static_argnames=("strides", "padding"))
def convolve(x: Array, kernel: Array, bias: Array, strides: tuple[int, int], padding: Any) -> Array:
    """`(N, H, W, I)` to `(N, H', W', O)`; kernel `(h, w, I, O)`."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout, precision=EXACT) + bias


@jax.jit
def multiply(x: Array, matrix: Array, bias: Array) -> Array:
    """`(…, I)` to `(…, O)`; matrix `(I, O)`."""
    return jnp.matmul(x, matrix, precision=EXACT) + bias


@partial(jax.jit, static_argnames=("runs", "groups", "eps", "silu"))
def normalise(x: Array, scale: Array, shift: Array, runs: int, groups: int, eps: float, silu: bool) -> Array:
    """`(…, C)` to the same, cut into runs along the first axes and into groups of channels; statistics in float32."""
    grouped = x.astype(jnp.float32).reshape(runs, -1, groups, x.shape[-1] // groups)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    variance = (centred**2).mean((1, 3), keepdims=True)
    y = (centred * lax.rsqrt(variance + eps)).reshape(x.shape) * scale + shift
    return (jax.nn.silu(y) if silu else y).astype(x.dtype)


@jax.jit
def blend(a: Array, b: Array, share: Array) -> Array:
    """`share` of a, and the rest of b."""
    return b + (a - b) * share


class JaxBackend(Backend):
    """JAX, on the devices that it finds."""

    name = "jax"
    devices = ("cpu", "gpu", "cuda", "tpu")
    dtypes = ("float32", "bfloat16", "float16")
    capabilities = frozenset({"compile", "gradients"})

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        super().__init__(device, dtype)
        kind, _, number = self.device.partition(":")
        try:
            self._device = jax.devices(kind)[int(number or 0)]
        except (RuntimeError, IndexError, ValueError) as error:
            found = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
            raise InputError(f"JAX finds no device {self.device!r} here; it finds {found}.") from error

    def array(self, values: Host, dtype: str | None = None) -> Array:
        return jnp.array(values, getattr(jnp, dtype or self.dtype), device=self._device)

    def numpy(self, x: Array) -> Host:
        return np.asarray(x, np.float32)

    def cast(self, x: Array, dtype: str | None = None) -> Array:
        return x.astype(getattr(jnp, dtype or self.dtype))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return jnp.concatenate(arrays, axis)

    def all_finite(self, x: Array) -> bool:
        return bool(jnp.isfinite(x).all())

    def to_map(self, x: Array) -> Map:
        return x.transpose(0, 2, 3, 1)

    def from_map(self, x: Map) -> Array:
        return x.transpose(0, 3, 1, 2)

    def tokens(self, x: Map) -> Array:
        return x.reshape(x.shape[0], -1, x.shape[3])

    def from_tokens(self, x: Array, height: int, width: int) -> Map:
        return x.reshape(x.shape[0], height, width, -1)

    def size(self, x: Map) -> tuple[int, int]:
        return x.shape[1], x.shape[2]

    def concat_channels(self, a: Map, b: Map) -> Map:
        return jnp.concatenate([a, b], axis=3)

    @staticmethod
    @partial(jax.jit, static_argnums=(1, 2))
    def upsample(x: Map, height: int, width: int) -> Map:
        rows = np.arange(height) * x.shape[1] // height
        columns = np.arange(width) * x.shape[2] // width
        return x[:, rows[:, None], columns]

    def conv2d(self, weight: Host, bias: Host | None, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Layer:
        kernel = self.array(weight.transpose(2, 3, 1, 0))
        offset = self.array(np.zeros(weight.shape[0]) if bias is None else bias)
        return lambda x, plus=None: added(convolve(x, kernel, offset, (stride, stride), (padding, padding)), plus)

    def temporal_conv(self, weight: Host, bias: Host) -> Layer:
        kernel, offset = self.array(weight[..., 0].transpose(2, 3, 1, 0)), self.array(bias)
        reach = weight.shape[2] // 2

        def apply(x: Map, frames: int, plus: Map | None = None) -> Map:
            # The frames of a video stand as the rows of a picture, and all positions of a frame as its columns.
            videos = x.reshape(x.shape[0] // frames, frames, -1, x.shape[3])
            y = convolve(videos, kernel, offset, (1, 1), ((reach, reach), (0, 0)))
            return added(y.reshape(*x.shape[:3], -1), plus)

        return apply

    def linear(self, weight: Host, bias: Host | None) -> Layer:
        matrix = self.array(weight.T)
        offset = self.array(np.zeros(weight.shape[0]) if bias is None else bias)
        return lambda x, plus=None: added(multiply(x, matrix, offset), plus)

    def group_norm(self, weight: Host, bias: Host, groups: int, eps: float, silu: bool) -> Layer:
        scale, shift = self.array(weight), self.array(bias)
        return lambda x, frames=1: normalise(x, scale, shift, x.shape[0] // frames, groups, eps, silu)

    def layer_norm(self, weight: Host, bias: Host, eps: float) -> Layer:
        scale, shift = self.array(weight), self.array(bias)
        return lambda x: normalise(x, scale, shift, x.size // x.shape[-1], 1, eps, False)

    def mix(self, factor: Host, flip: bool) -> Layer:
        share = self.cast(jax.nn.sigmoid(self.array(-factor if flip else factor, "float32")))
        return lambda a, b: blend(a, b, share)

    def silu(self, x: Array) -> Array:
        return jax.nn.silu(x)

    def gelu(self, x: Array) -> Array:
        return jax.nn.gelu(x, approximate=False)

    def quick_gelu(self, x: Array) -> Array:
        return x * jax.nn.sigmoid(1.702 * x)

    @staticmethod
    @partial(jax.jit, static_argnums=3)
    def attention(q: Array, k: Array, v: Array, heads: int) -> Array:
        n, length, channels = q.shape
        q, k, v = (x.reshape(n, -1, heads, channels // heads) for x in (q, k, v))
        product = partial(jnp.einsum, precision=EXACT, preferred_element_type=jnp.float32)

        @checkpoint  # the gradient computes scores again rather than keep them
        def attend(query: Array) -> Array:
            scores = product("nhc,nmhc->nhm", query, k) * (channels // heads) ** -0.5
            return product("nhm,nmhc->nhc", jax.nn.softmax(scores).astype(v.dtype), v).astype(v.dtype)

        rows = max(1, SCORES // (n * heads * k.shape[1]))  # that many queries at a time
        out = lax.map(attend, q.swapaxes(0, 1), batch_size=rows)
        return out.swapaxes(0, 1).reshape(n, length, channels)

    @staticmethod
    @partial(jax.jit, static_argnums=1)
    def swap_axes(x: Array, videos: int) -> Array:
        return x.reshape(videos, -1, *x.shape[1:]).swapaxes(1, 2).reshape(videos * x.shape[1], -1, x.shape[2])

    @staticmethod
    @jax.jit
    def add_rows(x: Array | Map, rows: Array) -> Array | Map:
        return (x.reshape(rows.shape[0], -1, x.shape[-1]) + rows[:, None]).reshape(x.shape)

    def compile(self, function: F) -> F:
        programs: dict[Any, tuple[Any, Any]] = {}

        def compiled(*args: Any) -> Array:
            leaves, nesting = jax.tree.flatten(args)
            signature = nesting, tuple((x.shape, x.dtype) for x in leaves)
            if signature not in programs:
                traced = jax.make_jaxpr(function)(*args)
                program = jax.jit(partial(jax.core.eval_jaxpr, traced.jaxpr))
                programs[signature] = program, traced.consts  # its constants are the weights
            program, weights = programs[signature]
            (output,) = program(weights, *leaves)
            return output

        return cast(F, compiled)
