"""Checks of what a pipeline is called with; each error says what arrived and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .arrays import to_host
from .backend import Array, Host
from .errors import InputError
from .weights import STEMS


def check_number(name: str, value: Any, *, minimum: float, whole: bool = False) -> None:
    """Raises `InputError` unless a value is a finite number of at least `minimum`."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not np.isfinite(value) or value < minimum:
        kind = "a whole number" if whole else "a finite number"
        raise InputError(f"{name} is {value!r}, expected {kind} of at least {minimum:g}.")


def check_latents(latents: Any, expected: tuple[int, ...]) -> Host:
    """Noise that the caller gave, in any framework's array, on the host.

    Raises:
        InputError: it is no array of real, finite numbers of the expected shape.
    """
    found = tuple(getattr(latents, "shape", ()))
    if found != expected:
        what = f"have the shape {found}" if found else f"are a {type(latents).__name__}"
        raise InputError(
            f"latents {what}, expected an array {expected}: videos, frames, channels, height / 8, width / 8."
        )
    array: Host = to_host(latents)
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
    expected = {name: tuple(array.shape) for name, array in {**given, "latents": x}.items()}
    for name, array in replaced.items():
        if tuple(getattr(array, "shape", ())) != expected[name]:
            raise InputError(f"The callback returned {name}, but no array of shape {expected[name]}.")
    return {"latents": x, **replaced}


def parse_components(texts: Iterable[str]) -> dict[str, str]:
    """Names of networks that plugins replace, by part, of texts of the form `PART=NAME`.

    Raises:
        InputError: one is of another form, there is no such part, or it is chosen twice.
    """
    chosen: dict[str, str] = {}
    for text in texts:
        part, equals, name = text.partition("=")
        if not equals or part not in STEMS:
            raise InputError(f"A component is {text!r}, expected PART=NAME with a part of {', '.join(STEMS)}.")
        if part in chosen:
            raise InputError(f"The {part} is chosen twice, {chosen[part]!r} and {name!r}. Leave one.")
        chosen[part] = name
    return chosen
