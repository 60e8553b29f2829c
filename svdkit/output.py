"""What a generation returns: the frames, and everything that was really used to make them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import Factory, frozen

from .arrays import to_host
from .errors import OutputError
from .video import check_output, write_video


@frozen(eq=False)
class StableVideoDiffusionPipelineOutput:
    """Frames of one or several videos, in the order image 0's videos, image 1's videos, …"""

    frames: Any
    """As `output_type` says: `pil`, a list of PIL images for each video; `np`, `(B, F, H, W, 3)` in [0, 1];
    `tensor`, `(B, F, 3, H, W)` in [0, 1] of the backend; `latent`, `(B, F, C, H / s, W / s)` of the backend."""
    fps: float = 7
    """Frames a second, which `save` writes."""
    sigmas: tuple[float, ...] = ()
    """Noise levels, with the final 0."""
    seeds: tuple[int, ...] = ()
    """The seed of each video; with it alone, and the image, the video can be made again."""
    backend: str = ""
    device: str = ""
    dtype: str = ""
    scheduler: str = ""
    nfe: int = 0
    """Function evaluations: how often the denoiser was called."""
    timings: Mapping[str, float] = Factory(dict)
    """Seconds that each stage took: `load` (if it was loaded for this call), `encode`, `denoise`, `decode`."""
    output_type: str = "pil"
    decode_chunk_size: int | None = None
    """Frames that were decoded at a time; None if none were."""
    memory: str = "max"
    """`"low"` if the networks were loaded one after another, else `"max"`."""

    @property
    def seed(self) -> int:
        """The first video's seed."""
        return self.seeds[0]

    def save(self, path: str | os.PathLike[str], fps: float | None = None) -> list[Path]:
        """Write the videos.

        Args:
            path: `.mp4`, `.webm`, `.gif` or `.webp`, or no suffix for a folder of PNGs. Of several videos, the
                i-th is written to `name_i.suffix`, from 0.
            fps: frames a second; those of the generation if None.

        Returns:
            The paths that were written.

        Raises:
            OutputError: the path cannot be written to, or the frames are latents.
        """
        if self.output_type == "latent":
            raise OutputError("Latents cannot be saved as a video; generate with output_type='pil'.")
        paths = output_paths(path, len(self.frames))
        for target, video in zip(paths, self._videos(), strict=True):
            write_video(target, video, self.fps if fps is None else fps)
        return paths

    def _videos(self) -> Sequence[Any]:
        if self.output_type == "pil":
            return list(self.frames)
        frames = self.frames
        if self.output_type == "tensor":
            frames = to_host(frames).transpose(0, 1, 3, 4, 2)
        return list((frames * 255).round().astype(np.uint8))


def output_paths(path: str | os.PathLike[str], videos: int) -> list[Path]:
    """Where each of a number of videos goes, each path checked.

    Raises:
        OutputError: one cannot be written to.
    """
    path = Path(path)
    if not path.name:
        raise OutputError(f"{str(path)!r} does not name a file or a folder of PNGs. Pass a path such as 'video.mp4'.")
    paths = [path] if videos == 1 else [path.with_name(f"{path.stem}_{i}{path.suffix}") for i in range(videos)]
    return [check_output(p) for p in paths]
