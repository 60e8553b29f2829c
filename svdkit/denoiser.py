"""The network as a denoiser: conditioned, preconditioned and guided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define

from .backend import Array
from .interfaces import UNet
from .precondition import scalings

CONDITIONS = ("image_latents", "image_embeddings", "added_time_ids", "guidance_scale")


@define
class ConditionedDenoiser:
    """A UNet and what it is conditioned on, for all videos; with guidance, the unconditional half comes first.

    Args:
        unet: the v-prediction network.
        frames: of a video.
        guided: whether there are two halves.
        image_embeddings: `(videos, 1, channels)`.
        image_latents: `(videos, frames, channels, h, w)`, beside which the noisy latents stand.
        added_time_ids: `(videos, 3)`: fps - 1, motion bucket id, noise augmentation strength.
        guidance_scale: `(1, frames, 1, 1, 1)`.
    """

    unet: UNet
    frames: int
    guided: bool
    image_embeddings: Array
    image_latents: Array
    added_time_ids: Any
    guidance_scale: Array
    _prepared: Any = None

    def __call__(self, x: Array, sigma: float) -> Array:
        """The expected clean latents, given noisy ones at a noise level."""
        if self._prepared is None:
            self._prepared = self.unet.prepare(self.image_embeddings, self.added_time_ids, self.frames)
        k, s = self.unet.backend, scalings(sigma)
        scaled = x * s.c_in
        inputs = k.concat([k.concat([scaled, scaled], 0) if self.guided else scaled, self.image_latents], 2)
        output = self.unet(inputs, s.c_noise, self._prepared)
        if self.guided:
            unconditional, conditional = output[: x.shape[0]], output[x.shape[0] :]
            output = unconditional + (conditional - unconditional) * self.guidance_scale
        return x * s.c_skip + output * s.c_out

    def conditions(self) -> dict[str, Any]:
        """The tensors that `replace` takes, by name."""
        return {name: getattr(self, name) for name in CONDITIONS}

    def replace(self, tensors: Mapping[str, Any]) -> None:
        """Other tensors from now on."""
        for name, value in tensors.items():
            setattr(self, name, value)
        if tensors:
            self._prepared = None
