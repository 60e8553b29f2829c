"""A problem whose trajectories are known in closed form, and arrays that forbid what a scheduler must not do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from ..backend import Host


@frozen(eq=False)
class Gaussian:
    """Independent coordinates, each normal. The probability-flow ODE moves a point in proportion to the spread."""

    mean: Any = field(factory=lambda: np.random.default_rng(5).uniform(-1, 1, 16))
    spread: Any = field(factory=lambda: np.random.default_rng(6).uniform(0.5, 1.5, 16))

    def denoise(self, x: Any, sigma: float) -> Any:
        """The expected clean sample."""
        return (x * self.spread**2 + self.mean * sigma**2) / (self.spread**2 + sigma**2)

    def start(self, sigma: float) -> Host:
        """Points over the middle nine tenths of the noisy distribution."""
        return np.asarray(self.mean + np.linspace(-1.7, 1.8, len(self.mean)) * np.sqrt(self.spread**2 + sigma**2))

    def solution(self, x: Any, sigma: float, end: float) -> Any:
        """Where x at one level has gone by another."""
        return self.mean + (x - self.mean) * np.sqrt((self.spread**2 + end**2) / (self.spread**2 + sigma**2))

    def exact(self, sigma: float, end: float) -> Host:
        """Where the start at one level has gone by another."""
        return np.asarray(self.solution(self.start(sigma), sigma, end))


def normal_noise(step: int, draw: int) -> Host:
    """Noise of 16 coordinates that depends on the step and the draw."""
    return np.random.default_rng([step, draw]).standard_normal(16)


def frozen_array(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory, which nothing may write to."""
    view = x.view()
    view.flags.writeable = False
    return view


class Strict:
    """A float32 array that has + - * / with its like and with Python floats, and nothing else."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, np.float32)

    def _other(self, other: Any) -> Any:
        assert type(other) in (float, type(self)), f"an array meets a {type(other).__name__}, expected a Python float"
        return other if type(other) is float else other.values

    def __add__(self, other: Any) -> Strict:
        return type(self)(self.values + self._other(other))

    def __radd__(self, other: Any) -> Strict:
        return type(self)(self._other(other) + self.values)

    def __sub__(self, other: Any) -> Strict:
        return type(self)(self.values - self._other(other))

    def __rsub__(self, other: Any) -> Strict:
        return type(self)(self._other(other) - self.values)

    def __mul__(self, other: Any) -> Strict:
        return type(self)(self.values * self._other(other))

    def __rmul__(self, other: Any) -> Strict:
        return type(self)(self._other(other) * self.values)

    def __truediv__(self, other: Any) -> Strict:
        return type(self)(self.values / self._other(other))

    def __bool__(self) -> bool:
        raise AssertionError("an array is asked for its truth")
