"""Between the host and arrays of frameworks that the caller has imported; none is imported here."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError


def to_host(x: Any) -> npt.NDArray[Any]:
    """The values of any framework's array, on any device; 16-bit floats that NumPy lacks become float32.

    Raises:
        TypeError: it is no array.
    """
    try:
        if hasattr(x, "asnumpy"):
            return np.asarray(x.asnumpy())
        if hasattr(x, "detach"):
            return np.asarray(x.detach().cpu().numpy())
        return np.asarray(x)
    except TypeError:  # bfloat16
        if not hasattr(x, "float"):
            raise
        return to_host(x.float())


def like(values: npt.NDArray[Any], x: Any) -> Any:
    """Host values as an array of the framework, dtype and device of `x`.

    Raises:
        InputError: no way to make such arrays is known.
    """
    if isinstance(x, np.ndarray):
        return values if x.dtype.kind in "iub" else values.astype(x.dtype)  # whole numbers would lose it
    framework = sys.modules.get(type(x).__module__.partition(".")[0])
    if framework is not None and hasattr(x, "asnumpy"):
        return framework.Tensor(values).astype(x.dtype)
    if framework is not None and hasattr(x, "detach"):
        return framework.as_tensor(values, dtype=x.dtype, device=x.device)
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__().asarray(values, dtype=x.dtype)
    raise InputError(f"No noise can be made for a {type(x).__name__}; pass `noise`, which makes it.")
