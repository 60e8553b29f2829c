"""Checks of what a pipeline is called with; each error says what arrived and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .backend import Array, Backend, Host
from .errors import InputError


def check_number(name: str, value: Any, *, minimum: float, whole: bool = False) -> None:
    """Raises `InputError` unless a value is a finite number of at least `minimum`."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not np.isfinite(value) or value < minimum:
        kind = "a whole number" if whole else "a finite number"
        raise InputError(f"{name} is {value!r}, expected {kind} of at least {minimum:g}.")


def check_latents(latents: Any, expected: tuple[int, ...], backend: Backend) -> Host:
    """Noise that the caller gave, on the host.

    Raises:
        InputError: it is no array of real, finite numbers of the expected shape.
    """
    found = tuple(getattr(latents, "shape", ()))
    if found != expected:
        what = f"have the shape {found}" if found else f"are a {type(latents).__name__}"
        raise InputError(
            f"latents {what}, expected an array {expected}: videos, frames, channels, height / 8, width / 8."
        )
    array: Host = latents if isinstance(latents, np.ndarray) else backend.numpy(latents)
    if array.dtype.kind in "OSUc":
        raise InputError(f"latents are of type {array.dtype}, expected real numbers.")
    if not np.isfinite(array).all():
        raise InputError("latents hold NaN or infinity, expected unit normal noise.")
    return array


def check_replaced(replaced: Any, given: Mapping[str, Any], x: Array) -> dict[str, Any]:
    """What a callback returned, as a dictionary; its `latents` are `x` where it returned none.

    Raises:
        InputError: it returned something else, or tensors that it was not handed or of another shape.
    """
    if replaced is None:
        replaced = {}
    if not isinstance(replaced, Mapping):
        raise InputError(f"The callback returned a {type(replaced).__name__}, expected a dict or None.")
    if unknown := set(replaced) - set(given):
        raise InputError(f"The callback returned {sorted(unknown)[0]!r}, which it was not handed.")
    latents = replaced.get("latents", x)
    if tuple(getattr(latents, "shape", ())) != tuple(x.shape):
        raise InputError(f"The callback returned latents that are no array of shape {tuple(x.shape)}.")
    return {**replaced, "latents": latents}
