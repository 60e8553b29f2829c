"""Noise that depends on its seed, purpose and step alone, drawn on the host: the same on every backend."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

Generator = np.random.Generator | int
"""What a caller may give for one video."""


class Purpose(IntEnum):
    """What noise is for; each has a stream of its own."""

    LATENTS = 0
    AUGMENTATION = 1
    STEP = 2


def normal(seed: int, purpose: Purpose, shape: Sequence[int], step: int = 0, draw: int = 0) -> npt.NDArray[np.float32]:
    """Standard normal noise of one video; draws of one step are numbered from 0."""
    return np.random.default_rng([seed, purpose, step, draw]).standard_normal(tuple(shape), np.float32)


def seeds_of(generator: Generator | Sequence[Generator] | None, videos: int) -> list[int]:
    """One seed a video.

    Args:
        generator: an int seed, of which video i takes `seed + i`, so that it can be made again alone;
            a NumPy generator, from which seeds are drawn; a list with one of them for each video; None for any.
        videos: how many.

    Raises:
        InputError: a list of the wrong length, a negative seed or something else.
    """
    if generator is None:
        generator = secrets.randbits(32)
    if isinstance(generator, np.random.Generator):
        return [int(seed) for seed in generator.integers(2**63, size=videos)]
    if isinstance(generator, (int, np.integer)) and not isinstance(generator, bool):
        return [_seed(generator) + i for i in range(videos)]
    if isinstance(generator, (list, tuple)):
        if len(generator) != videos:
            raise InputError(
                f"generator is a list of {len(generator)}, expected {videos}: one for each video that is made."
            )
        return [seeds_of(one, 1)[0] for one in generator]
    raise InputError(
        f"generator is a {type(generator).__name__}, expected an int seed, a numpy.random.Generator or a list of them."
    )


def _seed(seed: int | np.integer[Any]) -> int:
    if seed < 0:
        raise InputError(f"The seed is {seed}, expected a whole number that is not negative.")
    return int(seed)
