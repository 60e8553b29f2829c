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
from safetensors.numpy import load_file
from tqdm.auto import tqdm

from svdkit.checkpoint import load_component
from svdkit.preprocess import clip_pixels
from svdkit.weights import write_weights
from svdkit_torch.backend import TorchBackend

from .autoencoder import moments
from .world import Clip

PICTURES = 2
"""Noisy versions of each first frame: encoding them anew in every step would be a third of it."""
AUGMENTATION = -3.0, 0.5
"""Mean and spread of the log strength of that noise (arXiv:2311.15127, appendix D)."""
SHARD = 200
"""Clips in a file: what is lost when encoding is killed."""


@frozen
class Clips:
    """N encoded clips.

    Attributes:
        latents: `(N, frames, channels, h, w)`, about of unit variance, float16.
        pictures: first frames with noise on them, `(N, PICTURES, channels, h, w)`, not scaled: what the UNet is shown.
        strength: of that noise, in pixels of [-1, 1], `(N, PICTURES)`.
        first: the first frames `(N, H, W, 3)`, 8 bits.
        fps, motion_bucket_id: `(N,)`.
    """

    latents: npt.NDArray[np.float16]
    pictures: npt.NDArray[np.float16]
    strength: npt.NDArray[np.float32]
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
            rng = np.random.default_rng([3, start])
            clips = [draw(i) for i in range(start, min(start + SHARD, count))]
            first = np.stack([clip.frames[0] for clip in clips])
            strength = np.exp(rng.normal(*AUGMENTATION, (len(clips), PICTURES))).astype(np.float32)
            pictures = [modes(vae, noisy(frame, s, rng)) for frame, s in zip(first, strength, strict=True)]
            latents = [modes(vae, pixels_of(clip.frames)) * vae.config.scaling_factor for clip in clips]
            tensors = {
                "latents": np.stack(latents).astype(np.float16),
                "pictures": np.stack(pictures).astype(np.float16),
                "strength": strength,
                "first": first,
                "fps": np.array([clip.fps for clip in clips], np.float32),
                "motion_bucket_id": np.array([clip.motion_bucket_id for clip in clips], np.float32),
            }
            write_weights(path, tensors)
        shards.append(load_file(path))
    return Clips(**{key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]})


def pixels_of(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Bytes as pixels in [-1, 1]."""
    return frames / np.float32(127.5) - 1


def noisy(
    first: npt.NDArray[np.uint8], strength: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """One picture `(H, W, 3)` with noise of each strength: `(n, H, W, 3)`."""
    noise = rng.standard_normal((len(strength), *first.shape), np.float32)
    return pixels_of(first) + strength[:, None, None, None] * noise


@torch.no_grad()
def modes(vae: Any, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Modes of the posterior of pixels `(n, H, W, 3)`, not scaled: `(n, channels, h, w)`."""
    mean, _ = moments(vae, torch.from_numpy(pixels).to(vae.backend.device)).chunk(2, -1)
    result: npt.NDArray[np.float32] = mean.permute(0, 3, 1, 2).cpu().numpy()
    return result
