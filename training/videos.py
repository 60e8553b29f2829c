"""Clips cut from a folder of videos, to fine-tune a checkpoint on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
from attrs import frozen
from PIL import Image

from svdkit.errors import InputError

from .world import Clip

SUFFIXES = ".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif"


@frozen
class VideoFolder:
    """All whole clips of the videos in a folder, one after another; the i-th is the same every time.

    Args:
        clips: which video each is from, and its first frame there.
        size: height and width; what is longer than wide, or wider than high, loses both ends.
        frames: of a clip.
        motion_bucket_id: what the model is told of their motion.
    """

    clips: tuple[tuple[Path, int], ...]
    size: int
    frames: int
    motion_bucket_id: int = 127

    @classmethod
    def open(cls, folder: Path, size: int, frames: int, motion_bucket_id: int = 127) -> VideoFolder:
        """Count the frames of all videos below a folder.

        Raises:
            InputError: no video there has so many frames.
        """
        clips = []
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
            count = sum(1 for _ in _frames(path))
            clips += [(path, start) for start in range(0, count - frames + 1, frames)]
        if not clips:
            raise InputError(
                f"There is no video of {frames} frames or more below {folder}; expected files ending in "
                f"{', '.join(SUFFIXES)}."
            )
        return cls(tuple(clips), size, frames, motion_bucket_id)

    def __call__(self, index: int) -> Clip:
        """One clip."""
        path, start = self.clips[index]
        fps = float(iio.immeta(path).get("fps", 7))
        taken = islice(_frames(path), start, start + self.frames)
        frames = np.stack([_square(frame, self.size) for frame in taken])
        return Clip(frames, path.name, False, round(fps), self.motion_bucket_id)

    def __len__(self) -> int:
        return len(self.clips)


def _frames(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    try:
        yield from iio.imiter(path)
    except Exception as error:  # on damaged files decoders raise whatever they stumble over
        raise InputError(f"The video {path} cannot be read: {error}. Take it out of the folder.") from error


def _square(frame: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    picture = Image.fromarray(frame).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side)))
