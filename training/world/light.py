"""The light of the world, in which a day passes in a few seconds."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from training.world.drawing import Array, Picture, circle, hsv, mix, rgb

DAY = 16.0
"""Length of a day in units of world time: eight frames at bucket 127 and 7 frames a second see almost half of one."""

HOURS = (
    # light above,      light below,        glow above the horizon
    ((0.14, 0.17, 0.42), (0.24, 0.28, 0.5), (0.02, 0.04, 0.12)),  # midnight
    ((0.6, 0.5, 0.72), (0.85, 0.68, 0.72), (0.34, 0.16, 0.18)),  # morning
    ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),  # noon
    ((0.5, 0.34, 0.4), (0.82, 0.5, 0.32), (0.5, 0.22, 0.0)),  # evening
)
"""Equally far from each other. No hour looks like another, so a picture tells which way the light will change."""


@frozen
class Sky:
    """Colours of shape (3, 1, 1), at noon: above, at the horizon, and of the sun."""

    top: Array
    horizon: Array
    sun: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Sky:
        """A blue sky."""
        j = rng.uniform(-1, 1, 3)
        top, horizon = hsv(0.58 + 0.04 * j[0], 0.65 + 0.15 * j[1], 0.88), hsv(0.54 + 0.04 * j[2], 0.2, 0.98)
        return cls(top, horizon, hsv(0.15, 0.25, 1))

    def paint(self, picture: Picture, horizon: float) -> None:
        """Paint the whole picture as sky down to the height of the horizon."""
        picture.pixels[...] = mix(self.top, self.horizon, np.clip(picture.y / horizon, 0, 1))

    def disc(self, picture: Picture, x: float, y: float, radius: float) -> None:
        """Paint the sun or the moon and the glow around it."""
        around = picture.at(x, y, reach=4 * radius)
        distance = circle(around, 0, 0, radius)
        glow = np.clip(1 - distance / (3 * radius), 0, 1)
        around.pixels[...] += 0.35 * glow * glow * (self.sun - around.pixels)
        around.fill(distance, self.sun)


@frozen
class Day:
    """The hours as they pass over a picture that is painted as at noon.

    Attributes:
        start: the hour at world time 0, of a day of length 1.
        glow: how much there is of the glow above the horizon; None if the light does not change.
    """

    start: float
    glow: float | None

    def shine(self, picture: Picture, tau: float) -> None:
        """Light a picture, as it is at a world time."""
        if self.glow is None:
            return
        hour = (self.start + tau / DAY) % 1 * len(HOURS)
        i, t = int(hour), hour % 1
        above, below, glow = (
            mix(rgb(*a), rgb(*b), t) for a, b in zip(HOURS[i], HOURS[(i + 1) % len(HOURS)], strict=True)
        )
        height = np.exp(-(((picture.y - np.float32(0.6)) / np.float32(0.35)) ** 2))
        picture.pixels[...] = picture.pixels * mix(above, below, picture.y) + glow * (np.float32(self.glow) * height)
