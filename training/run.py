"""The whole of a training run, in a folder that it can be taken up from at any moment."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen

from svdkit import StableVideoDiffusionPipeline
from svdkit.backend import Host
from svdkit.checkpoint import save_checkpoint
from svdkit.config import UNetConfig, from_dict, read_json
from svdkit.testing.random_checkpoint import write_random_checkpoint

from .autoencoder import autoencoder_loss
from .data import Clips, encode_clips
from .denoiser import denoiser_loss
from .evaluate import Evaluation, Video
from .loop import Loop
from .networks import calm, copying, read_weights, write_network
from .pictures import loss_curve, strips
from .settings import Settings
from .world import Clip, clip

MEASURED = 200
"""Clips that the spread of the latents is measured on."""
DRAWN = 900
"""Seconds between two pictures of what the model makes by now; each takes several."""


@frozen
class Run:
    """A folder: `checkpoint/` as it is now, `clips/` encoded, and for each training its state, losses and curve."""

    folder: Path
    settings: Settings

    @property
    def checkpoint(self) -> Path:
        """In diffusers' layout, in float32; of the averaged weights, once trained."""
        return self.folder / "checkpoint"

    def begin(self, source: Path | None = None, autoencoder: Path | None = None) -> None:
        """Lay down what training begins from: a checkpoint, or random weights, if not of a trained autoencoder."""
        if self.checkpoint.exists():
            return
        partial = self.folder / "checkpoint.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if source is not None:
            save_checkpoint(source, partial, dtype="float32")
        else:
            s = self.settings
            networks: dict[str, Any] = {"unet": s.unet, "vae": s.vae, "image_encoder": s.image_encoder}
            write_random_checkpoint(partial, **networks, seed=s.seed, dtype="float32")
            for name in ("unet", "vae"):
                weights = calm(read_weights(partial, name))
                write_network(partial, name, {k: torch.from_numpy(v) for k, v in weights.items()}, "float32")
        if autoencoder is not None:
            shutil.copyfile(autoencoder / "vae" / "config.json", partial / "vae" / "config.json")
            weights = read_weights(autoencoder, "vae")
            write_network(partial, "vae", {k: torch.from_numpy(v) for k, v in weights.items()}, "float32")
        partial.rename(self.checkpoint)

    def train_autoencoder(self) -> None:
        """Train the autoencoder on the world, then set the scale that gives its latents unit variance."""
        s = self.settings
        loop = self._loop("vae", {"vae": read_weights(self.checkpoint, "vae")}, s.vae_steps, s.vae_rate)
        loss = autoencoder_loss(self.checkpoint, loop.part("vae"), s)
        loop.run(loss, "autoencoder", self._keep(loop, ("vae",), self._reconstructions))
        clips = encode_clips(self.folder / "measured", self.checkpoint, self.draw, min(MEASURED, s.clips), s.device)
        path = self.checkpoint / "vae" / "config.json"
        scale = 1 / float(clips.latents.std(dtype=np.float64))
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(read_json(path) | {"scaling_factor": round(scale, 5)}, indent=2) + "\n")
        partial.replace(path)

    def train_denoiser(self, draw: Callable[[int], Clip] | None = None, copies: bool = False) -> None:
        """Train the UNet, and with it the image encoder, on clips that are encoded once.

        Args:
            draw: gives a clip; those of the world if None.
            copies: whether the UNet begins by giving the picture back, and not as it is in the checkpoint.
        """
        s = self.settings
        clips: Clips = encode_clips(self.folder / "clips", self.checkpoint, draw or self.draw, s.clips, s.device)
        parts = {name: read_weights(self.checkpoint, name) for name in ("unet", "image_encoder")}
        if copies:
            config = from_dict(UNetConfig, read_json(self.checkpoint / "unet" / "config.json"))
            scaling_factor = read_json(self.checkpoint / "vae" / "config.json")["scaling_factor"]
            parts["unet"] = copying(parts["unet"], config, scaling_factor)
        loop = self._loop("unet", parts, s.unet_steps, s.unet_rate)
        networks = self.checkpoint, loop.part("unet"), loop.part("image_encoder")
        loop.run(denoiser_loss(*networks, clips, s), "denoiser", self._keep(loop, tuple(parts), self._samples))

    def export(self, target: Path) -> None:
        """Write the model as it is now, in float16."""
        save_checkpoint(self.checkpoint, target, dtype="float16")

    def draw(self, index: int) -> Clip:
        """A clip of the world; the i-th has the seed i."""
        return clip(index, size=self.settings.size, frames=self.settings.frames)

    def _loop(self, stem: str, parts: Mapping[str, Mapping[str, Host]], steps: int, rate: float) -> Loop:
        weights = {f"{name}/{key}": value for name, part in parts.items() for key, value in part.items()}
        return Loop(
            self.folder / f"{stem}.safetensors",
            weights,
            steps=steps,
            rate=rate,
            average=self.settings.average,
            device=self.settings.device,
        )

    def _keep(
        self, loop: Loop, names: tuple[str, ...], rows: Callable[[Evaluation], list[Video]]
    ) -> Callable[[], None]:
        """What is done whenever the loop's state was written: the checkpoint follows it, and now and then pictures."""
        drawn = -math.inf

        def keep() -> None:
            nonlocal drawn
            for name in names:
                write_network(self.checkpoint, name, loop.part(name, averaged=True), "float32")
            loss_curve(loop.path.with_suffix(".csv"))
            if time.monotonic() - drawn > DRAWN or loop.step == loop.steps:
                pipe = StableVideoDiffusionPipeline.from_pretrained(
                    self.checkpoint, backend="torch", device=self.settings.device
                )
                pipe.set_progress_bar_config(disable=True)
                evaluation = Evaluation(pipe, self.settings.size, num_inference_steps=10)
                strips(rows(evaluation)).save(self.folder / f"{loop.path.stem}-samples.png")
                drawn = time.monotonic()

        return keep

    def _reconstructions(self, evaluation: Evaluation) -> list[Video]:
        clips = [evaluation.clip(i).frames for i in range(self.settings.samples)]
        return [row for frames in clips for row in (frames, evaluation.reconstruct(frames))]

    def _samples(self, evaluation: Evaluation) -> list[Video]:
        examples = [evaluation.animate(evaluation.clip(i), i) for i in range(self.settings.samples)]
        return [row for example in examples for row in (example.clip.frames, example.made)]
