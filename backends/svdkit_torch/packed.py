"""Linear layers and convolutions on a CPU, in operators of our own.

In float32 compiled loops (`svdkit_loops`) take linear weights as they are stored, and gated layers in bfloat16 too,
where the processor multiplies pairs of it: GELU costs less in them than between two products of oneDNN's, though these
are 7 % faster. Else oneDNN does the work, for which weights are arranged once: its `conv2d` arranges them anew in every
call, which for the UNet's deepest 3x3 convolutions takes longer than convolving (68 ms, packed 29). torch has packed
weights for its own compiler only, so all this is in operators of ours, which that compiler takes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, library

from svdkit_loops import product
from svdkit_loops.stored import Stored

from .host import empty, memory_of
from .recording import unless_recorded

DTYPES = {torch.float32, torch.bfloat16}
"""What oneDNN computes in; float16 only on processors that have it in hardware."""

_mkldnn: Any = torch.ops.mkldnn
_torch: Any = torch  # whose parts below are not typed


def available(dtype: torch.dtype) -> bool:
    """Whether this torch, on this processor, packs weights of a dtype."""
    packs = hasattr(_mkldnn, "_linear_pointwise") and hasattr(_mkldnn, "_convolution_pointwise")
    if not packs or dtype not in DTYPES or not _torch.backends.mkldnn.is_available():
        return False
    return dtype is torch.float32 or bool(_mkldnn._is_mkldnn_bf16_supported())


def pack_linear(weight: Tensor) -> Tensor:
    """`(O, I)`, opaque from then on."""
    packed: Tensor = _mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def pack_conv2d(weight: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
    """`(O, I, k, l)`, opaque from then on."""
    weight = weight.contiguous(memory_format=torch.channels_last)
    packed: Tensor = _mkldnn._reorder_convolution_weight(weight, padding, (stride, stride), (1, 1), 1, None)
    return packed


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None, out: int) -> Tensor:
    if not weight.is_mkldnn:
        y = empty(*x.shape[:-1], out, dtype=x.dtype)
        offset, more = None if bias is None else memory_of(bias), None if plus is None else _rows(plus)
        product.multiply(_rows(x), memory_of(weight), offset, _rows(y), more)
        return y
    result: Tensor
    if plus is None:
        result = _mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    else:
        result = _mkldnn._linear_pointwise.binary(x, plus, weight, bias, "add")
    return result


def _rows(x: Tensor) -> Stored:
    return memory_of(x).reshape(-1, x.shape[-1])


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plus: Tensor | None,
    out: int,
    kernel: Sequence[int],
    stride: int,
    padding: Sequence[int],
) -> Tensor:
    geometry = padding, (stride, stride), (1, 1), 1
    result: Tensor
    if plus is None:
        result = _mkldnn._convolution_pointwise(x, weight, bias, *geometry, "none", [], "")
    else:
        result = _mkldnn._convolution_pointwise.binary(x, plus, weight, bias, *geometry, "add", 1.0, None, [], None)
    return result


def _geglu(x: Tensor, value: Tensor, value_bias: Tensor, gate: Tensor, gate_bias: Tensor, out: int) -> Tensor:
    if not value.is_mkldnn:
        y = empty(*x.shape[:-1], out, dtype=x.dtype)
        b, c = memory_of(value_bias), memory_of(gate_bias)
        product.multiply_gated(_rows(x), memory_of(value), b, memory_of(gate), c, _rows(y))
        return y
    # GELU and the halves' product are done on what each matrix product has in cache; apart they pass through memory.
    gates = _mkldnn._linear_pointwise(x, gate, gate_bias, "gelu", [], "none")
    result: Tensor = _mkldnn._linear_pointwise.binary(x, gates, value, value_bias, "mul")
    return result


_register: Any = library
operators = _register.Library("svdkit", "DEF")
"""What torch knows as `torch.ops.svdkit`."""
operators.define("linear(Tensor x, Tensor weight, Tensor? bias, Tensor? plus, int out) -> Tensor")
operators.define(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? plus, int out, int[] kernel, int stride, int[] padding) "
    "-> Tensor"
)
operators.define("geglu(Tensor x, Tensor value, Tensor value_bias, Tensor gate, Tensor gate_bias, int out) -> Tensor")
for _key in ("CPU", "MkldnnCPU"):
    operators.impl("linear", _linear, _key)
    operators.impl("conv2d", _conv2d, _key)
    operators.impl("geglu", _geglu, _key)


def _linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None, out: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out)


def _conv2d_shape(x: Tensor, *others: Any) -> Tensor:
    out, kernel, stride, padding = others[-4:]
    size = ((n + 2 * p - k) // stride + 1 for n, p, k in zip(x.shape[2:], padding, kernel, strict=True))
    return x.new_empty(x.shape[0], *size, out).permute(0, 3, 1, 2)


def _geglu_shape(x: Tensor, *weights: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], weights[-1])


_register.register_fake("svdkit::linear", _linear_shape, lib=operators)
_register.register_fake("svdkit::conv2d", _conv2d_shape, lib=operators)
_register.register_fake("svdkit::geglu", _geglu_shape, lib=operators)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.shape, ctx.weight, ctx.adds, ctx.options = inputs[0].shape, inputs[1], inputs[3] is not None, inputs[5:]


def _linear_gradient(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    weight = context.weight
    matrix = weight.to_dense() if weight.is_mkldnn else weight.to(gradient.dtype)
    return gradient @ matrix, None, None, gradient if context.adds else None, None


def _conv2d_gradient(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    _, stride, padding = context.options
    weight = context.weight.to_dense()
    found = _torch.nn.grad.conv2d_input(context.shape, weight, gradient, stride, padding)
    return found, None, None, gradient if context.adds else None, *(None,) * 4


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.weights = inputs
    ctx.save_for_backward(x)


def _geglu_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    value, value_bias, gate, gate_bias, out = ctx.weights
    with torch.enable_grad():
        x = ctx.saved_tensors[0].detach().requires_grad_()
        y = linear(x, value, value_bias, None, out) * _torch.nn.functional.gelu(linear(x, gate, gate_bias, None, out))
    return *torch.autograd.grad(y, x, gradient), *(None,) * 5


# Packed weights are frozen; gradients go through them to what comes before.
_register.register_autograd("svdkit::linear", _linear_gradient, setup_context=_keep, lib=operators)
_register.register_autograd("svdkit::conv2d", _conv2d_gradient, setup_context=_keep, lib=operators)
_register.register_autograd("svdkit::geglu", _geglu_gradient, setup_context=_keep_all, lib=operators)

linear = unless_recorded(torch.ops.svdkit.linear, _linear)
"""`(…, I)`, packed weight, bias (of loops in float32), what is added or None, and O, to `(…, O)`."""
conv2d = unless_recorded(torch.ops.svdkit.conv2d, _conv2d)
"""`(N, I, H, W)` channels last, packed weight, bias, what is added or None, O, kernel, stride and padding, to
`(N, O, H', W')`, channels last too."""
geglu = unless_recorded(torch.ops.svdkit.geglu, _geglu)
"""`(…, I)`, weight and bias, as above, of the value and of the gate, and O, to `value * gelu(gate)`, `(…, O)`."""
