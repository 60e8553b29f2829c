"""The denoiser's objective (arXiv:2311.15127, appendix D; arXiv:2206.00364, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from svdkit_torch.backend import TorchBackend

from .data import PICTURES, Clips, clip_pixels
from .networks import trained_network
from .settings import Settings

SIGMA = 0.7, 1.6
"""Mean and spread of log sigma."""


def denoiser_loss(
    folder: Path, unet: Mapping[str, Tensor], image_encoder: Mapping[str, Tensor], clips: Clips, settings: Settings
) -> Callable[[int], Tensor]:
    """The loss of the weights of the UNet and the image encoder, as a function of the step.

    With x = x0 + sigma n and the preconditioned denoiser D = c_skip x + c_out F, the paper's
    (1 + sigma^2) / sigma^2 |D - x0|^2 is |F - (x0 - c_skip x) / c_out|^2, because c_out^2 = sigma^2 / (1 + sigma^2).
    """
    backend = TorchBackend(settings.device, settings.dtype)
    denoiser = trained_network(folder, "unet", backend, unet)
    encoder = trained_network(folder, "image_encoder", backend, image_encoder)
    batch, device = settings.unet_batch, settings.device
    all_latents, all_pictures, all_first = (
        torch.from_numpy(values).to(device) for values in (clips.latents, clips.pictures, clips.first)
    )

    def tensor(values: npt.NDArray[np.float64], axes: int = 1) -> Tensor:
        """One number a clip, to go with tensors of so many axes."""
        return torch.from_numpy(values).to(device, torch.float32).reshape(-1, *[1] * (axes - 1))

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([settings.seed, 2, step])
        chosen = rng.integers(len(clips), size=batch)
        latents = all_latents[chosen].float()
        # One from each of as many equally likely parts of the distribution: the same of each, and a calmer mean.
        quantiles = (np.arange(batch) + rng.random(batch)) / batch
        sigma = np.exp([NormalDist(*SIGMA).inv_cdf(q) for q in quantiles])
        picture = rng.integers(PICTURES, size=batch)
        kept = (rng.random(batch) >= settings.drop).astype(np.float64)
        noise = torch.randn(
            latents.shape, generator=torch.Generator(device).manual_seed(settings.seed << 32 | step), device=device
        )

        image_latents = (all_pictures[chosen, picture].float() * tensor(kept, 4))[:, None].expand_as(latents)
        embeddings = encoder(clip_pixels(all_first[chosen]))[:, None] * tensor(kept, 3)
        ids = np.stack([clips.fps[chosen] - 1.0, clips.motion_bucket_id[chosen], clips.strength[chosen, picture]], 1)

        s = tensor(sigma, 5)
        x = latents + s * noise
        target = (x / (s * s + 1) - latents) * torch.sqrt(s * s + 1) / s
        sample = torch.cat([x / torch.sqrt(s * s + 1), image_latents], 2)
        output = denoiser(sample, np.log(sigma) / 4, denoiser.prepare(embeddings, ids, latents.shape[1]))
        mean_square: Tensor = (output - target).square().mean()
        return mean_square

    return loss
