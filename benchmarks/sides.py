"""What is timed: parts of a generation on svdkit and on diffusers, with the same weights and the same input."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from attrs import field, frozen

import svdkit

NETWORKS = {"unet": "unet", "decode": "vae", "encode": "vae", "image-encoder": "image_encoder"}
PARTS = (*NETWORKS, "generate")
C_NOISE = 0.7
"""The noise level of a UNet step as the network is told it; the time does not depend on it."""

Run = Callable[[], Any]
"""Computes a part once and returns its array, on the device or the host."""


@frozen(kw_only=True)
class Task:
    """What one process computes, and how."""

    parts: tuple[str, ...] = field(converter=tuple)
    checkpoint: str
    side: str = "svdkit"
    """Or `"diffusers"`."""
    backend: str = "torch"
    """svdkit's; diffusers has torch."""
    device: str = "cpu"
    dtype: str = "float32"
    height: int = 256
    width: int = 256
    frames: int = 4
    steps: int = 5
    """Of a generation."""
    decode_chunk: int | None = None
    compile: bool = False
    threads: int | None = None
    """How many processors the process may use; all if None."""


def add_options(parser: ArgumentParser, **defaults: Any) -> None:
    """The options that most benchmarks share, with other defaults for some."""
    parser.add_argument("--backend", default="mindspore", help="svdkit's")
    parser.add_argument("--device", default="cpu", help="svdkit's, and diffusers' where the backend is torch")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="of a generation")
    parser.add_argument("--decode-chunk", type=int, help="frames decoded at a time; all if not given")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, help="processors that a process may use; all if not given")
    parser.add_argument("--checkpoint", type=Path, default=Path("out/img2vid-xt-random"), help="written if missing")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder for JSON")
    parser.set_defaults(**defaults)


def task_of(options: Namespace, *parts: str, **others: Any) -> Task:
    """The task of svdkit, as the options say. A missing checkpoint is written: true size, random weights."""
    if not (options.checkpoint / "model_index.json").exists():
        from svdkit.testing.random_checkpoint import write_random_checkpoint

        print(f"writing random weights in img2vid-xt's configuration to {options.checkpoint}", flush=True)
        write_random_checkpoint(options.checkpoint)
    names = ("backend", "device", "dtype", "height", "width", "frames", "steps", "decode_chunk", "threads")
    given = {name: getattr(options, name) for name in names}
    return Task(**given | {"parts": parts, "checkpoint": str(options.checkpoint)} | others)


