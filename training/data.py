"""Clips as the denoiser sees them: latents, first frames and conditions, encoded once and kept in a folder."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from attrs import frozen
from safetensors.numpy import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from svdkit.checkpoint import load_component
from svdkit.preprocess import CLIP_MEAN, CLIP_STD, antialiased_bicubic
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
FEW = 16
"""Clips that are not worth another process."""


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


def encode_clips(folder: Path, checkpoint: Path, draw: Callable[[int], Clip], count: int, device: str) -> Clips:
    """The clips `draw(0)` to `draw(count - 1)`, encoded by a checkpoint's autoencoder; what is in `folder` is kept.

    Args:
        folder: of files of `SHARD` clips.
        checkpoint: whose autoencoder it is.
        draw: gives a clip; called in a process for each processor if there are many.
        count: of clips.
        device: of torch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {start: folder / f"{start:06d}.safetensors" for start in range(0, count, SHARD)}
    if missing := [start for start, path in paths.items() if not path.exists()]:
        vae = load_component("vae", checkpoint, TorchBackend(device, "float32"))
        order = [i for start in missing for i in range(start, min(start + SHARD, count))]
        workers = min(len(order) // FEW, torch.get_num_threads())
        loader: Any = DataLoader(order, batch_size=None, collate_fn=draw, num_workers=workers)  # type: ignore[arg-type]
        drawn = iter(tqdm(loader, desc="encoding clips"))
        for start in missing:
            write_weights(paths[start], _encoded(vae, list(islice(drawn, SHARD)), start))
    parts = [load_file(path) for path in paths.values()]
    return Clips(**{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})


def pixels_of(frames: Tensor) -> Tensor:
    """Bytes as pixels in [-1, 1]."""
    return frames / 127.5 - 1


def noisy(first: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """One picture `(H, W, 3)` in bytes, with noise of each strength: pixels `(n, H, W, 3)`."""
    noise = torch.randn(len(strength), *first.shape, generator=rng, device=first.device)
    return pixels_of(first) + strength[:, None, None, None] * noise


@torch.no_grad()
def modes(vae: Any, pixels: Tensor) -> Tensor:
    """Modes of the posterior of pixels `(n, H, W, 3)`, not scaled: `(n, channels, h, w)`."""
    mean, _ = moments(vae, pixels).chunk(2, -1)
    return mean.permute(0, 3, 1, 2)


def clip_pixels(first: Tensor, size: int = 224) -> Tensor:
    """What `svdkit.preprocess.clip_pixels` makes of each of the pictures `(N, H, W, 3)`, on their device."""
    rows, columns = (torch.from_numpy(antialiased_bicubic(n, size)).to(first.device) for n in first.shape[1:3])
    mean, std = (torch.tensor(values, device=first.device)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (rows @ (first.permute(0, 3, 1, 2) / 255) @ columns.T - mean) / std


def _encoded(vae: Any, clips: list[Clip], seed: int) -> dict[str, npt.NDArray[Any]]:
    """The fields of `Clips`."""
    device = vae.backend.device
    rng = torch.Generator(device).manual_seed(seed)
    mean, spread = AUGMENTATION
    strength = torch.exp(mean + spread * torch.randn(len(clips), PICTURES, generator=rng, device=device))
    latents, pictures = [], []
    for clip, s in zip(clips, strength, strict=True):
        frames = torch.from_numpy(clip.frames).to(device)
        encoded = modes(vae, torch.cat([pixels_of(frames), noisy(frames[0], s, rng)]))
        latents.append(encoded[: len(frames)] * vae.config.scaling_factor)
        pictures.append(encoded[len(frames) :])
    return {
        "latents": torch.stack(latents).half().cpu().numpy(),
        "pictures": torch.stack(pictures).half().cpu().numpy(),
        "strength": strength.cpu().numpy(),
        "first": np.stack([clip.frames[0] for clip in clips]),
        "fps": np.array([clip.fps for clip in clips], np.float32),
        "motion_bucket_id": np.array([clip.motion_bucket_id for clip in clips], np.float32),
    }
