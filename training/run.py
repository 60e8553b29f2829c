"""The whole of a training run, in a folder that it can be taken up from at any moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from attrs import frozen

from svdkit.checkpoint import save_checkpoint
from svdkit.config import read_json
from svdkit.testing.random_checkpoint import write_random_checkpoint

from .autoencoder import autoencoder_loss
from .data import Clips, encode_clips
from .denoiser import denoiser_loss
from .loop import Loop
from .networks import calm, read_weights, write_network
from .pictures import loss_curve
from .settings import Settings
from .world import Clip, clip

MEASURED = 200
"""Clips that the spread of the latents is measured on."""


@frozen
class Run:
    """A folder: `checkpoint/` as it is now, `clips/` encoded, and for each training its state, losses and curve."""

    folder: Path
    settings: Settings

    @property
    def checkpoint(self) -> Path:
        """In diffusers' layout, in float32; of the averaged weights, once trained."""
        return self.folder / "checkpoint"

    def begin(self, source: Path | None = None) -> None:
        """Lay down what training begins from: a checkpoint, or random weights."""
        if (self.checkpoint / "model_index.json").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if source is not None:
            save_checkpoint(source, self.checkpoint, dtype="float32")
            return
        settings = self.settings
        write_random_checkpoint(
            self.checkpoint,
            unet=settings.unet,
            vae=settings.vae,
            image_encoder=settings.image_encoder,
            seed=settings.seed,
            dtype="float32",
        )
        for name in ("unet", "vae"):
            weights = calm(read_weights(self.checkpoint, name))
            write_network(self.checkpoint, name, {k: torch.from_numpy(v) for k, v in weights.items()}, "float32")

    def train_autoencoder(self) -> None:
        """Train the autoencoder on the world, then set the scale that gives its latents unit variance."""
        s = self.settings
        loop = self._loop("vae", ("vae",), s.vae_steps, s.vae_rate)
        loss = autoencoder_loss(self.checkpoint, loop.part("vae"), s)
        loop.run(loss, "autoencoder", lambda: self._keep(loop, ("vae",)))
        clips = encode_clips(self.folder / "measured", self.checkpoint, self.draw, min(MEASURED, s.clips), s.device)
        path = self.checkpoint / "vae" / "config.json"
        config = read_json(path) | {"scaling_factor": round(float(1 / clips.latents.std()), 5)}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def train_denoiser(self, draw: Callable[[int], Clip] | None = None) -> None:
        """Train the UNet, and with it the image encoder, on clips that are encoded once."""
        s = self.settings
        clips: Clips = encode_clips(self.folder / "clips", self.checkpoint, draw or self.draw, s.clips, s.device)
        names = ("unet", "image_encoder")
        loop = self._loop("unet", names, s.unet_steps, s.unet_rate)
        loss = denoiser_loss(self.checkpoint, loop.part("unet"), loop.part("image_encoder"), clips, s)
        loop.run(loss, "denoiser", lambda: self._keep(loop, names))

    def export(self, target: Path) -> None:
        """Write the model as it is now, in float16."""
        save_checkpoint(self.checkpoint, target, dtype="float16")

    def draw(self, index: int) -> Clip:
        """A clip of the world; the i-th has the seed i."""
        return clip(index, size=self.settings.size, frames=self.settings.frames)

    def _loop(self, stem: str, names: tuple[str, ...], steps: int, rate: float) -> Loop:
        weights = {
            f"{name}/{key}": value for name in names for key, value in read_weights(self.checkpoint, name).items()
        }
        return Loop(
            self.folder / f"{stem}.safetensors",
            weights,
            steps=steps,
            rate=rate,
            average=self.settings.average,
            device=self.settings.device,
        )

    def _keep(self, loop: Loop, names: tuple[str, ...]) -> None:
        for name in names:
            write_network(self.checkpoint, name, loop.part(name, averaged=True), "float32")
        loss_curve(loop.path.with_suffix(".csv"))
