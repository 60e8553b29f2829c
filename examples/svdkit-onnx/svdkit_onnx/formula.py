"""An array that is not computed yet: a formula, of which an ONNX graph is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, TypeAlias

import numpy as np
from attrs import field, frozen

from svdkit.backend import Host

_COUNTER = count()


@frozen(eq=False)
class Formula:
    """A constant if it has `values`, what an operator makes of other formulas if it has `op`, else a variable."""

    shape: tuple[int, ...]
    op: str = ""
    """An operator of ONNX, of opset 20 or of onnxruntime's own."""
    operands: tuple[Formula, ...] = field(default=(), repr=False)  # of which each has its own
    attributes: Mapping[str, Any] = field(factory=dict)
    values: Host | None = field(default=None, repr=False)
    order: int = field(factory=_COUNTER.__next__, init=False)
    """Operands are made before what is made of them, so sorting by this puts them first."""

    # An array on the left leaves operators to the formula, and does not take it for an element.
    __array_ufunc__ = None

    @property
    def dtype(self) -> str:
        """Whole numbers are indices and shapes; all else is float32."""
        return "float32" if self.values is None else self.values.dtype.name

    def __add__(self, other: Operand) -> Formula:
        return _elementwise("Add", self, other)

    def __radd__(self, other: Operand) -> Formula:
        return _elementwise("Add", other, self)

    def __sub__(self, other: Operand) -> Formula:
        return _elementwise("Sub", self, other)

    def __rsub__(self, other: Operand) -> Formula:
        return _elementwise("Sub", other, self)

    def __mul__(self, other: Operand) -> Formula:
        return _elementwise("Mul", self, other)

    def __rmul__(self, other: Operand) -> Formula:
        return _elementwise("Mul", other, self)

    def __truediv__(self, other: Operand) -> Formula:
        return _elementwise("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Formula:
        return _elementwise("Div", other, self)

    def reshape(self, *shape: int | tuple[int, ...]) -> Formula:
        """As NumPy's: one length may be -1. A reshape of a reshape is one."""
        lengths = [n for part in shape for n in (part if isinstance(part, tuple) else (part,))]
        rest = math.prod(self.shape) // max(1, math.prod(n for n in lengths if n != -1))
        whole = tuple(rest if n == -1 else n for n in lengths)
        source = self.operands[0] if self.op == "Reshape" else self
        return source if source.shape == whole else apply("Reshape", source, integers(whole), shape=whole)

    def transpose(self, *axes: int) -> Formula:
        """As NumPy's."""
        return apply("Transpose", self, shape=tuple(self.shape[axis] for axis in axes), perm=axes)

    def __getitem__(self, key: Any) -> Formula:
        """As NumPy's, for indices, slices of positive steps and an ellipsis."""
        keys = list(key if isinstance(key, tuple) else (key,))
        at = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
        keys[at : at + 1] = [slice(None)] * (len(self.shape) - len(keys) + (at < len(keys)))
        ranges = [
            range(n)[k] if isinstance(k, slice) else range(n)[range(n)[k] :][:1]
            for k, n in zip(keys, self.shape, strict=True)
        ]
        bounds = ([r.start for r in ranges], [r.stop for r in ranges], range(len(keys)), [r.step for r in ranges])
        shape = tuple(map(len, ranges))
        part = apply("Slice", self, *map(integers, bounds), shape=shape)
        return part.reshape(tuple(n for n, k in zip(shape, keys, strict=True) if isinstance(k, slice)))


Operand: TypeAlias = Formula | Host | float


def constant(values: Host) -> Formula:
    """Numbers that are known."""
    return Formula(values.shape, values=values)


def integers(values: Sequence[int]) -> Formula:
    """Lengths, axes or indices, as operators take them."""
    return constant(np.array(values, np.int64))


def variable(shape: tuple[int, ...]) -> Formula:
    """Numbers that will be known when the graph is run."""
    return Formula(shape)


def apply(op: str, *operands: Formula, shape: tuple[int, ...], **attributes: Any) -> Formula:
    """What an operator of ONNX makes of its operands: an array of that shape."""
    return Formula(shape, op, operands, attributes)


def _elementwise(op: str, a: Operand, b: Operand) -> Formula:
    a, b = (x if isinstance(x, Formula) else constant(np.array(x, np.float32)) for x in (a, b))
    return apply(op, a, b, shape=np.broadcast_shapes(a.shape, b.shape))
