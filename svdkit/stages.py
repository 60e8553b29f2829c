"""The stages of a generation: pictures to conditioning, noise to latents, latents to frames."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import Factory, define, frozen

from .backend import Array, Backend, Host
from .checkpoint import FeatureExtractor
from .denoiser import ConditionedDenoiser
from .errors import NumericalError, OutOfMemoryError
from .interfaces import VAE, ImageEncoder, PrefersSchedule, Scheduler
from .memory.on_demand import release
from .memory.planning import Job, Settings, advise
from .noise import Purpose, normal
from .preprocess import Picture, clip_pixels, vae_pixels
from .sampling import Sample, levels_of, sample
from .schedules import read_sigmas
from .sigmas import check_steps, validate_sigmas

if TYPE_CHECKING:
    from .pipeline import StableVideoDiffusionPipeline

Advance = Callable[[int], object]
StepEnded = Callable[[int, Array, ConditionedDenoiser], Array]
"""`f(step, x, denoiser) -> x`."""


@frozen(eq=False)
class Conditioning:
    """What the networks are told of the pictures, on the host."""

    embeddings: Host
    """(videos, channels)."""
    latents: Host
    """(videos, channels, h, w)."""
    noise_aug_strength: float

    def __getitem__(self, videos: slice) -> Conditioning:
        """That of some of the videos."""
        return Conditioning(self.embeddings[videos], self.latents[videos], self.noise_aug_strength)


@define
class Stages:
    """One generation on a pipeline's networks, in stages that can be called apart.

    Args:
        pipe: has the networks.
        job: what is generated.
        settings: what is done to need less memory; see `Residency.fit`.
        timings: seconds by stage are noted here.
    """

    pipe: StableVideoDiffusionPipeline
    job: Job
    settings: Settings
    timings: dict[str, float] = Factory(dict)

    def condition(self, pictures: Sequence[Picture], seeds: Sequence[int], strength: float) -> Conditioning:
        """What the networks are told: of each picture as many videos as there are seeds for it.

        Args:
            pictures: as `svdkit.preprocess.load_images` returns them.
            seeds: one a video, those of one picture one after another.
            strength: of the noise that is added to the pictures, which are in [-1, 1].
        """
        pipe, job = self.pipe, self.job
        with self._stage("encode", 2 * len(seeds)) as advance:
            copies = len(seeds) // len(pictures)
            embeddings = embed(pipe.image_encoder, pipe.feature_extractor, pictures, copies, advance)
            if self.settings.on_demand:
                release(pipe.image_encoder)
            latents = encode(pipe.vae, pictures, job.height, job.width, seeds, strength, advance)
        return Conditioning(embeddings, latents, strength)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one video's latents: (F, C, h, w)."""
        job = self.job
        side = job.height // job.scale_factor, job.width // job.scale_factor
        return (job.num_frames, self.pipe.unet.config.in_channels // 2, *side)

    def noise(self, seeds: Sequence[int], purpose: Purpose = Purpose.LATENTS, *which: int) -> Array:
        """Unit normal noise `(videos, F, C, h, w)` of the seeds, which are one a video."""
        k = self.pipe.backend
        return k.array(np.stack([normal(seed, purpose, self.shape, *which) for seed in seeds]), k.state_dtype)

    def denoise(
        self,
        conditioning: Conditioning,
        x: Array,
        *,
        sigmas: Sequence[float],
        scheduler: Scheduler,
        seeds: Sequence[int],
        scales: Host,
        fps: float,
        motion_bucket_id: float,
        step_ended: StepEnded | None = None,
    ) -> Sample:
        """Latents of the videos.

        Args:
            conditioning: of all videos.
            x: unit normal noise `(videos, F, C, h, w)`.
            sigmas: the noise levels that the scheduler is given, with the one that it ends at; see `levels_of`.
            scheduler: the solver.
            seeds: of the noise that stochastic solvers add, one a video.
            scales: guidance of each frame.
            fps, motion_bucket_id: what the network is told.
            step_ended: called after each step; what it returns replaces x.

        Raises:
            NumericalError: a NaN or an infinity appeared.
            OutOfMemoryError: the device's memory ran out.
        """
        k, guided = self.pipe.backend, self.job.guided
        levels = levels_of(scheduler, sigmas, to_zero=False)

        def batch(conditional: Host) -> Host:
            return np.concatenate([0 * conditional, conditional]) if guided else conditional

        latents = np.repeat(batch(conditioning.latents[:, None]), self.job.num_frames, axis=1)
        told = [fps - 1, motion_bucket_id, conditioning.noise_aug_strength]
        denoiser = ConditionedDenoiser(
            unet=self.pipe.unet,
            frames=self.job.num_frames,
            guided=guided,
            image_embeddings=k.array(batch(conditioning.embeddings[:, None]), k.state_dtype),
            image_latents=k.array(latents, k.state_dtype),
            added_time_ids=np.tile(told, ((1 + guided) * len(seeds), 1)),
            guidance_scale=k.array(scales.reshape(1, -1, 1, 1, 1), k.state_dtype),
        )

        def ended(step: int, sigma: float, x: Array) -> Array:
            if not k.all_finite(x):
                raise NumericalError(
                    f"NaN or infinity appeared in step {step + 1} of {len(levels) - 1}, from sigma {levels[step]:g} "
                    f"to {sigma:g}, in {k.dtype}.{_wider(k.dtype)} Other sigmas may help."
                )
            if step_ended is not None:
                x = step_ended(step, x, denoiser)
            advance(1)
            return x

        with self._stage("denoise", len(levels) - 1) as advance:
            return sample(
                denoiser,
                x * (levels[0] ** 2 + 1) ** 0.5,
                sigmas=sigmas,
                to_zero=False,  # they end where they are to end
                scheduler=scheduler,
                callback=ended,
                noise=lambda step, draw: self.noise(seeds, Purpose.STEP, step, draw),
            )

    def decode(self, latents: Array, kind: str, asked: bool = False) -> tuple[Any, int]:
        """Frames of the videos, and how many of them were decoded at a time.

        Args:
            latents: `(videos, F, C, h, w)`.
            kind: the form of the frames: `"pil"`, `"np"` or `"tensor"`.
            asked: whether the settings' number of frames is kept even if memory runs out.
        """
        pipe = self.pipe
        with self._stage("decode", latents.shape[0] * latents.shape[1]) as advance:
            videos, chunk = pipe.residency.policy.decode(
                lambda chunk: decode(pipe.vae, latents, chunk, kind, advance),
                *(self.settings.decode_chunk, asked, pipe.vae.backend),
            )
            return frames_of(videos, kind, pipe.backend), chunk

    @contextmanager
    def _stage(self, name: str, total: int) -> Iterator[Advance]:
        """One stage: its progress and its seconds, what to do if memory runs out, and what is released after it."""
        pipe = self.pipe

        def advice() -> str:
            return advise(name, pipe.backend.dtype, self.settings)

        try:
            with (
                explained_memory(name, pipe.backend, advice),
                stage(name, total, self.timings, pipe.progress_bar) as advance,
            ):
                yield advance
        finally:
            if self.settings.on_demand:
                release(pipe.image_encoder, pipe.vae, pipe.unet)


def noise_levels(
    model: Callable[[int], Sequence[float]],
    scheduler: Scheduler,
    sigmas: Sequence[float] | str | os.PathLike[str] | None,
    steps: int,
    to_zero: bool = True,
) -> tuple[float, ...]:
    """The noise levels that a scheduler is given; see `levels_of` for those that it steps between.

    Args:
        model: the levels that the model has for a number of steps.
        scheduler: may have a schedule that it prefers.
        sigmas: numbers, or what `read_sigmas` reads; the scheduler's own schedule, or the model's, if None.
        steps: how many, where `sigmas` does not say.
        to_zero: whether to add a final 0 where there is none.

    Raises:
        InputError: they do not descend, or there is no such schedule.
    """
    chosen = getattr(model, "svdkit_sigmas", None)  # by the checkpoint, for whatever scheduler
    if sigmas is None and chosen is None and isinstance(scheduler, PrefersSchedule):
        sigmas = scheduler.sigma_schedule
    if sigmas is None:
        sigmas = model(check_steps(steps))
        to_zero = to_zero and getattr(model, "to_zero", True)
    elif isinstance(sigmas, (str, os.PathLike)):
        sigmas = read_sigmas(os.fspath(sigmas), steps, to_zero=to_zero)
    return validate_sigmas(sigmas, to_zero=to_zero)


@contextmanager
def stage(name: str, total: int, timings: dict[str, float], progress: Mapping[str, Any]) -> Iterator[Advance]:
    """Shows the progress of one stage, with options of `tqdm`, and notes its seconds."""
    from tqdm.auto import tqdm

    start = time.perf_counter()
    with tqdm(total=total, desc=name, **progress) as bar:
        yield bar.update
    timings[name] = time.perf_counter() - start


@contextmanager
def explained_memory(name: str, backend: Backend, advice: Callable[[], str]) -> Iterator[None]:
    """Raises `OutOfMemoryError` in place of what the backend raises when memory runs out; `advice` is a sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not backend.is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise OutOfMemoryError(
            f"The memory of {backend.name} on {backend.device} ran out in the stage {name!r}"
            f"{f' ({said})' if said else ''}. {advice()}"
        ) from error


def embed(
    encoder: ImageEncoder, extractor: FeatureExtractor, pictures: Sequence[Picture], copies: int, advance: Advance
) -> Host:
    """Embeddings `(pictures * copies, channels)`, those of one picture one after another."""
    k, embeddings = encoder.backend, []
    for picture in pictures:
        pixels = clip_pixels(picture, encoder.config.image_size, extractor.image_mean, extractor.image_std)
        embeddings += [k.numpy(encoder(k.array(pixels[None])))] * copies
        advance(copies)
    return np.concatenate(embeddings)


def encode(
    vae: VAE, pictures: Sequence[Picture], height: int, width: int, seeds: Sequence[int], strength: float, a: Advance
) -> Host:
    """Latents `(videos, channels, h, w)` of the pictures, each with noise from its video's seed."""
    k, latents = vae.backend, []
    copies = len(seeds) // len(pictures)
    for i, picture in enumerate(pictures):
        clean = vae_pixels(picture, height, width)
        for seed in seeds[i * copies : (i + 1) * copies]:
            noise = strength * normal(seed, Purpose.AUGMENTATION, clean.shape)
            latents.append(k.numpy(vae.encode(k.array((clean + noise)[None]))))
            a(1)
    return np.concatenate(latents)


def decode(vae: VAE, latents: Array, chunk: int, kind: str, advance: Advance) -> Host:
    """Frames `(videos, F, H, W, 3)` of latents, in chunks that never straddle two videos.

    Args:
        vae: the decoder.
        latents: `(videos, F, C, h, w)`.
        chunk: frames decoded at a time.
        kind: `"pil"` for integers of 8 bits, else floats in [0, 1].
        advance: is told how many frames are done.

    Raises:
        NumericalError: a frame holds a NaN or an infinity.
    """
    videos = []
    for i in range(latents.shape[0]):
        video = latents[i] * (1 / vae.config.scaling_factor)
        pieces = []
        for start in range(0, video.shape[0], chunk):
            piece = vae.backend.numpy(vae.decode(video[start : start + chunk]))
            if not np.isfinite(piece).all():
                raise NumericalError(
                    f"NaN or infinity appeared while decoding frames {start} to {start + len(piece) - 1} of video "
                    f"{i}, in {vae.backend.dtype}.{_wider(vae.backend.dtype)}"
                )
            piece = np.clip(piece.transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)
            pieces.append((piece * 255).round().astype(np.uint8) if kind == "pil" else piece)
            advance(len(piece))
        videos.append(np.concatenate(pieces))
    return np.stack(videos)


def _wider(dtype: str) -> str:
    """What may help where a dtype of 16 bits was left."""
    return " A wider dtype, such as float32, may help." if dtype in ("float16", "bfloat16") else ""


def frames_of(videos: Host, kind: str, backend: Backend) -> Any:
    """What `decode` returned, as the output type says."""
    if kind == "pil":
        from PIL import Image

        return [[Image.fromarray(frame) for frame in video] for video in videos]
    return videos if kind == "np" else backend.array(videos.transpose(0, 1, 4, 2, 3), backend.state_dtype)
