"""Classifier-free guidance whose scale grows, or shrinks, from the first frame to the last."""

from __future__ import annotations

import reprlib

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .sigmas import LARGEST


def guidance_scales(first: float, last: float, frames: int) -> npt.NDArray[np.float64]:
    """One scale a frame, linear from `first` to `last`.

    A scale s gives `uncond + s * (cond - uncond)` (arXiv:2207.12598): 1 is the conditional model alone.

    Raises:
        InputError: a scale is not a finite number.
    """
    for name, value in (("min_guidance_scale", first), ("max_guidance_scale", last)):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float, np.number))
            or not -LARGEST <= value <= LARGEST
        ):
            raise InputError(f"{name} is {reprlib.repr(value)}, expected a finite number; 1.0 and 3.0 are usual.")
    return np.linspace(first, last, frames)
