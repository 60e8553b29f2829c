"""What the checks of a backend have in common: which backend, on which device, in which dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from ..backend import Array, Backend
from ..errors import MissingDependencyError
from .inputs import backend_of
from .tolerances import TOLERANCES, Tolerance


class BackendUnderTest:
    """A backend by its registered name; tests that take `dtype` run in every dtype that it declares."""

    backend: ClassVar[str]
    """The registered name."""
    device: ClassVar[str | None] = None
    """The backend's default if None."""
    dtypes: ClassVar[Sequence[str] | None] = None
    """All that the backend declares for the device if None; name some to try only those."""
    examples: ClassVar[int] = 8
    """Shapes that hypothesis draws for each kernel and dtype."""
    tolerances: ClassVar[Mapping[str, Tolerance]] = TOLERANCES

    @staticmethod
    def gradient(function: Any, x: Array) -> Array:
        """The derivative at x of the sum of `function(x)`, an array like x, by the framework's own means.

        A backend that declares `gradients` is tested with this; nothing else can know how its framework derives.
        """
        raise NotImplementedError

    def on(self, dtype: str | None = None) -> Backend:
        """The backend in a dtype, its default one if None."""
        return backend_of(self.backend, self.device, dtype)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Runs what takes `dtype` once for each; skips all where the backend's framework is not installed."""
        if "dtype" not in metafunc.fixturenames:
            return
        try:
            dtypes: Sequence[Any] = self.dtypes or self.on().dtypes
        except MissingDependencyError as error:
            dtypes = [pytest.param("", marks=pytest.mark.skip(str(error)), id="not installed")]
        metafunc.parametrize("dtype", dtypes)
