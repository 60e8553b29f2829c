"""What kernels and networks are tried with, and how their results are compared with the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from ..backend import Array, Backend, Host, Map
from ..plugins import make_backend

_HOST_DTYPES: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@cache
def backend_of(name: str, device: str | None = None, dtype: str | None = None) -> Backend:
    """A registered backend; one object for the same three."""
    return make_backend(name, device, dtype)


def reference() -> Backend:
    """What all results are compared with: NumPy in float64."""
    return backend_of("numpy", "cpu", "float64")


def rounded(values: Host, dtype: str) -> Host:
    """The nearest numbers that a dtype holds; float32 at most.

    Results are compared with those of the reference on numbers that both hold exactly. What is measured is then how a
    backend computes: rounding the inputs alone would cost as much as a whole layer may.
    """
    return np.asarray(np.asarray(values, np.float32).astype(_HOST_DTYPES.get(dtype, np.float32)), np.float32)


class Inputs:
    """Normal numbers, the same ones for every backend, which nothing may write to.

    Args:
        k: the backend that arrays are made on.
        dtype: numbers are rounded to what it holds.
        seed: for other numbers.
    """

    def __init__(self, k: Backend, dtype: str, seed: int = 0) -> None:
        self.k = k
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)
        self.made: list[tuple[Host, Array]] = []

    def weight(self, *shape: int) -> Host:
        """On the host, as weights come."""
        return self.host(self.rng.standard_normal(shape, np.float32))

    def host(self, values: Host) -> Host:
        """Values on the host that are watched."""
        values = rounded(values, self.dtype)
        values.flags.writeable = False
        self.made.append((values.copy(), values))
        return values

    def array(self, *shape: int) -> Array:
        """On the backend; a view of read-only memory where the backend has such."""
        return self.given(self.rng.standard_normal(shape, np.float32))

    def given(self, values: Host, dtype: str | None = None) -> Array:
        """Values on the backend that are watched."""
        values = self.host(values)
        array = self.k.array(values, dtype)
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
        self.made.append((values, array))
        return array

    def map(self, n: int, channels: int, height: int, width: int) -> Map:
        """Feature maps."""
        return self.k.to_map(self.array(n, channels, height, width))

    def check(self) -> None:
        """None has changed."""
        for values, made in self.made:
            now = made if isinstance(made, np.ndarray) else self.k.numpy(made)
            np.testing.assert_array_equal(now, values, err_msg="an input was written to")


def dtype_of(x: Array) -> str:
    """`float32` for whatever a framework calls that."""
    return str(x.dtype).split(".")[-1].lower()


def device_of(x: Array) -> str:
    """Where a framework says that an array is; empty where it does not."""
    return str(getattr(x, "device", ""))


def relative_error(actual: Host, expected: Host, least: float = 0.0) -> float:
    """Root mean square of the difference over that of what was expected, whole arrays, in float64.

    Args:
        actual, expected: arrays of one shape.
        least: of what errors are at least measured against: where terms of that size cancel, no dtype does better.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"the shape is {actual.shape}, expected {expected.shape}"
    difference = float(np.linalg.norm(actual - expected))
    return difference and difference / max(float(np.linalg.norm(expected)), least * expected.size**0.5, 1e-300)


def check_array(x: Array, k: Backend, dtype: str) -> None:
    """It is of a dtype, and where the backend's arrays are."""
    assert dtype_of(x) == dtype, f"the result is {dtype_of(x)}, expected {dtype}"
    expected = device_of(k.array(np.zeros(1, np.float32), dtype))
    assert device_of(x) == expected, f"the result is on {device_of(x)!r}, expected {expected!r}"


def measure(run: Callable[..., Array], k: Backend, oracle: Backend | None = None, **shape: Any) -> float:
    """The error of a kernel, relative to its result, or to its inputs where they are larger.

    The dtype, device and shape of the result are checked, and that the inputs are as they were.

    Args:
        run: makes its inputs and runs on their backend, as `svdkit.testing.kernels.Kernel.run`.
        k: the backend.
        oracle: what it is compared with; the reference if None.
        shape: keywords of `run`.
    """
    oracle = oracle or reference()
    inputs = Inputs(k, k.dtype)
    result = run(inputs, **shape)
    expected = run(Inputs(oracle, k.dtype), **shape)
    check_array(result, k, k.dtype)
    inputs.check()
    actual = k.numpy(result)
    assert np.isfinite(actual).all(), "the result holds NaN or infinity"
    return relative_error(actual, oracle.numpy(expected), least=1.0)  # the size of the inputs
