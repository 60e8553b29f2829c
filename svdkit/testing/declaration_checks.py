"""What a backend says of itself must be so: name, devices, dtypes, capabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ..backend import CAPABILITIES, Array, Backend, Host
from ..errors import InputError
from .base import BackendUnderTest
from .inputs import Inputs, backend_of, reference, relative_error, rounded
from .networks import BLOCKS, COMMON, PARTS

GRADIENTS = (*BLOCKS, "UNet", "VAE decode")
"""What gradients are taken through: together they use every kernel."""
SIZE = (3, 4)


class DeclarationChecks(BackendUnderTest):
    """Declared, not guessed."""

    def test_names(self, dtype: str) -> None:
        """It has the name that it is registered under, and says what it was asked for."""
        k = self.on(dtype)
        assert isinstance(k, Backend)
        assert k.name == self.backend
        assert k.dtype == dtype
        assert k.device.split(":")[0] in k.devices
        if self.device is not None:
            assert k.device == self.device

    def test_dtypes_are_known(self, dtype: str) -> None:
        """A declared dtype has a tolerance, so that all other tests try it."""
        known = sorted(self.tolerances)
        assert dtype in self.tolerances, f"{dtype!r} is declared; svdkit has tolerances for {', '.join(known)}"
        assert dtype in self.on(dtype).dtypes

    def test_other_dtypes_are_refused(self) -> None:
        """An `InputError`, for what nobody has and for what it does not declare."""
        k = self.on()
        for dtype in {"int8", "no such dtype", *self.tolerances} - set(k.dtypes):
            with pytest.raises(InputError):
                backend_of(self.backend, self.device, dtype)

    @pytest.mark.parametrize("device", ["no-such-device", "no-such-device:1"])
    def test_other_devices_are_refused(self, dtype: str, device: str) -> None:
        """An `InputError`, not another device in its place."""
        with pytest.raises(InputError):
            backend_of(self.backend, device, dtype)

    def test_with_dtype(self, dtype: str) -> None:
        """The same backend and device in another dtype; itself where that is its own."""
        k = self.on(dtype)
        assert k.with_dtype(dtype) is k
        for other in k.dtypes:
            sibling = k.with_dtype(other)
            assert (type(sibling), sibling.device, sibling.dtype) == (type(k), k.device, other)
        assert k.dtype == dtype

    def test_state_dtype(self, dtype: str) -> None:
        """The sampling state is float32 at least."""
        assert self.on(dtype).state_dtype == ("float64" if dtype == "float64" else "float32")

    def test_capabilities_are_known(self, dtype: str) -> None:
        """They are of `svdkit.backend.CAPABILITIES`, and one graph is launched only of what is compiled."""
        capabilities = self.on(dtype).capabilities
        unknown = capabilities - CAPABILITIES.keys()
        assert not unknown, f"there is no capability {', '.join(unknown)}; there are {', '.join(CAPABILITIES)}"
        assert "graph_capture" not in capabilities or "compile" in capabilities

    def test_compile(self, dtype: str) -> None:
        """Compiled functions equal themselves, whatever else was compiled or called; or it is an `InputError`."""
        k = self.on(dtype)
        if "compile" not in k.capabilities:
            with pytest.raises(InputError):
                k.compile(lambda x: x)
            return
        inputs = Inputs(k, dtype)
        layers = [k.linear(inputs.weight(8, 8), inputs.weight(8)) for _ in range(2)]

        def function(layer: Any) -> Any:
            def apply(x: Array, rest: tuple[Array, tuple[Array, ...]]) -> Array:
                return k.silu(layer(x)) + rest[0] * 2.0 + rest[1][0]

            return apply

        eager = [function(layer) for layer in layers]
        compiled = [k.compile(f) for f in eager]
        pairs = []
        for n, length in ((2, 6), (3, 4), (2, 6), (3, 4)):  # of equal size, in turn, with other numbers each time
            arguments = inputs.array(n, length, 8), (inputs.array(n, length, 8), (inputs.array(n, length, 8),))
            pairs += [(f(*arguments), g(*arguments)) for f, g in zip(eager, compiled, strict=True)]
        # Only now: a result must not be written over by the next call.
        for plain, fast in pairs:
            assert tuple(fast.shape) == tuple(plain.shape)
            assert fast.dtype == plain.dtype
            assert relative_error(k.numpy(fast), k.numpy(plain), least=1.0) <= 2 * self.tolerances[dtype].kernel
        inputs.check()

    @pytest.mark.parametrize("part", GRADIENTS)
    def test_gradients(self, dtype: str, part: str) -> None:
        """Through each network they are the slopes that finite differences find on the reference in float64.

        With respect to arrays; weights are the framework's own after they were prepared, so no test can name them.
        """
        k = self.on(dtype)
        if "gradients" not in k.capabilities:
            pytest.skip(f"{k.name!r} does not declare `gradients`.")
        if type(self).gradient is BackendUnderTest.gradient:
            pytest.fail(
                f"{k.name!r} declares `gradients`, and this class does not say how to take them. Give it a "
                "staticmethod `gradient(function, x)`: the derivative of the sum of `function(x)`."
            )
        x = rounded(_first(part, reference()).values, COMMON)
        dtype = k.state_dtype if PARTS[part].whole else k.dtype
        gradient = k.numpy(self.gradient(_function(part, k), k.array(x, dtype)))
        assert gradient.shape == x.shape
        function, scale = _function(part, reference()), np.linalg.norm(gradient)
        for seed in range(3):
            direction = np.random.default_rng(seed).standard_normal(x.shape)
            step = 1e-6 * direction
            slope = float((function(x + step) - function(x - step)).sum() / 2e-6)
            # The slope along a random direction is about as large as the gradient is long.
            assert abs(float((gradient * direction).sum()) - slope) <= self.tolerances[k.dtype].gradient * scale


class _First(Inputs):
    """The same inputs, but that the first array is another."""

    def __init__(self, k: Backend, x: Array | None = None) -> None:
        super().__init__(k, COMMON)
        self.values: Any = None
        self.x = x

    def given(self, values: Host, dtype: str | None = None) -> Array:
        array = super().given(values, dtype)
        if self.values is not None:
            return array
        self.values = values
        return array if self.x is None else self.x


def _first(part: str, k: Backend) -> _First:
    """The inputs of a part, after it ran."""
    inputs = _First(k)
    PARTS[part].run(inputs, PARTS[part].build(k), *SIZE)
    return inputs


def _function(part: str, k: Backend) -> Callable[[Array], Array]:
    """A part as a function of its first array; its results weighted, so that no two count alike."""
    network = PARTS[part].build(k)

    def function(x: Array) -> Array:
        y = PARTS[part].run(_First(k, x), network, *SIZE)
        weights = np.random.default_rng(8).standard_normal(tuple(y.shape))
        return y * k.array(weights, k.state_dtype if PARTS[part].whole else k.dtype)

    return function
