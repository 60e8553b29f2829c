"""A matrix of weights, for loops as it is stored, for graphs as a parameter."""

from __future__ import annotations

from functools import cached_property

from mindspore import Parameter

from svdkit.backend import Host
from svdkit_loops.stored import Stored, stored

from .base import constant


class Weight:
    """Weights `(O, I)`, which stay where they are."""

    def __init__(self, values: Host) -> None:
        self._values = values
        self.stored: Stored = stored(values)

    @cached_property
    def parameter(self) -> Parameter:
        """The same in float32, made when the first graph is recorded that needs it."""
        return constant(self._values, "float32")
