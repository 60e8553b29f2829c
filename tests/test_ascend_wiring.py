"""The Ascend kernels without an NPU: stand-ins take the place of its operators and check what they are given.

What this shows is that shapes, layouts, dtypes and arguments keep to the documents and that the results are
right; not that an NPU computes what its documents say.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import erf, expit

from svdkit.arch.clip_vision import CLIPVision
from svdkit.arch.unet import UNet
from svdkit.arch.vae import VAE
from svdkit.config import CLIPVisionConfig, UNetConfig, VAEConfig
from svdkit.errors import InputError
from svdkit.params import Params, build
from svdkit.testing.inputs import relative_error
from svdkit_numpy.backend import NumpyBackend

ms = pytest.importorskip("mindspore")
from svdkit_mindspore import ascend  # noqa: E402
from svdkit_mindspore.backend import create  # noqa: E402

ms.set_context(pynative_synchronize=True)  # asynchronous launch only costs time here, as it does for the CPU backend
Host = npt.NDArray[Any]
ROUNDING = {"float32": 1e-5, "float16": 6e-4, "bfloat16": 5e-3}
"""Relative error (Frobenius) granted to a single kernel: a few roundings of its dtype."""
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Host:
    return RNG.standard_normal(shape).astype(np.float32)


def name_of(dtype: Any) -> str:
    return str(dtype).lower()


def host(x: Any) -> Host:
    return np.asarray(x.asnumpy(), np.float64)


def device(values: Host, like: Any) -> Any:
    if like.dtype == ms.bfloat16:  # NumPy has none
        return ms.Tensor(np.ascontiguousarray(values, np.float32)).astype(like.dtype)
    return ms.Tensor(np.ascontiguousarray(values, name_of(like.dtype)))


class Operators:
    """Operators that a CPU lacks, exact to one rounding of their result, for one dtype of the model."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.time_dtype = "float16"
        self.calls: dict[str, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)

    def dtypes(self) -> dict[str, set[str]]:
        return {name: {dtype for dtype, _ in calls} for name, calls in self.calls.items()}

    def note(self, name: str, expected: str, *tensors: Any) -> None:
        for x in tensors:
            assert x is None or name_of(x.dtype) == expected, f"{name} takes {expected}, was given {x.dtype}"
        self.calls[name].append((expected, tuple(tensors[0].shape)))

    def weights(self, *tensors: Any) -> None:
        assert all(x is None or isinstance(x, ms.Parameter) for x in tensors), "weights are made at build"

    def convolve(self, x: Any, weight: Any, bias: Any, stride: int, padding: tuple[int, ...]) -> Any:
        assert x.ndim == weight.ndim == len(padding) + 2
        assert x.shape[1] == weight.shape[1]
        axes = tuple(range(2, x.ndim))
        values, kernel = np.pad(host(x), [(0, 0), (0, 0), *((p, p) for p in padding)]), host(weight)
        windows = np.lib.stride_tricks.sliding_window_view(values, kernel.shape[2:], axis=axes)
        windows = windows[(slice(None), slice(None), *[slice(None, None, stride)] * len(axes))]
        taps = tuple(range(x.ndim, windows.ndim))
        y = np.tensordot(windows, kernel, ((1, *taps), (1, *axes)))
        if bias is not None:
            y = y + host(bias)
        return device(np.moveaxis(y, -1, 1), x)

    def conv2d(
        self,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        self.note("conv2d", self.dtype, input, weight, bias)
        self.weights(weight, bias)
        assert isinstance(stride, int)
        assert isinstance(padding, int)
        assert (dilation, groups) == (1, 1)
        return self.convolve(input, weight, bias, stride, (padding, padding))

    def conv3d(
        self,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        self.note("conv3d", self.time_dtype, input, weight, bias)
        self.weights(weight, bias)
        assert (stride, dilation, groups) == (1, 1, 1)
        # "PadUp < kh", and alike for the other axes.
        assert len(padding) == 3
        assert all(p < k for p, k in zip(padding, weight.shape[2:], strict=True))
        return self.convolve(input, weight, bias, 1, padding)

    def linear(self, input: Any, weight: Any, bias: Any = None) -> Any:
        self.note("linear", self.dtype, input, weight, bias)
        self.weights(weight, bias)
        y = host(input) @ host(weight).T
        return device(y if bias is None else y + host(bias), input)

    def group_norm(self, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        self.note("group_norm", "float32", input, weight, bias)
        self.weights(weight, bias)
        assert isinstance(eps, float)
        assert input.shape[1] % num_groups == 0
        x = host(input).reshape(input.shape[0], num_groups, -1)
        x = (x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + eps)
        affine = (host(a).reshape(-1, *[1] * (input.ndim - 2)) for a in (weight, bias))
        scale, shift = affine
        return device(x.reshape(input.shape) * scale + shift, input)

    def layer_norm(
        self, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Any:
        self.note("layer_norm", "float32", input, weight, bias)
        self.weights(weight, bias)
        assert isinstance(eps, float)
        assert tuple(normalized_shape) == tuple(input.shape[-1:]) == tuple(weight.shape)
        x = host(input)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return device(x * host(weight) + host(bias), input)

    def silu(self, input: Any, inplace: bool = False) -> Any:
        self.note("silu", "float32", input)
        assert not inplace
        return device(host(input) * expit(host(input)), input)

    def sigmoid(self, input: Any) -> Any:
        self.note("sigmoid", "float32", input)
        return device(expit(host(input)), input)

    def gelu(self, input: Any, *, approximate: str = "none") -> Any:
        self.note("gelu", self.dtype, input)
        assert approximate == "none"
        return device(host(input) * (1 + erf(host(input) * 0.5**0.5)) / 2, input)

    def interpolate(
        self,
        input: Any,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: Any = None,
        recompute_scale_factor: Any = None,
    ) -> Any:
        self.note("interpolate", self.dtype, input)
        assert mode == "nearest"
        assert (scale_factor, align_corners, recompute_scale_factor) == (None, None, None)
        assert input.ndim == 4
        assert len(size) == 2
        # CANN's formula, min(floor(i * scale), length - 1), in the float32 of its `scale`.
        rows, columns = (
            np.minimum(np.floor(np.arange(out, dtype=np.float32) * np.float32(old / out)), old - 1).astype(int)
            for old, out in zip(input.shape[2:], size, strict=True)
        )
        return device(host(input)[:, :, rows[:, None], columns], input)

    def pad(self, input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
        self.note("pad", self.dtype, input)
        assert (mode, value) == ("constant", None)
        pairs = [tuple(pad[i : i + 2]) for i in range(0, len(pad), 2)][::-1]
        return device(np.pad(host(input), [(0, 0)] * (input.ndim - len(pairs)) + pairs), input)

    def softmax(self, input: Any, dim: Any = None, dtype: Any = None) -> Any:
        self.note("softmax", "float32", input)
        assert dim == -1
        assert name_of(dtype) == "float32"
        scores = host(input)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        return ms.Tensor((scores / scores.sum(-1, keepdims=True)).astype(np.float32))

    def bmm(self, input: Any, mat2: Any) -> Any:
        dtype = name_of(input.dtype)
        assert dtype in ("float32", self.dtype)
        self.note("bmm", dtype, input, mat2)
        assert input.ndim == mat2.ndim == 3
        assert input.shape[0] == mat2.shape[0]
        return device(host(input) @ host(mat2), input)

    def split(self, tensor: Any, split_size_or_sections: Any, dim: int = 0) -> Any:
        size = split_size_or_sections
        assert tensor.shape[dim] % size == 0
        pieces = np.split(host(tensor), tensor.shape[dim] // size, dim)
        return tuple(device(piece, tensor) for piece in pieces)

    def flash_attention_score(
        self,
        query: Any,
        key: Any,
        value: Any,
        head_num: int,
        real_shift: Any = None,
        drop_mask: Any = None,
        padding_mask: Any = None,
        attn_mask: Any = None,
        prefix: Any = None,
        actual_seq_qlen: Any = None,
        actual_seq_kvlen: Any = None,
        keep_prob: float = 1.0,
        scalar_value: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 2147483647,
        inner_precise: int = 0,
        input_layout: str = "BSH",
        sparse_mode: int = 0,
    ) -> Any:
        assert self.dtype in ("float16", "bfloat16")
        self.note("flash_attention_score", self.dtype, query, key, value)
        assert input_layout == "BSH"
        assert keep_prob == 1.0
        assert sparse_mode == 0
        assert isinstance(scalar_value, float)
        assert key.shape == value.shape
        assert (query.shape[0], query.shape[2]) == (key.shape[0], key.shape[2])
        width = query.shape[2] // head_num
        assert width * head_num == query.shape[2]
        assert width % 16 == 0
        assert width <= 512
        assert 1 <= head_num <= 256
        assert 1 <= query.shape[0] <= 2000
        assert all(1 <= x.shape[1] <= 512_000 for x in (query, key))

        def split(x: Any) -> Host:
            return host(x).reshape(*x.shape[:2], head_num, width).transpose(0, 2, 1, 3)

        scores = split(query) @ split(key).swapaxes(2, 3) * scalar_value
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        y = scores @ split(value) / scores.sum(-1, keepdims=True)
        return device(y.transpose(0, 2, 1, 3).reshape(query.shape), query)


FUNCTIONAL = (
    *(
        "conv2d",
        "conv3d",
        "linear",
        "group_norm",
        "layer_norm",
        "silu",
        "sigmoid",
        "gelu",
        "interpolate",
        "pad",
    ),
    "softmax",
)
DOCUMENTED = {name: getattr(ms.mint.nn.functional, name) for name in FUNCTIONAL} | {
    "bmm": ms.mint.bmm,
    "split": ms.mint.split,
    "flash_attention_score": ms.ops.flash_attention_score,
}
Open = Callable[..., tuple[ascend.MindSporeAscend, Operators]]


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls of `set_device`, which here succeeds."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ms, "set_device", lambda *args: calls.append(args))
    monkeypatch.setattr(ms.device_context.ascend, "device_count", lambda: 2)
    return calls


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, claimed: object) -> Open:
    """Opens the backend in a dtype, on stand-ins; an operator that has none is an AttributeError."""

    def opened(dtype: str) -> tuple[ascend.MindSporeAscend, Operators]:
        operators = Operators(dtype)
        functional = SimpleNamespace(**{name: getattr(operators, name) for name in FUNCTIONAL})
        mint = SimpleNamespace(nn=SimpleNamespace(functional=functional), bmm=operators.bmm, split=operators.split)
        monkeypatch.setattr(ascend, "mint", mint)
        flash = SimpleNamespace(flash_attention_score=operators.flash_attention_score)
        monkeypatch.setattr(ascend, "ops", flash)
        return ascend.MindSporeAscend(dtype=dtype), operators

    return opened


REFERENCE = NumpyBackend(dtype="float64")
every_dtype = pytest.mark.parametrize("dtype", ascend.MindSporeAscend.dtypes)


def check(k: ascend.MindSporeAscend, found: Any, expected: Host, tolerance: float | None = None) -> None:
    assert name_of(found.dtype) == k.dtype
    assert relative_error(host(found), expected) < (tolerance or ROUNDING[k.dtype])


def given(k: ascend.MindSporeAscend, *shape: int) -> tuple[Any, Host]:
    """Random values on the backend, and the same as the reference sees them."""
    x = k.array(normal(*shape))
    return x, host(x)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_stand_ins_have_the_documented_signature(name: str) -> None:
    document = inspect.getdoc(DOCUMENTED[name])
    platforms = document[document.rindex("Supported Platforms:") :].splitlines()[1]
    assert "``Ascend``" in platforms
    signature = inspect.signature(DOCUMENTED[name])
    if "args" in signature.parameters:  # an overload, whose document begins with its signature
        scope: dict[str, Any] = {}
        exec(f"def {document.partition(' -> ')[0]}: ...", scope)
        signature = inspect.signature(scope[name])
    stand_in = inspect.signature(getattr(Operators("float16"), name))
    assert [(p.name, p.kind, p.default) for p in stand_in.parameters.values()] == [
        (p.name, p.kind, p.default) for p in signature.parameters.values()
    ]


@every_dtype
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "bias"),
    [
        ((5, 7), 3, 1, (1, 1), True),
        ((5, 7), 3, 2, (1, 1), True),
        ((8, 6), 3, 2, (0, 1), True),
        ((5, 3), 1, 1, (0, 0), False),
        ((28, 42), 14, 14, (0, 0), False),
    ],
)
def test_conv2d(
    opened: Open,
    dtype: str,
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: tuple[int, int],
    bias: bool,
) -> None:
    k, operators = opened(dtype)
    x, seen = given(k, 2, 3, *size)
    weights = normal(5, 3, kernel, kernel), normal(5) if bias else None
    check(k, k.conv2d(*weights, stride, padding)(x), REFERENCE.conv2d(*weights, stride, padding)(seen))
    assert ("pad" in operators.calls) == (padding[0] != padding[1])


@every_dtype
@pytest.mark.parametrize("frames", [1, 5])
def test_temporal_conv_is_in_float16(opened: Open, dtype: str, frames: int) -> None:
    k, operators = opened(dtype)
    x, seen = given(k, 2 * frames, 3, 3, 5)
    weights = normal(4, 3, 3, 1, 1), normal(4)
    expected = REFERENCE.temporal_conv(*weights)(seen, frames)
    check(k, k.temporal_conv(*weights)(x, frames), expected, max(ROUNDING[dtype], ROUNDING["float16"]))
    assert operators.calls["conv3d"] == [("float16", (2, 3, frames, 3, 5))]


@every_dtype
@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(opened: Open, dtype: str, frames: int, silu: bool) -> None:
    k, _ = opened(dtype)
    x, seen = given(k, 2 * frames, 12, 3, 5)
    x, seen = x + 3, host(x + 3)
    weights = normal(12), normal(12)
    options = {"groups": 4, "eps": 1e-6, "silu": silu}
    found = k.group_norm(*weights, **options)(x, frames)
    check(k, found, REFERENCE.group_norm(*weights, **options)(seen, frames))


@every_dtype
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers(opened: Open, dtype: str, bias: bool) -> None:
    k, _ = opened(dtype)
    x, seen = given(k, 2, 5, 7)
    weights = normal(6, 7), normal(6) if bias else None
    check(k, k.linear(*weights)(x), REFERENCE.linear(*weights)(seen))
    check(
        k,
        k.layer_norm(weights[0][0], weights[0][1], 1e-5)(x),
        REFERENCE.layer_norm(*weights[0][:2], 1e-5)(seen),
    )


@every_dtype
def test_geglu_is_one_product(opened: Open, dtype: str) -> None:
    k, operators = opened(dtype)
    x, seen = given(k, 2, 5, 7)
    weights = normal(6, 7), normal(6)
    check(k, k.geglu(*weights)(x), REFERENCE.geglu(*weights)(seen), 3 * ROUNDING[dtype])
    assert len(operators.calls["linear"]) == 1


@every_dtype
@pytest.mark.parametrize("function", ["silu", "gelu", "quick_gelu"])
def test_functions(opened: Open, dtype: str, function: str) -> None:
    k, _ = opened(dtype)
    x, seen = given(k, 3, 5)
    check(k, getattr(k, function)(x), getattr(REFERENCE, function)(seen))


@every_dtype
@pytest.mark.parametrize("flip", [False, True])
def test_mix_is_in_float32(opened: Open, dtype: str, flip: bool) -> None:
    k, _ = opened(dtype)
    (a, seen_a), (b, seen_b) = given(k, 2, 3, 4), given(k, 2, 3, 4)
    factor = np.array([0.7], np.float32)
    check(k, k.mix(factor, flip)(a, b), REFERENCE.mix(factor, flip)(seen_a, seen_b))
    far = k.mix(factor, flip)(k.array(np.full(2, 6e4)), k.array(np.full(2, -6e4)))  # a - b is beyond float16
    assert np.isfinite(host(far)).all()


@every_dtype
@pytest.mark.parametrize(("old", "new"), [((3, 5), (6, 10)), ((3, 5), (5, 9)), ((1, 4), (2, 7)), ((9, 16), (9, 31))])
def test_maps(opened: Open, dtype: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    k, _ = opened(dtype)
    x, seen = given(k, 4, 3, *old)
    m = k.to_map(x)
    assert k.size(m) == old
    for found, expected in (
        (k.from_map(k.upsample(m, *new)), REFERENCE.upsample(seen, *new)),
        (k.tokens(m), REFERENCE.tokens(seen)),
        (k.from_map(k.from_tokens(k.tokens(m), *old)), seen),
        (k.from_map(k.concat_channels(m, m + m)), np.concatenate([seen, seen + seen], 1)),
    ):
        assert np.array_equal(host(found), expected)
    rows, seen_rows = given(k, 2, 3)
    check(k, k.add_rows(m, rows), REFERENCE.add_rows(seen, seen_rows))
    check(k, k.add_rows(k.tokens(m), rows), REFERENCE.add_rows(REFERENCE.tokens(seen), seen_rows))


@every_dtype
@pytest.mark.parametrize(
    ("channels", "heads", "flash"),
    [(32, 2, True), (80, 1, True), (24, 3, False), (40, 1, False), (512, 1, False)],
)
def test_attention(opened: Open, dtype: str, channels: int, heads: int, flash: bool) -> None:
    k, operators = opened(dtype)
    (q, seen_q), (c, seen_c), (v, seen_v) = (
        given(k, 2, 5, channels),
        given(k, 2, 7, channels),
        given(k, 2, 7, channels),
    )
    check(
        k,
        k.attention(q, c, v, heads),
        REFERENCE.attention(seen_q, seen_c, seen_v, heads),
        2 * ROUNDING[dtype],
    )
    assert ("flash_attention_score" in operators.calls) == (flash and dtype != "float32")
    assert ("softmax" in operators.calls) != ("flash_attention_score" in operators.calls)


@every_dtype
@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("heads", [2, 8])
def test_temporal_attention(opened: Open, dtype: str, frames: int, heads: int) -> None:
    k, _ = opened(dtype)
    q, c, v = (given(k, 2 * frames, 7, 32) for _ in range(3))
    expected = REFERENCE.temporal_attention(q[1], c[1], v[1], heads, frames)
    check(k, k.temporal_attention(q[0], c[0], v[0], heads, frames), expected, 2 * ROUNDING[dtype])


def test_many_positions_fit_one_call(opened: Open) -> None:
    k, operators = opened("float16")
    x, seen = given(k, 2, 2880, 80)
    check(k, k.temporal_attention(x, x, x, 5, 2), REFERENCE.temporal_attention(seen, seen, seen, 5, 2), 3e-3)
    assert operators.calls["flash_attention_score"] == [("float16", (2880 // 48, 2, 48 * 80))]


def test_batches_beyond_the_bounds_are_cut(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    k, operators = opened("float16")
    monkeypatch.setattr(ascend, "FLASH_BATCH", 3)
    monkeypatch.setattr(ascend, "FLASH_HEADS", 4)
    x, seen = given(k, 4, 22, 32)
    expected = REFERENCE.temporal_attention(seen, seen, seen, 2, 4)
    check(k, k.temporal_attention(x, x, x, 2, 4), expected, 3e-3)
    # Eleven pairs of positions, each as one sequence of four heads.
    assert [shape for _, shape in operators.calls["flash_attention_score"]] == [(3, 4, 64)] * 3 + [(2, 4, 64)]
    k.attention(*[k.array(normal(1, 2, 80))] * 3, heads=5)
    assert "softmax" in operators.calls
    monkeypatch.setattr(ascend, "FLASH_LENGTH", 3)
    k.attention(x, x, x, 2)
    assert len(operators.calls["flash_attention_score"]) == 4


@pytest.mark.parametrize(("elements", "largest"), [(150, 140), (35, 35), (20, 14), (3, 7)])
def test_softmax_attention_is_linear_in_memory(
    opened: Open, monkeypatch: pytest.MonkeyPatch, elements: int, largest: int
) -> None:
    k, operators = opened("float32")
    monkeypatch.setattr(ascend, "SCORE_ELEMENTS", elements)
    (q, seen_q), (c, seen_c) = given(k, 3, 5, 24), given(k, 3, 7, 24)
    check(k, k.attention(q, c, c, 3), REFERENCE.attention(seen_q, seen_c, seen_c, 3))
    assert max(int(np.prod(shape)) for _, shape in operators.calls["softmax"]) == largest


class Noted:
    """Equal to whatever shape is asked for, and remembers it."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], key: str) -> None:
        self.shapes, self.key = shapes, key

    def __ne__(self, shape: object) -> bool:
        assert isinstance(shape, tuple)
        self.shapes[self.key] = shape
        return False


class Sketch:
    """A source that has whatever it is asked for."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def keys(self) -> Any:
        return self

    def __contains__(self, key: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def shape(self, key: str) -> Any:
        return Noted(self.shapes, key)

    def read(self, key: str) -> Host:
        raise AssertionError("a dry run reads nothing")


class RandomWeights:
    """Random weights for every key that an architecture asks for; they keep activations near one."""

    def __init__(self, architecture: Callable[[Params], object]) -> None:
        sketch = Sketch()
        architecture(Params(sketch, None))
        self.tensors: dict[str, Host] = {}
        for key, shape in sketch.shapes.items():
            values = normal(*shape)
            if len(shape) > 1:
                values *= np.prod(shape[1:]) ** -0.5
            else:
                values = 0.1 * values + (1 if key.endswith("weight") else 0)
            self.tensors[key] = values

    def keys(self) -> Any:
        return self.tensors.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self.tensors[key].shape

    def read(self, key: str) -> Host:
        return self.tensors[key]


UNET = UNetConfig(
    block_out_channels=(32, 64, 96),
    down_block_types=(*("CrossAttnDownBlockSpatioTemporal",) * 2, "DownBlockSpatioTemporal"),
    up_block_types=("UpBlockSpatioTemporal", *("CrossAttnUpBlockSpatioTemporal",) * 2),
    layers_per_block=1,
    num_attention_heads=(2, 8, 3),  # heads of 16, of 8, which flash attention does not take, and of 32
    cross_attention_dim=24,
    addition_time_embed_dim=16,
    projection_class_embeddings_input_dim=48,
)
VAE_CONFIG = VAEConfig(down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 64))
CLIP = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    projection_dim=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
    hidden_act="gelu",
)


def run_unet(network: UNet, k: Any) -> Host:
    rng = np.random.default_rng(1)
    results = []
    # The second context has three tokens: then cross-attention looks at the queries.
    for videos, frames, tokens, size in ((2, 5, 1, (7, 6)), (1, 1, 3, (4, 4))):
        sample = k.array(rng.standard_normal((videos, frames, 8, *size)), k.state_dtype)
        context = k.array(rng.standard_normal((videos, tokens, 24)), k.state_dtype)
        prepared = network.prepare(context, [[6, 127, 0.02]] * videos, frames)
        results.append(k.numpy(network(sample, np.linspace(1.2, -0.4, videos), prepared)).ravel())
    return np.concatenate(results)


def run_vae(network: VAE, k: Any) -> Host:
    rng = np.random.default_rng(3)
    latents = network.encode(k.array(rng.standard_normal((3, 3, 10, 6)), k.state_dtype))
    frames = network.decode(k.array(rng.standard_normal((3, 4, 5, 3)), k.state_dtype))
    return np.concatenate([k.numpy(latents).ravel(), k.numpy(frames).ravel()])


def run_clip(network: CLIPVision, k: Any) -> Host:
    pixels = np.random.default_rng(4).standard_normal((2, 3, 28, 28))
    return k.numpy(network(k.array(pixels, k.state_dtype)))


NETWORKS: dict[str, tuple[Callable[[Params], Any], Callable[[Any, Any], Host]]] = {
    "unet": (lambda p: UNet(UNET, p), run_unet),
    "vae": (lambda p: VAE(VAE_CONFIG, p), run_vae),
    "clip": (lambda p: CLIPVision(CLIP, p), run_clip),
}
NETWORK_ERROR = {"float16": 5e-3, "bfloat16": 4e-2, "float32": 1e-3}


@pytest.fixture(scope="module")
def references() -> dict[str, tuple[RandomWeights, Host]]:
    results = {}
    for name, (architecture, run) in NETWORKS.items():
        weights = RandomWeights(architecture)
        results[name] = weights, run(build(architecture, weights, REFERENCE, "random weights"), REFERENCE)
    return results


@every_dtype
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(opened: Open, references: dict[str, Any], name: str, dtype: str) -> None:
    k, operators = opened(dtype)
    architecture, run = NETWORKS[name]
    weights, expected = references[name]
    found = run(build(architecture, weights, k, "random weights"), k)
    assert relative_error(found, expected) < NETWORK_ERROR[dtype]

    in_float32 = ("group_norm", "layer_norm", "silu", "sigmoid", "softmax")
    policy = {"conv3d": "float16"} | dict.fromkeys(in_float32, "float32")
    found = {op: {policy.get(op, dtype)} for op in operators.calls}
    if "bmm" in found:
        found["bmm"].add("float32")  # scores; with values the softmax is in the model's dtype
    assert operators.dtypes() == found
    used = {"linear", "conv2d"} | ({"gelu", "layer_norm"} if name != "vae" else set())
    used |= {"conv3d", "group_norm", "silu", "interpolate"} if name != "clip" else set()
    used |= {"flash_attention_score"} if dtype != "float32" else {"softmax"}
    used |= {"softmax"} if name == "unet" else set()  # heads of 8
    assert used <= operators.calls.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_but_for_rounding(
    opened: Open, references: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    k, operators = opened("float32")
    monkeypatch.setattr(ascend, "TIME_DTYPE", "float32")
    operators.time_dtype = "float32"
    architecture, run = NETWORKS[name]
    weights, expected = references[name]
    assert relative_error(run(build(architecture, weights, k, "random weights"), k), expected) < 1e-5


def test_devices_are_claimed(claimed: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ascend.MindSporeAscend().with_dtype("float32").dtype == "float32"
    assert create("ascend:1", "bfloat16").with_dtype("float16").device == "ascend:1"
    assert claimed == [("Ascend",), ("Ascend",), ("Ascend", 1), ("Ascend", 1)]
    monkeypatch.setattr(ms, "get_current_device", lambda: SimpleNamespace(device_target="Ascend", device_id=1))
    ascend.MindSporeAscend("ascend")
    assert len(claimed) == 4  # what the program chose before stays


def test_devices_that_do_not_exist(claimed: list[tuple[Any, ...]]) -> None:
    for name, message in {"ascend:2": "2 NPUs", "ascend:x": "'ascend:x'", "ascend:-1": "'ascend:-1'"}.items():
        with pytest.raises(InputError, match=message):
            ascend.MindSporeAscend(name)
    with pytest.raises(InputError, match="float64"):
        ascend.MindSporeAscend(dtype="float64")
    assert claimed == []


def test_another_device_in_the_same_process(claimed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("The 'mindspore.set_device' can not be modified.\n\nC++ Call Stack")

    monkeypatch.setattr(ms, "set_device", refuse)
    with pytest.raises(InputError, match=r"can not be modified\)\. .* a process keeps its first one") as caught:
        ascend.MindSporeAscend("ascend:1")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.skipif(ms.get_current_device().device_target == "Ascend", reason="there is an NPU")
def test_without_an_npu() -> None:
    # In a process of its own: choosing a device is for the whole process.
    program = """
from svdkit.errors import InputError
from svdkit_mindspore.backend import create
for device in "ascend", "ascend:1":
    try:
        create(device)
    except InputError as error:
        assert error.__suppress_context__
        print("REFUSED", error)
k = create("cpu")
print(k.numpy(k.array([1.0]) + 1))
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    refused = [line for line in result.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(refused) == 2
    assert all("choose device 'cpu'" in line for line in refused)
    assert "[2.]" in result.stdout  # and the processor can still be used
