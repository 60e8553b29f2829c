"""The autoencoder's objective: clips to latents and back, with latents held near a standard normal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svdkit_torch.backend import TorchBackend

from .networks import trained_network
from .settings import Settings
from .world import clip

SQUARES = 5.0
"""Weight of squared beside absolute differences, in pixels of [-1, 1]."""
KL = 2e-4
"""Weight of the divergence of a latent from a standard normal."""


def autoencoder_loss(folder: Path, tensors: Mapping[str, Tensor], settings: Settings) -> Callable[[int], Tensor]:
    """The loss of `tensors`, the weights of the autoencoder of a checkpoint, as a function of the step."""
    vae = trained_network(folder, "vae", TorchBackend(settings.device, settings.dtype), tensors)

    def loss(step: int) -> Tensor:
        frames = settings.vae_frames if step % 4 == 3 else 1
        pixels = _crops(np.random.default_rng([settings.seed, 1, step]), frames, settings).to(settings.device)
        noise = torch.Generator().manual_seed(settings.seed << 32 | step)
        mean, log_variance = moments(vae, pixels).clamp(-30, 20).chunk(2, -1)
        latents = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=noise).to(mean.device)
        difference = vae.decoder(latents.to(vae.backend._dtype), frames).float() - pixels
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        total: Tensor = difference.abs().mean() + SQUARES * difference.square().mean() + KL * divergence
        return total

    return loss


def moments(vae: Any, pixels: Tensor) -> Tensor:
    """Means and log-variances, maps `(N, h, w, 2 * latent_channels)`, of maps of pixels in [-1, 1]."""
    result: Tensor = vae.quant_conv(vae.encoder(pixels.to(vae.backend._dtype))).float()
    return result


def _crops(rng: np.random.Generator, frames: int, settings: Settings) -> Tensor:
    """Maps `(clips * frames, crop, crop, 3)` in [-1, 1] of clips that no other step sees."""
    crops = []
    for _ in range(max(1, settings.vae_batch // frames)):
        video = clip(int(rng.integers(2**40)), size=settings.size, frames=frames).frames
        top, left = rng.integers(settings.size - settings.vae_crop + 1, size=2)
        crops.append(video[:, top : top + settings.vae_crop, left : left + settings.vae_crop])
    return torch.from_numpy(np.concatenate(crops)).float() / 127.5 - 1
