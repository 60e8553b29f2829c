"""Computing cells: a model that stays in memory, and what has been encoded of the image at hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from attrs import Factory, define, frozen
from PIL import Image

from ..arguments import parse_components
from ..backend import Array, Backend, Host
from ..guidance import guidance_scales
from ..memory.malloc import undisturbed
from ..memory.on_demand import release
from ..memory.planning import Job
from ..pipeline import StableVideoDiffusionPipeline
from ..preprocess import Picture, load_images, vae_pixels
from ..stages import Conditioning, Stages, embed
from .cells import Cell, Grid
from .grid import guidance_ends
from .measures import latent_error, measure, perceptual
from .schedulers import make_scheduler
from .store import Result


@frozen(eq=False)
class Task:
    """A cell, and the reference that it is measured against; None for a reference."""

    cell: Cell
    reference: Result | None = None


@define
class Worker:
    """Computes the cells of a grid, one after another. The model is loaded for the first."""

    grid: Grid
    _pipe: StableVideoDiffusionPipeline | None = None
    _encoded: dict[str, tuple[Conditioning, float]] = Factory(dict)
    _seen: dict[str, Host] = Factory(dict)

    @property
    def pipe(self) -> StableVideoDiffusionPipeline:
        """The model, in memory."""
        if self._pipe is None:
            study = self.grid.study
            names = ("backend", "device", "dtype", "variant", "memory")
            options: dict[str, Any] = {name: getattr(study, name) for name in names}
            options["components"] = parse_components(study.components)
            self._pipe = StableVideoDiffusionPipeline.from_pretrained(study.model, scheduler="euler", **options)
            self._pipe.set_progress_bar_config(disable=True)
        return self._pipe

    def attempt(self, task: Task) -> Result | str:
        """The result, or in a sentence why there is none; a model that cannot be loaded is an error all the same."""
        pipe = self.pipe
        try:
            with pipe.backend.exclusive():
                return self._reference(pipe, task.cell) if task.reference is None else self._cell(pipe, task)
        except Exception as error:  # whatever a scheduler raises ends its cell and no other
            return f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _reference(self, pipe: StableVideoDiffusionPipeline, cell: Cell) -> Result:
        stages = self._stages(pipe, cell)
        x, evaluations = self._denoised(stages, cell, cell.sigmas)
        half, _ = self._denoised(stages, cell, cell.half)
        latents = pipe.backend.numpy(x)[0].astype(np.float32)
        convergence = latent_error(pipe.backend.numpy(half)[0], latents)
        return Result({"evaluations": evaluations, "convergence": convergence}, latents, self._frames(stages, x))

    def _cell(self, pipe: StableVideoDiffusionPipeline, task: Task) -> Result:
        cell, reference, study = task.cell, task.reference, self.grid.study
        assert reference is not None
        stages = self._stages(pipe, cell)
        with peak_memory(pipe.backend) as peak:
            x, evaluations = self._denoised(stages, cell, cell.sigmas)
            frames = self._frames(stages, x)
        latents = pipe.backend.numpy(x)[0].astype(np.float32)
        image = to_8_bits(self.grid.pictures[cell.image], *self.grid.size)
        costs = {
            "seconds_encode": self._encoded[cell.image][1],
            **{f"seconds_{stage}": stages.timings[stage] for stage in ("denoise", "decode")},
            "peak_memory": max(peak),
        }
        measures = measure(frames, latents, reference.frames, reference.latents, image)
        if study.perceptual:
            if cell.reference not in self._seen:
                self._seen = {cell.reference: self._embeddings(stages, reference.frames)}
            measures["perceptual"] = perceptual(self._embeddings(stages, frames), self._seen[cell.reference])
        return Result({"evaluations": evaluations, **measures, **costs}, latents, frames)

    def _stages(self, pipe: StableVideoDiffusionPipeline, cell: Cell) -> Stages:
        study = self.grid.study
        guided = bool((guidance_scales(*guidance_ends(cell.guidance), self.grid.frames) != 1).any())
        scale_factor = pipe.vae.config.scale_factor
        job = Job(*self.grid.size, self.grid.frames, 1, guided, scale_factor=scale_factor)
        # Asked for, so that what memory there happens to be does not choose another, by which frames would differ.
        return Stages(pipe, job, pipe.residency.fit(pipe, job, study.decode_chunk_size or self.grid.frames))

    def _denoised(self, stages: Stages, cell: Cell, sigmas: tuple[float, ...]) -> tuple[Array, int]:
        study, seeds = self.grid.study, [cell.seed]
        result = stages.denoise(
            self._conditioning(stages, cell),
            stages.noise(seeds),
            sigmas=sigmas,
            scheduler=make_scheduler(cell.scheduler, self.grid.scheduler_config),
            seeds=seeds,
            scales=guidance_scales(*guidance_ends(cell.guidance), self.grid.frames),
            fps=study.fps,
            motion_bucket_id=study.motion_bucket_id,
        )
        return result.x, result.nfe

    def _frames(self, stages: Stages, x: Array) -> Host:
        """The video (F, H, W, 3) in 8 bits, as a generation returns it."""
        videos, _ = stages.decode(x, "pil", asked=True)
        return np.stack([np.asarray(frame) for frame in videos[0]])

    def _embeddings(self, stages: Stages, frames: Host) -> Host:
        """What the model's image encoder makes of each frame, (F, channels)."""
        pipe = stages.pipe
        pictures = load_images([Image.fromarray(frame) for frame in frames])
        embeddings = embed(pipe.image_encoder, pipe.feature_extractor, pictures, 1, lambda count: None)
        if stages.settings.on_demand:
            release(pipe.image_encoder)
        return embeddings

    def _conditioning(self, stages: Stages, cell: Cell) -> Conditioning:
        """That of the cell, which is encoded with those of all seeds of its image, once."""
        study = self.grid.study
        if cell.image not in self._encoded:
            encoding = Stages(stages.pipe, stages.job, stages.settings)
            picture = self.grid.pictures[cell.image]
            conditioning = encoding.condition([picture], study.seeds, study.noise_aug_strength)
            self._encoded = {cell.image: (conditioning, encoding.timings["encode"] / len(study.seeds))}
        i = study.seeds.index(cell.seed)
        return self._encoded[cell.image][0][i : i + 1]


def to_8_bits(picture: Picture, height: int, width: int) -> Host:
    """An input image at the size of the video, (H, W, 3) in 8 bits."""
    return np.asarray((vae_pixels(picture, height, width).transpose(1, 2, 0) / 2 + 0.5) * 255).round().astype(np.uint8)


@contextmanager
def peak_memory(backend: Backend, seconds: float = 0.05) -> Iterator[list[int]]:
    """What the process holds on its device, in bytes, noted every so many seconds while the context is open."""
    held, ended = [backend.memory().used], threading.Event()

    def look() -> None:
        with undisturbed():
            while not ended.wait(seconds):
                held.append(backend.memory().used)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()
        held.append(backend.memory().used)
