"""Pieces of landscape that several scenes share: hills, trees, houses."""

from __future__ import annotations

from math import pi

import numpy as np
from attrs import frozen

from training.world.drawing import Array, Picture, box, circle, convex, hsv, rgb


@frozen
class Ridge:
    """The outline of a range of hills: its valleys are at about `base`, its tops `height` above."""

    base: float
    height: float
    waves: tuple[tuple[float, float, float], ...]

    @classmethod
    def drawn(cls, rng: np.random.Generator, base: float, height: float) -> Ridge:
        """A sum of three sines."""
        shares = ((0.8, 0.5), (1.9, 0.3), (4.3, 0.2))
        waves = tuple((2 * pi * f * rng.uniform(0.8, 1.3), rng.uniform(0, 2 * pi), share) for f, share in shares)
        return cls(base, height, waves)

    def __call__(self, x: Array) -> Array:
        """The `y` of the outline at `x`."""
        total = np.full_like(x, self.base - self.height / 2)
        for wave, phase, share in self.waves:
            total -= np.float32(self.height / 2 * share) * np.sin(np.float32(wave) * x + np.float32(phase))
        return total

    def at(self, x: float) -> float:
        """The `y` of the outline at one place."""
        return float(self(np.array([x], np.float32))[0])

    def fill(self, picture: Picture, colour: Array) -> None:
        """Paint all under the outline; the colour may have the shape of the picture or of a column of it."""
        if colour.size == 3:
            picture = picture.below(self.base - self.height)
        picture.fill(self(picture.x) - picture.y, colour)


@frozen
class Tree:
    """A broad-leaved tree or a fir of a given height that stands at (x, y)."""

    x: float
    y: float
    height: float
    fir: bool
    leaves: Array
    trunk: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, x: float, y: float, height: float) -> Tree:
        """Leaves from blue-green to autumn."""
        leaves = hsv(rng.choice([0.3, 0.36, 0.42, 0.1]) + rng.uniform(-0.05, 0.05), 0.7, rng.uniform(0.35, 0.65))
        return cls(x, y, height, bool(rng.random() < 0.5), leaves, rgb(0.32, 0.2, 0.12))

    def paint(self, picture: Picture) -> None:
        """Paint the tree."""
        p = picture.at(self.x, self.y - self.height / 2, reach=0.6 * self.height, scale=self.height)
        if p.empty:
            return
        p.fill(box(p, -0.07, 0.1, 0.07, 0.52), self.trunk)
        if self.fir:
            p.fill(convex(p, (-0.3, 0.3), (0.3, 0.3), (0, -0.15)), self.leaves * 0.85)
            p.fill(convex(p, (-0.24, 0.05), (0.24, 0.05), (0, -0.5)), self.leaves)
        else:
            p.fill(circle(p, 0, -0.15, 0.35), self.leaves * 0.85)
            p.fill(circle(p, -0.07, -0.21, 0.25), self.leaves)


@frozen
class House:
    """A house with a gable, a door and a window; `size` is the width of its wall."""

    x: float
    y: float
    size: float
    wall: Array
    roof: Array
    pane: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, x: float, y: float, size: float) -> House:
        """Light walls, red to blue roofs."""
        wall = hsv(rng.uniform(), rng.uniform(0.05, 0.4), 0.95)
        roof = hsv(rng.choice([0.02, 0.05, 0.6]) + rng.uniform(-0.03, 0.03), 0.7, rng.uniform(0.4, 0.75))
        return cls(x, y, size, wall, roof, hsv(0.58, 0.5, 0.6))

    def paint(self, picture: Picture) -> None:
        """Paint the house."""
        p = picture.at(self.x, self.y - 0.5 * self.size, reach=0.8 * self.size, scale=self.size)
        if p.empty:
            return
        p.fill(box(p, -0.5, -0.2, 0.5, 0.6), self.wall)
        p.fill(convex(p, (-0.65, -0.15), (0.65, -0.15), (0.35, -0.65), (-0.35, -0.65)), self.roof)
        p.fill(box(p, -0.32, 0.05, -0.05, 0.3), self.pane)
        p.fill(box(p, 0.12, 0.05, 0.36, 0.6), self.roof * 0.7)
