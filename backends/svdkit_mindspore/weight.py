"""Weights of a layer, for loops in NumPy's memory, for graphs as a parameter."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
from mindspore import Parameter

from svdkit.backend import Host
from svdkit_loops.stored import Stored, stored, to_float32

from .base import constant


class Weight:
    """Weights of any shape, which stay where they are."""

    def __init__(self, values: Host) -> None:
        self._values = values
        self.shape = values.shape

    @cached_property
    def stored(self) -> Stored:
        """As loops take what is large."""
        return stored(self._values)

    @cached_property
    def numbers(self) -> npt.NDArray[np.float32]:
        """As they take what is small."""
        return to_float32(self._values)

    @cached_property
    def parameter(self) -> Parameter:
        """As graphs take it: in float32, made when the first one is recorded that needs it."""
        return constant(self._values, "float32")

    @cached_property
    def in_patches(self) -> Parameter:
        """Those of a convolution as graphs take them, `(O, taps * I)`."""
        return constant(np.moveaxis(self._values, 1, -1).reshape(len(self._values), -1), "float32")
