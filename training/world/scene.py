"""What a scene is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import frozen

from training.world.drawing import Picture

Draw = Callable[[float], Picture]
"""The picture at a world time. A pure function of the time: no picture depends on one drawn before."""


@frozen
class Scene:
    """A kind of clip.

    `drawn(rng, size)` draws all parameters from the generator, independently of the size in pixels, and returns the
    function of world time. `determined` says that all motion follows from the first picture: whatever differs between
    two clips in how things move can be seen in it. Scenes are drawn facing right; `clip` mirrors half of them.
    """

    drawn: Callable[[np.random.Generator, int], Draw]
    determined: bool
    hours: tuple[float, float] = (0, 1)
    """Of a day of length 1 (see `light`), between which its clips begin."""
    glow: float | None = 1
    """Of the sky in the morning and in the evening; 0 where the light changes and no sky is seen, None if it does not
    change."""
