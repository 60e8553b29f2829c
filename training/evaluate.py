"""How good a model of the world is, on clips that training never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen
from PIL import Image

from svdkit import StableVideoDiffusionPipeline
from svdkit.stages import decode

from .world import SCENES, Clip, clip

HELD_OUT = 2**41
"""The first seed of the clips here; those of training are smaller."""
BUCKETS = 32, 64, 127, 180, 255
RATES = 4, 7, 14
PLANE_SCENES = "boat", "cart", "fish", "rocket"
"""Scenes in which one thing moves over the picture, so that its displacement can be measured."""

Video = npt.NDArray[np.uint8]


@frozen
class Example:
    """A clip, and the video that a model makes of its first frame."""

    clip: Clip
    made: Video

    @property
    def repeated(self) -> Video:
        """The baseline: the first frame, again and again."""
        return np.repeat(self.clip.frames[:1], len(self.clip.frames), 0)

    def gains(self) -> npt.NDArray[np.float64]:
        """Decibels by which each frame but the first is nearer to the truth than the first frame is."""
        return psnr(self.made, self.clip.frames)[1:] - psnr(self.repeated, self.clip.frames)[1:]


def psnr(a: Video, b: Video) -> npt.NDArray[np.float64]:
    """Peak signal to noise ratio of each of the frames `(F, H, W, 3)`, in dB; 99 at most."""
    error = np.square((a.astype(np.float64) - b) / 255).mean((1, 2, 3))
    decibels: npt.NDArray[np.float64] = -10 * np.log10(np.maximum(error, 10**-9.9))
    return decibels


class Evaluation:
    """Figures and examples of one model.

    Args:
        pipe: the model.
        size: height and width of its clips in pixels.
        call: further parameters of the pipeline's call, such as the number of steps.
    """

    def __init__(self, pipe: StableVideoDiffusionPipeline, size: int, **call: Any) -> None:
        self.pipe, self.size, self.call = pipe, size, call
        self.frames: int = pipe.unet.config.num_frames

    def clip(self, i: int, **options: Any) -> Clip:
        """The i-th clip that is held out."""
        return clip(HELD_OUT + i, size=self.size, frames=self.frames, **options)

    def animate(self, original: Clip, seed: int) -> Example:
        """The model's video of a clip's first frame, under the clip's conditions."""
        made = self.pipe(
            Image.fromarray(original.frames[0]),
            height=self.size,
            width=self.size,
            fps=original.fps,
            motion_bucket_id=original.motion_bucket_id,
            generator=seed,
            **self.call,
        )
        return Example(original, np.stack([np.asarray(frame) for frame in made[0]]))

    def reconstruct(self, frames: Video) -> Video:
        """Frames after the autoencoder alone."""
        vae = self.pipe.vae
        pixels = frames.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        latents = vae.encode(vae.backend.array(pixels))
        scaled = latents.reshape(1, *latents.shape) * vae.config.scaling_factor
        video: Video = decode(vae, scaled, len(frames), "pil", lambda n: None)[0]
        return video

    def reconstruction(self, count: int) -> npt.NDArray[np.float64]:
        """PSNR of each of `count` clips after the autoencoder alone, mean over the frames."""
        clips = [self.clip(i).frames for i in range(count)]
        return np.array([psnr(self.reconstruct(frames), frames).mean() for frames in clips])

    def determined(self, count: int) -> list[Example]:
        """Clips whose motion follows from their first picture, as many of each scene."""
        names = [name for name, scene in SCENES.items() if scene.determined]
        clips = [self.clip(i, scene=names[i % len(names)], fps=7, motion_bucket_id=127) for i in range(count)]
        return [self.animate(c, seed) for seed, c in enumerate(clips)]

    def motion(self, condition: str, values: Sequence[int], count: int) -> dict[int, tuple[float, float]]:
        """Displacement a frame, of the model's videos and of the truth, in pixels, for each value of a condition."""
        found = {}
        for value in values:
            options = {"fps": 7, "motion_bucket_id": 127, condition: value}
            clips = [self.clip(i, scene=PLANE_SCENES[i % len(PLANE_SCENES)], **options) for i in range(count)]
            made = [displacement(self.animate(c, seed).made) for seed, c in enumerate(clips)]
            found[value] = float(np.mean(made)), float(np.mean([displacement(c.frames) for c in clips]))
        return found


def displacement(video: Video) -> float:
    """How far what moves is carried a frame, in pixels: the median length of the optical flow where frames differ.

    The flow is that of scikit-image's TV-L1 (Zach, Pock and Bischof 2007), between consecutive frames in grey.
    """
    from skimage.color import rgb2gray
    from skimage.registration import optical_flow_tvl1

    grey = [rgb2gray(frame) for frame in video]
    lengths = []
    for a, b in pairwise(grey):
        moving = np.abs(b - a) > 0.05
        flow = optical_flow_tvl1(a, b, attachment=10, num_warp=5)
        lengths.append(float(np.median(np.hypot(*flow)[moving])) if moving.any() else 0.0)
    return float(np.mean(lengths))


def summary(evaluation: Evaluation, count: int, report: Callable[[str], None]) -> tuple[dict[str, Any], list[Example]]:
    """Every figure of the model card, told as it is found, and the examples that they are of."""
    figures: dict[str, Any] = {"autoencoder_psnr": round(float(evaluation.reconstruction(count).mean()), 2)}
    report(f"autoencoder: {figures['autoencoder_psnr']} dB on {count} clips")
    examples = evaluation.determined(count)
    gains = np.stack([example.gains() for example in examples])
    first = [psnr(e.made[:1], e.clip.frames[:1])[0] for e in examples]
    figures |= {
        "first_frame_psnr": round(float(np.mean(first)), 2),
        "gain": round(float(gains.mean()), 2),
        "gain_last_frame": round(float(gains[:, -1].mean()), 2),
        "gain_by_scene": {
            name: round(
                float(np.mean([g.mean() for g, e in zip(gains, examples, strict=True) if e.clip.scene == name])), 2
            )
            for name in dict.fromkeys(e.clip.scene for e in examples)
        },
    }
    report(f"first frame: {figures['first_frame_psnr']} dB")
    report(f"beyond the repeated first frame: {figures['gain']} dB, last frame {figures['gain_last_frame']} dB")
    for condition, values in (("motion_bucket_id", BUCKETS), ("fps", RATES)):
        found = evaluation.motion(condition, values, min(count, 16))
        figures[condition] = {str(value): [round(x, 3) for x in pair] for value, pair in found.items()}
        report(f"displacement by {condition} (made, true): {figures[condition]}")
    return figures, examples
