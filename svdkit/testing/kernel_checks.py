"""What every kernel of a backend must do, in every dtype that the backend declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from ..backend import Array, Backend, Host
from .base import BackendUnderTest
from .inputs import Inputs, dtype_of, measure, reference, relative_error, rounded
from .kernels import ALIKE, KERNELS, Shape

NAMED = [pytest.param(name, shape, id=f"{name}-{id}") for name, k in KERNELS.items() for id, shape in k.named.items()]
LARGEST = {"float16": 6e4}
"""A number that a dtype holds; 1e30 where none is named."""


class KernelChecks(BackendUnderTest):
    """Every kernel against the float64 reference."""

    def tolerance_of(self, kernel: str, dtype: str) -> float:
        """Relative; nothing may change where values are only moved."""
        return 0.0 if KERNELS[kernel].moves else self.tolerances[dtype].kernel

    @pytest.mark.parametrize(("kernel", "shape"), NAMED)
    def test_kernel_on_named_shapes(self, dtype: str, kernel: str, shape: Shape) -> None:
        """Right, of the right shape, dtype and device, and its inputs unchanged, where it matters or may go wrong."""
        assert measure(KERNELS[kernel].run, self.on(dtype), **shape) <= self.tolerance_of(kernel, dtype)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_kernel_on_drawn_shapes(self, dtype: str, kernel: str) -> None:
        """The same, on shapes that hypothesis draws."""

        @settings(max_examples=self.examples, deadline=None, derandomize=True, database=None)
        @given(KERNELS[kernel].drawn)
        def check(shape: Shape) -> None:
            assert measure(KERNELS[kernel].run, self.on(dtype), **shape) <= self.tolerance_of(kernel, dtype)

        check()

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_kernel_is_deterministic(self, dtype: str, kernel: str) -> None:
        """Twice the same call is the same to the last bit."""
        k, shape = self.on(dtype), next(iter(KERNELS[kernel].named.values()))
        first, second = (k.numpy(KERNELS[kernel].run(Inputs(k, dtype), **shape)) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize(("kernel", "common", "one", "other"), ALIKE)
    def test_shapes_of_one_size_are_told_apart(
        self, dtype: str, kernel: str, common: Shape, one: Shape, other: Shape
    ) -> None:
        """What is kept for one shape is not taken for another."""
        for shape in (one, other, one):
            error = measure(KERNELS[kernel].run, self.on(dtype), **(common | shape))
            assert error <= self.tolerance_of(kernel, dtype)

    @pytest.mark.parametrize("kernel", ["geglu", "temporal_attention", "upsample_conv2d"])
    def test_coarse_kernel_equals_its_default(self, dtype: str, kernel: str) -> None:
        """A fused kernel computes what the base class composes of finer ones."""
        k = self.on(dtype)
        finer = type("Finer", (type(k),), {kernel: getattr(Backend, kernel)})(k.device, k.dtype)
        for shape in KERNELS[kernel].named.values():
            # Each is within its tolerance of the exact result, so they are within two of each other.
            assert measure(KERNELS[kernel].run, k, finer, **shape) <= 2 * self.tolerances[dtype].kernel

    # Numbers that are hard

    @pytest.mark.parametrize("frames", [1, 3])
    def test_norms_of_a_mean_much_larger_than_the_spread(self, dtype: str, frames: int) -> None:
        """Statistics are not the difference of two large sums, and in 16 bits they are sums in float32."""
        k, exact, tolerance = self.on(dtype), reference(), self.tolerances[dtype].offset_norm
        x = rounded(np.float32(100) + np.random.default_rng(1).standard_normal((6, 8, 9, 7), np.float32), dtype)
        ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)

        def group_norm(k: Backend, x: Array) -> Array:
            return k.from_map(k.group_norm(ones, zeros, 2, 1e-5, False)(k.to_map(x), frames))

        def layer_norm(k: Backend, x: Array) -> Array:
            return k.layer_norm(ones, zeros, 1e-5)(k.tokens(k.to_map(x)))

        for norm in (group_norm, layer_norm):
            assert relative_error(k.numpy(norm(k, k.array(x))), norm(exact, exact.array(x))) <= tolerance

    @pytest.mark.parametrize("offset", [0, 200, -200, 20_000, -20_000])
    def test_softmax_of_large_scores(self, dtype: str, offset: float) -> None:
        """Attention takes the largest score off before it exponentiates."""
        k, exact = self.on(dtype), reference()
        rng = np.random.default_rng(2)
        # Queries of 1 make keys the scores. They are a few units in the last place apart where dtypes hold no less.
        step = max(1.0, abs(offset) / 128) if dtype in ("float16", "bfloat16") else 1.0
        scores = rounded(offset + step * rng.integers(-4, 4, (2, 9, 1)), dtype)
        values = rounded(rng.standard_normal((2, 9, 1), np.float32), dtype)

        def attention(k: Backend) -> Host:
            queries = k.array(np.ones((2, 3, 1), np.float32))
            return k.numpy(k.attention(queries, k.array(scores), k.array(values), 1))

        assert relative_error(attention(k), attention(exact), least=1.0) <= self.tolerances[dtype].kernel

    @pytest.mark.parametrize("name", ["silu", "gelu", "quick_gelu"])
    def test_activation_everywhere(self, dtype: str, name: str) -> None:
        """From -1e30 to 1e30, or as far as the dtype goes, each value for itself."""
        k, tolerance = self.on(dtype), self.tolerances[dtype].activation
        largest = LARGEST.get(dtype, 1e30)
        x = rounded(np.concatenate([np.linspace(-12, 12, 4001), [-1e4, -100, -0.0, 100, 1e4, largest]]), dtype)
        result = k.numpy(getattr(k, name)(k.array(x)))
        expected = getattr(reference(), name)(x.astype(np.float64))
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance / 2)

    # Arrays

    def test_slices_are_taken_as_arrays_are(self, dtype: str) -> None:
        """Chunked feed-forward layers hand kernels slices, which some frameworks keep as strided views."""
        k, tolerance = self.on(dtype), 2 * self.tolerances[dtype].kernel
        inputs = Inputs(k, dtype)
        wide, gain = inputs.weight(16, 8), inputs.weight(8)
        whole = inputs.array(4, 10, 8)
        layers: list[Callable[[Array], Array]] = [
            k.linear(wide, None),
            k.geglu(wide, wide[:, 0]),
            k.layer_norm(gain, gain, 1e-5),
            k.gelu,
            lambda x: k.attention(x, x, x, 2),
            lambda x: k.temporal_attention(x, x, x, 2, x.shape[0]),
            lambda x: k.swap_axes(x, 1),
            lambda x: k.add_rows(x, x[:, 0]),
            lambda x: k.from_map(k.from_tokens(x, 1, x.shape[1])),
        ]
        for x in (whole[1:3], whole[:, 3:8], whole[2:, 1:4]):
            copy = k.array(k.numpy(x).copy())
            for layer in layers:
                assert relative_error(k.numpy(layer(x)), k.numpy(layer(copy)), least=1.0) <= tolerance

    @pytest.mark.parametrize("stored", ["float16", "bfloat16", "float64"])
    def test_weights_come_in_any_dtype(self, dtype: str, stored: str) -> None:
        """Layers compute in the backend's dtype, whatever the checkpoint is stored in."""
        k = self.on(dtype)
        rng = np.random.default_rng(3)
        host: Any = {"bfloat16": ml_dtypes.bfloat16}.get(stored, stored)
        weight, bias = (rng.standard_normal(shape, np.float32).astype(host) for shape in ((8, 8, 3, 3), 8))

        def run(weight: Host, bias: Host) -> Host:
            x = k.conv2d(weight, bias)(k.to_map(k.array(np.ones((1, 8, 4, 4), np.float32))))
            x = k.temporal_conv(weight[..., :1, None], bias)(x, 1)
            x = k.group_norm(bias, bias, 2, 1e-5, True)(x)
            y = k.linear(weight[..., 0, 0], bias)(k.tokens(x))
            y = k.layer_norm(bias, bias, 1e-5)(y)
            y = k.mix(bias[:1], False)(y, k.geglu(weight[:4].reshape(36, 8), weight.ravel()[:36])(y)[..., :8])
            assert dtype_of(y) == dtype
            return k.numpy(y)

        np.testing.assert_array_equal(run(weight, bias), run(weight.astype(np.float32), bias.astype(np.float32)))

    def test_maps_of_one_shape_add(self, dtype: str) -> None:
        """`+` is all that the architecture does with maps by itself."""
        k = self.on(dtype)
        inputs = Inputs(k, dtype)
        result = k.numpy(k.from_map(inputs.map(2, 3, 4, 5) + inputs.map(2, 3, 4, 5)))
        (a, _), _, (b, _), _ = inputs.made
        total = a.astype(np.float64) + b
        np.testing.assert_array_equal(result, total if dtype == "float64" else rounded(total, dtype))

    def test_arrays_come_and_go(self, dtype: str) -> None:
        """`array` copies any host array as it looks, `numpy` brings it back, `cast` changes nothing but the dtype."""
        k = self.on(dtype)
        host = rounded(np.random.default_rng(4).standard_normal((3, 4)), dtype)
        array = k.array(host)
        assert dtype_of(array) == dtype
        assert tuple(array.shape) == (3, 4)
        back = k.numpy(array)
        assert type(back) is np.ndarray
        assert back.dtype == (np.float64 if dtype == "float64" else np.float32), "16-bit floats come back as float32"
        np.testing.assert_array_equal(back, host)
        np.testing.assert_array_equal(k.numpy(k.array(host.T)), host.T)
        np.testing.assert_array_equal(k.numpy(k.array(host[::2, ::-1])), host[::2, ::-1])
        np.testing.assert_array_equal(k.numpy(k.array(host.astype(np.float64))), host)
        state = k.cast(array, k.state_dtype)
        assert dtype_of(state) == dtype_of(k.array(host, k.state_dtype)) == k.state_dtype
        assert dtype_of(k.cast(state)) == dtype
        np.testing.assert_array_equal(k.numpy(k.cast(state)), host)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_concat(self, dtype: str, axis: int) -> None:
        """One, two or three arrays, along any axis."""
        k = self.on(dtype)
        values = np.arange(216, dtype=np.float32).reshape(6, 6, 6)
        for count in (1, 2, 3):
            parts = [k.array(part) for part in np.split(values, count, axis)]
            joined = k.concat(parts, axis)
            assert dtype_of(joined) == dtype
            np.testing.assert_array_equal(k.numpy(joined), values)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_all_finite(self, dtype: str, value: float) -> None:
        """A `bool`, false for a single NaN or infinity."""
        k = self.on(dtype)
        x = np.ones((2, 3), np.float32)
        assert k.all_finite(k.array(x)) is True
        x[1, 2] = value
        assert k.all_finite(k.array(x)) is False
