"""Times of day: the colours of the sky, and how they tint what stands under it."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from training.world.drawing import Array, Picture, circle, hsv, mix, rgb


@frozen
class Light:
    """Colours of shape (3, 1, 1): the sky above and at the horizon, the sun or moon, and the tint of all else."""

    top: Array
    horizon: Array
    sun: Array
    tint: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Light:
        """Dawn, noon, dusk or night, noon twice as often."""
        time = rng.choice(["dawn", "noon", "noon", "dusk", "night"])
        j = rng.uniform(-1, 1, 4)
        if time == "dawn":
            top, horizon = hsv(0.6 + 0.04 * j[0], 0.45, 0.75 + 0.1 * j[1]), hsv(0.08 + 0.04 * j[2], 0.4, 0.98)
            return cls(top, horizon, hsv(0.13, 0.35, 1), rgb(1, 0.93, 0.88))
        if time == "noon":
            top, horizon = hsv(0.58 + 0.04 * j[0], 0.65 + 0.15 * j[1], 0.88), hsv(0.54 + 0.04 * j[2], 0.2, 0.98)
            return cls(top, horizon, hsv(0.15, 0.25, 1), rgb(1, 1, 1))
        if time == "dusk":
            top, horizon = hsv(0.75 + 0.07 * j[0], 0.55, 0.5 + 0.1 * j[1]), hsv(0.04 + 0.04 * j[2], 0.7, 0.98)
            return cls(top, horizon, hsv(0.1, 0.5, 1), rgb(0.95, 0.8, 0.8))
        top, horizon = hsv(0.65 + 0.04 * j[0], 0.7, 0.2 + 0.06 * j[1]), hsv(0.6 + 0.05 * j[2], 0.5, 0.5)
        return cls(top, horizon, hsv(0.14, 0.12, 1), rgb(0.72, 0.76, 0.92))

    def lit(self, colour: Array) -> Array:
        """A colour under this light."""
        return colour * self.tint

    def sky(self, picture: Picture, horizon: float) -> None:
        """Paint the whole picture as sky down to the height of the horizon."""
        picture.pixels[...] = mix(self.top, self.horizon, np.clip(picture.y / horizon, 0, 1))

    def disc(self, picture: Picture, x: float, y: float, radius: float) -> None:
        """Paint the sun or the moon and the glow around it."""
        around = picture.at(x, y, reach=4 * radius)
        distance = circle(around, 0, 0, radius)
        glow = np.clip(1 - distance / (3 * radius), 0, 1)
        around.pixels[...] += 0.35 * glow * glow * (self.sun - around.pixels)
        around.fill(distance, self.sun)


DAY = Light(hsv(0.58, 0.65, 0.88), hsv(0.54, 0.2, 0.98), hsv(0.15, 0.25, 1), rgb(1, 1, 1))
"""White light under a blue sky."""
