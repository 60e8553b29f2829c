"""Clips as the denoiser sees them: latents, first frames and conditions, encoded once and kept in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from attrs import frozen
from PIL import Image
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from svdkit.checkpoint import load_component
from svdkit.preprocess import clip_pixels
from svdkit_torch.backend import TorchBackend

from .autoencoder import moments
from .world import Clip

SHARD = 200
"""Clips in a file: what is lost when encoding is killed."""


@frozen
class Clips:
    """N encoded clips.

    Attributes:
        latents: `(N, frames, channels, h, w)`, about of unit variance, float16.
        first: the first frames `(N, H, W, 3)`, 8 bits.
        fps, motion_bucket_id: `(N,)`.
    """

    latents: npt.NDArray[np.float16]
    first: npt.NDArray[np.uint8]
    fps: npt.NDArray[np.float32]
    motion_bucket_id: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.first)

    def clip_pixels(self, chosen: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """First frames as the image encoder takes them, `(n, 3, 224, 224)`."""
        return np.stack([clip_pixels(Image.fromarray(self.first[i])) for i in chosen])


def encode_clips(folder: Path, checkpoint: Path, draw: Callable[[int], Clip], count: int, device: str) -> Clips:
    """The clips `draw(0)` to `draw(count - 1)`, encoded by a checkpoint's autoencoder; what is in `folder` is kept.

    Args:
        folder: of files of `SHARD` clips.
        checkpoint: whose autoencoder it is.
        draw: gives a clip.
        count: of clips.
        device: of torch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vae = load_component("vae", checkpoint, TorchBackend(device, "float32"))
    shards = []
    for start in tqdm(range(0, count, SHARD), desc="encoding clips"):
        path = folder / f"{start:06d}.safetensors"
        if not path.exists():
            clips = [draw(i) for i in range(start, min(start + SHARD, count))]
            tensors = {
                "latents": np.stack([_latents(vae, clip.frames) for clip in clips]).astype(np.float16),
                "first": np.stack([clip.frames[0] for clip in clips]),
                "fps": np.array([clip.fps for clip in clips], np.float32),
                "motion_bucket_id": np.array([clip.motion_bucket_id for clip in clips], np.float32),
            }
            partial = path.with_suffix(".part")
            save_file(tensors, partial)
            partial.replace(path)
        shards.append(load_file(path))
    return Clips(**{key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]})


@torch.no_grad()
def _latents(vae: Any, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Modes of the posterior times the scaling factor, `(frames, channels, h, w)`."""
    pixels = torch.from_numpy(frames).to(vae.backend.device).float() / 127.5 - 1
    mean, _ = moments(vae, pixels).chunk(2, -1)
    scaled: npt.NDArray[np.float32] = (mean * vae.config.scaling_factor).permute(0, 3, 1, 2).cpu().numpy()
    return scaled