class Side(ABC):
    """One implementation, with what its task needs of a checkpoint loaded. A method for each part makes its `Run`.

    Args:
        task: what to load.
        marks: a generation notes here when its steps ended (`time.time`).
    """

    def __init__(self, task: Task, marks: dict[str, float]) -> None:
        self.task, self.marks, self.folder = task, marks, Path(task.checkpoint)
        if "generate" in task.parts:
            self.networks = self._pipeline()
        else:
            names = {NETWORKS[part] for part in task.parts}
            self.networks = SimpleNamespace(**{name: self._load(name) for name in names})

        # The same numbers on both sides. The UNet's are those of a guidance pair, the unconditional half first.
        clip = json.loads((self.folder / "image_encoder" / "config.json").read_text(encoding="utf-8"))
        rng, (h, w) = np.random.default_rng(0), (task.height // 8, task.width // 8)
        self.sample = rng.standard_normal((2, task.frames, 8, h, w), np.float32)
        self.latents = rng.standard_normal((1, task.frames, 4, h, w), np.float32)
        self.context = rng.standard_normal((2, 1, clip["projection_dim"]), np.float32) * np.float32([[[0]], [[1]]])
        self.ids = np.tile(np.float32([6, 127, 0.02]), (2, 1))
        self.image = np.tanh(rng.standard_normal((1, 3, task.height, task.width), np.float32))
        self.pixels = rng.standard_normal((1, 3, clip["image_size"], clip["image_size"]), np.float32)

    def run(self, part: str) -> Run:
        """What computes a part; all that is done once is done."""
        makers: dict[str, Callable[[], Run]] = {
            "unet": self._unet,
            "decode": self._decode,
            "encode": self._encode,
            "image-encoder": self._embed,
            "generate": self._generate,
        }
        return makers[part]()

    @abstractmethod
    def _pipeline(self) -> Any: ...

    @abstractmethod
    def _load(self, name: str) -> Any: ...

    @abstractmethod
    def _unet(self) -> Run: ...

    @abstractmethod
    def _decode(self) -> Run: ...

    @abstractmethod
    def _encode(self) -> Run: ...

    @abstractmethod
    def _embed(self) -> Run: ...

    def _noise(self) -> Any:
        return self.latents

    def _generate(self) -> Run:
        """Picture to frames; the two pipelines take the same call."""
        from PIL import Image

        task, noise, picture = self.task, self._noise(), Path(svdkit.__file__).parent / "assets" / "photo.jpg"

        def step_ended(_: Any, step: int, *__: Any) -> dict[str, Any]:
            self.marks["first step" if step == 0 else "last step"] = time.time()
            return {}

        def run() -> np.ndarray:
            output = self.networks(
                Image.open(picture).convert("RGB"),
                height=task.height,
                width=task.width,
                num_frames=task.frames,
                num_inference_steps=task.steps,
                decode_chunk_size=task.decode_chunk,
                noise_aug_strength=0.0,  # each draws this noise in its own way
                latents=noise,
                callback_on_step_end=step_ended,
                output_type="np",
            )
            return np.asarray(getattr(output, "frames", output))

        self.networks.set_progress_bar_config(disable=True)
        return run


class Svdkit(Side):
    """svdkit on one of its backends."""

    def _pipeline(self) -> Any:
        task = self.task
        options = {"backend": task.backend, "device": task.device, "dtype": task.dtype, "compile": task.compile}
        once = task.parts == ("generate",)  # a process that makes a single video, as `svdkit.generate` does
        return svdkit.StableVideoDiffusionPipeline.from_pretrained(self.folder, **options, once=once)

    def _backend(self) -> Any:
        from svdkit.plugins import make

        return make("backend", self.task.backend, None, self.task.device, self.task.dtype)

    def _load(self, name: str) -> Any:
        from svdkit.checkpoint import load_component

        network = load_component(name, self.folder, self._backend())
        if self.task.compile and name != "image_encoder":
            network.compile()
        return network

    def _unet(self) -> Run:
        unet, k = self.networks.unet, self.networks.unet.backend
        x, context = (k.array(values, k.state_dtype) for values in (self.sample, self.context))
        # What depends on the conditioning alone is computed here, once, as in a generation.
        prepared = unet.prepare(context, self.ids, self.task.frames)
        return lambda: unet(x, C_NOISE, prepared)

    def _decode(self) -> Run:
        vae, k = self.networks.vae, self.networks.vae.backend
        x = k.array(self.latents[0, : self.task.decode_chunk], k.state_dtype)
        return lambda: vae.decode(x)

    def _encode(self) -> Run:
        vae, k = self.networks.vae, self.networks.vae.backend
        x = k.array(self.image, k.state_dtype)
        return lambda: vae.encode(x)

    def _embed(self) -> Run:
        encoder = self.networks.image_encoder
        x = encoder.backend.array(self.pixels)
        return lambda: encoder(x)


class Diffusers(Side):
    """diffusers as its users have it: eager, or compiled as its documentation shows."""

    def __init__(self, task: Task, marks: dict[str, float]) -> None:
        import torch

        torch.set_grad_enabled(False)  # as its pipeline does
        super().__init__(task, marks)

    def _pipeline(self) -> Any:
        import diffusers
        import torch

        pipe = diffusers.StableVideoDiffusionPipeline.from_pretrained(
            self.folder, dtype=getattr(torch, self.task.dtype)
        )
        pipe.to(self.task.device)
        pipe.unet, pipe.vae = self._compiled(pipe.unet), self._compiled(pipe.vae)
        return pipe

    def _load(self, name: str) -> Any:
        import diffusers
        import torch
        import transformers

        network = {
            "unet": diffusers.UNetSpatioTemporalConditionModel,
            "vae": diffusers.AutoencoderKLTemporalDecoder,
            "image_encoder": transformers.CLIPVisionModelWithProjection,
        }[name].from_pretrained(self.folder, subfolder=name, dtype=getattr(torch, self.task.dtype))
        return self._compiled(network.to(self.task.device).eval())

    def _compiled(self, network: Any) -> Any:
        import torch

        if not self.task.compile:
            return network
        if hasattr(network, "decoder"):
            # Without graphs, which would write over the frames of one chunk as they make the next.
            network.decoder = torch.compile(network.decoder)
            return network
        return torch.compile(network, mode="reduce-overhead" if self.task.device.startswith("cuda") else None)

    def _tensor(self, values: np.ndarray) -> Any:
        import torch

        return torch.tensor(values).to(self.task.device, getattr(torch, self.task.dtype))

    def _noise(self) -> Any:
        return self._tensor(self.latents)

    def _unet(self) -> Run:
        unet, (x, context, ids) = self.networks.unet, map(self._tensor, (self.sample, self.context, self.ids))
        return lambda: unet(x, C_NOISE, encoder_hidden_states=context, added_time_ids=ids).sample

    def _decode(self) -> Run:
        vae, x = self.networks.vae, self._tensor(self.latents[0, : self.task.decode_chunk])
        return lambda: vae.decode(x, num_frames=x.shape[0]).sample

    def _encode(self) -> Run:
        vae, x = self.networks.vae, self._tensor(self.image)
        return lambda: vae.encode(x).latent_dist.mode()

    def _embed(self) -> Run:
        encoder, x = self.networks.image_encoder, self._tensor(self.pixels)
        return lambda: encoder(x).image_embeds


SIDES: dict[str, type[Side]] = {"svdkit": Svdkit, "diffusers": Diffusers}
