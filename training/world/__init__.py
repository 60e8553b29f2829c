"""A procedural world: short clips of simple scenes, drawn by NumPy from a seed.

Every scene is a pure function of world time, which `motion_bucket_id` and `fps` turn into the time of a frame, so both
conditions of Stable Video Diffusion mean what they say: a higher bucket is more motion a frame, a higher rate less.
"""

from __future__ import annotations

from math import exp, log

import numpy as np
import numpy.typing as npt
from attrs import frozen

from training.world.balls import balls
from training.world.boat import boat
from training.world.camera import clouds, pan
from training.world.cart import cart
from training.world.fish import fish
from training.world.light import Day
from training.world.rocket import rocket
from training.world.scene import Scene
from training.world.sunrise import sunrise
from training.world.textures import textures
from training.world.turning import windmill

__all__ = ["SCENES", "Clip", "Scene", "clip", "world_time"]

SCENES: dict[str, Scene] = {
    "boat": Scene(boat, determined=True),
    "balls": Scene(balls, determined=True, glow=0),
    "cart": Scene(cart, determined=True),
    "fish": Scene(fish, determined=True, glow=0),
    "rocket": Scene(rocket, determined=True, glow=None),
    "sunrise": Scene(sunrise, determined=True, hours=(0.1, 0.3)),
    "windmill": Scene(windmill, determined=True),
    "clouds": Scene(clouds, determined=False),
    "pan": Scene(pan, determined=False),
    "textures": Scene(textures, determined=False, glow=None),
}
"""The scenes by name."""


@frozen
class Clip:
    """A clip and its conditions: `frames` is (T, H, W, 3), `determined` that of its scene."""

    frames: npt.NDArray[np.uint8]
    scene: str
    determined: bool
    fps: int
    motion_bucket_id: int


def world_time(frames: int, fps: int, motion_bucket_id: int) -> npt.NDArray[np.float64]:
    """The world time of each frame, of shape (frames,): one unit a frame at bucket 127 and 7 frames a second."""
    return np.arange(frames) * (motion_bucket_id / 127) * (7 / fps)


def clip(
    seed: int,
    *,
    scene: str | None = None,
    size: int = 96,
    frames: int = 8,
    fps: int | None = None,
    motion_bucket_id: int | None = None,
    moving: bool = True,
) -> Clip:
    """The clip of a seed, `size` x `size` pixels, with what is None drawn from the seed as well.

    The first frame depends on the seed, the scene and the size alone. Drawn rates are 4 to 15 with half of them 7,
    drawn buckets 16 to 255 with the most near 127. If not `moving`, only the light changes. An unknown scene raises
    KeyError.
    """
    choice, timing, content, hour = (np.random.default_rng([seed, stream]) for stream in range(4))
    drawn_scene = list(SCENES)[choice.integers(len(SCENES))]
    drawn_bucket = round(exp(timing.triangular(log(16), log(127), log(255))))
    drawn_fps = 7 if timing.random() < 0.5 else round(timing.triangular(4, 7, 15))
    name = drawn_scene if scene is None else scene
    fps = drawn_fps if fps is None else fps
    bucket = drawn_bucket if motion_bucket_id is None else motion_bucket_id
    mirrored = content.random() < 0.5
    draw = SCENES[name].drawn(content, size)
    day = Day(hour.uniform(*SCENES[name].hours), SCENES[name].glow)
    taken = np.empty((frames, size, size, 3), np.uint8)
    for frame, tau in zip(taken, world_time(frames, fps, bucket).tolist(), strict=True):
        picture = draw(tau if moving else 0.0)
        day.shine(picture, tau)
        picture.write(frame[:, ::-1] if mirrored else frame)
    return Clip(taken, name, SCENES[name].determined, fps, bucket)
