"""From a picture to a video: the call that users make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .arguments import OUTPUT_TYPES, check_call, check_latents, check_replaced
from .backend import Array, Backend
from .checkpoint import (
    FeatureExtractor,
    check_pipeline,
    load_feature_extractor,
    load_scheduler_config,
    save_checkpoint,
)
from .config import video_size
from .denoiser import ConditionedDenoiser
from .errors import InputError
from .guidance import guidance_scales
from .hub import resolve_model
from .interfaces import VAE, ImageEncoder, Scheduler, UNet
from .memory.on_demand import Loader, compile_all
from .memory.planning import Job, Planner, Settings, check_mode
from .memory.policy import MemoryPolicy
from .memory.residency import Residency
from .noise import Generator, seeds_of
from .output import StableVideoDiffusionPipelineOutput
from .plugins import make_backend
from .precondition import scalings
from .preprocess import ImageInput, check_size, load_images
from .sampling import get_scheduler, levels_of
from .scheduler_config import SVD
from .stages import Stages, noise_levels

P = ParamSpec("P")
T = TypeVar("T")
Callback = Callable[["StableVideoDiffusionPipeline", int, float, dict[str, Any]], Mapping[str, Any] | None]


def _exclusively(call: Callable[P, T]) -> Callable[P, T]:
    """A pipeline's method, of which a backend may want one at a time."""

    @wraps(call)
    def one(*args: P.args, **kwargs: P.kwargs) -> T:
        pipe: Any = args[0]
        with pipe.backend.exclusive():
            return call(*args, **kwargs)

    return one


class StableVideoDiffusionPipeline:
    """Stable Video Diffusion, image to video, on one backend.

    Args:
        vae: pixels to latents and back.
        image_encoder: the image to the embedding of cross-attention.
        unet: the denoising network.
        scheduler: a name, or an object that satisfies `svdkit.interfaces.Scheduler`.
        feature_extractor: how the image encoder's pixels are normalised.
        sigma_schedule: noise levels for a number of steps, where the call does not give them.

    Built from components, a pipeline keeps all of them in memory; only what is decoded is cut if memory runs out.
    """

    def __init__(
        self,
        vae: VAE,
        image_encoder: ImageEncoder,
        unet: UNet,
        scheduler: str | Scheduler = "euler",
        feature_extractor: FeatureExtractor | None = None,
        *,
        sigma_schedule: Callable[[int], Sequence[float]] | None = None,
    ) -> None:
        self.vae = vae
        self.image_encoder = image_encoder
        self.unet = unet
        self.scheduler = scheduler
        self.feature_extractor = feature_extractor or FeatureExtractor()
        self.sigma_schedule = sigma_schedule or SVD
        self._origin: tuple[Path, dict[str, Any]] | None = None
        self.residency = Residency()
        self.progress_bar: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        backend: str = "mindspore",
        device: str | None = None,
        dtype: str | None = None,
        scheduler: str | Scheduler | None = None,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        components: Mapping[str, str] | None = None,
        compile: bool = False,
        memory: str = "auto",
        once: bool = False,
    ) -> StableVideoDiffusionPipeline:
        """A checkpoint on a backend.

        Args:
            model: a hub id, a folder, or the name of a model that ships with svdkit.
            backend: a registered name; see `svdkit.list_backends`.
            device: the backend's default if None.
            dtype: of weights and activations; the backend's default if None.
            scheduler: the checkpoint's own if None.
            variant: which weights, for instance `"fp16"`.
            revision, cache_dir, local_files_only, token: of a hub id, as `huggingface_hub` has them.
            components: replacements that plugins offer, by component: `{"unet": "name"}`; `"default"` for
                svdkit's own.
            compile: run the UNet's step and the VAE's decoder through the backend's compiler.
            memory: `"max"` to load all networks and cut nothing; `"low"` to have one network in memory at a time, run
                feed-forward layers on one frame at a time and decode one frame at a time; `"auto"` for the least
                drastic of these measures that make a generation fit.
            once: whether it is for a single call. With `memory="auto"` each network is then loaded when its stage
                begins and released after it, which takes no longer but for reading the VAE twice.

        Raises:
            InputError: a name, device or dtype is unknown, or options do not go together.
            MissingDependencyError: the backend's framework is not installed.
            CheckpointError: the checkpoint is missing, incomplete, corrupt or another pipeline's.
        """
        check_mode(memory, compile)  # before anything is made
        kernels = make_backend(backend, device, dtype)
        base = kernels.memory().used
        if components is not None and not isinstance(components, Mapping):
            raise InputError(f"components is {components!r}, expected names by part, such as {{'unet': 'name'}}.")
        chosen = dict(components or {})
        if unknown := set(chosen) - {"unet", "vae", "image_encoder"}:
            raise InputError(f"There is no component {sorted(unknown)[0]!r}; there are unet, vae and image_encoder.")
        solver = None if scheduler is None else get_scheduler(scheduler)
        folder = resolve_model(
            model,
            variant=variant,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        check_pipeline(folder)
        settings, extractor = load_scheduler_config(folder), load_feature_extractor(folder)
        solver = solver or get_scheduler(settings.scheduler)  # an error before the weights are read
        policy = MemoryPolicy(memory, Planner(folder, kernels, variant), base, compile, once)
        loader = Loader(folder, kernels, variant, chosen)
        with kernels.exclusive():
            networks = loader.networks(policy.on_demand)
        if compile:
            compile_all((name, networks[name]) for name in ("unet", "vae"))
        pipe = cls(
            scheduler=solver,
            feature_extractor=extractor,
            sigma_schedule=settings,
            **networks,
        )
        pipe.residency = Residency(policy, loader, networks)
        pipe._origin = (
            folder,
            {"backend": backend, "variant": variant, "components": chosen, "compile": compile, "memory": memory},
        )
        return pipe

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: str | None = None) -> None:
        """Write the checkpoint again, in a form that diffusers reads.

        Args:
            folder: made if there is none.
            dtype: to store floats in; as they are if None.

        Raises:
            InputError: the pipeline was not loaded from a checkpoint, or one of its networks was replaced, or there is
                no such dtype.
            OutputError: the folder cannot be written to.
        """
        source, options = self._loaded("be saved")
        save_checkpoint(source, Path(folder), variant=options["variant"], dtype=dtype)

    def to(self, device: str) -> StableVideoDiffusionPipeline:
        """The pipeline on another device: itself if it is there, else its checkpoint loaded again.

        Weights are transformed for a device as they are loaded, so they cannot just be copied.

        Raises:
            InputError: the pipeline was not loaded from a checkpoint, or one of its networks was replaced, or there is
                no such device.
        """
        if str(device) == self.backend.device:
            return self
        source, options = self._loaded("be moved")
        moved = self.from_pretrained(
            source, device=device, dtype=self.backend.dtype, scheduler=self.scheduler, **options
        )
        moved.feature_extractor, moved.sigma_schedule = self.feature_extractor, self.sigma_schedule
        moved.set_progress_bar_config(**self.progress_bar)
        return moved

    def _loaded(self, what: str) -> tuple[Path, dict[str, Any]]:
        if self._origin is None:
            raise InputError(f"This pipeline was built from components and cannot {what}; use from_pretrained.")
        if not self.residency.owns(self):
            raise InputError(
                f"A network of this pipeline was replaced, so it cannot {what}: its checkpoint has another one. Load "
                "the checkpoint again, and replace it there."
            )
        return self._origin

    @property
    def components(self) -> dict[str, Any]:
        """The parts that `__init__` takes."""
        return {
            "vae": self.vae,
            "image_encoder": self.image_encoder,
            "unet": self.unet,
            "scheduler": self.scheduler,
            "feature_extractor": self.feature_extractor,
        }

    @property
    def scheduler(self) -> Scheduler:
        """The solver; a name, with options if it has any, may be assigned too."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: str | Scheduler) -> None:
        self._scheduler = get_scheduler(scheduler)

    @property
    def backend(self) -> Backend:
        """The UNet's backend, which also holds the sampling state."""
        return self.unet.backend

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the videos that the checkpoint is for."""
        return video_size(self.unet.config, self.vae.config)

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of the `tqdm` progress bars, for instance `disable=True`."""
        self.progress_bar = options

    @_exclusively
    def __call__(
        self,
        image: ImageInput,
        height: int = 576,
        width: int = 1024,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        sigmas: Sequence[float] | str | os.PathLike[str] | None = None,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        fps: float = 7,
        motion_bucket_id: float = 127,
        noise_aug_strength: float = 0.02,
        decode_chunk_size: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generator | Sequence[Generator] | None = None,
        latents: Array | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = False,
        *,
        to_zero: bool = True,
    ) -> Any:
        """Make videos that begin with a picture.

        Args:
            image: a PIL image, a path, an array `(B, 3, H, W)` in [0, 1], or a list of pictures or paths.
            height, width: of the video in pixels, divisible by 8.
            num_frames: the checkpoint's own number if None.
            num_inference_steps: denoising steps, where `sigmas` does not say.
            sigmas: noise levels, descending, used as they are (a final 0 is added if it is not there); or the name
                of a sigma schedule, or of a file; the scheduler's own schedule, or the checkpoint's, if None.
            min_guidance_scale, max_guidance_scale: guidance of the first and the last frame, linear between.
            fps: frames a second; the UNet is told `fps - 1`, as it was trained.
            motion_bucket_id: amount of motion, 0 to 255 in training.
            noise_aug_strength: noise added to the conditioning picture, whose pixels are in [-1, 1].
            decode_chunk_size: frames decoded at a time, which changes them slightly, since the decoder looks along
                time; if None, all of a video's, or as many as `memory` allows.
            num_videos_per_prompt: videos of each picture.
            generator: an int seed s, of which the i-th video takes s + i; a `numpy.random.Generator`; or a list of
                them, one a video.
            latents: unit normal noise to begin with, `(B, F, 4, H / 8, W / 8)` for Stable Video Diffusion.
            output_type: `pil`, `np`, `tensor` or `latent`.
            callback_on_step_end: `f(pipe, step, timestep, tensors)`, called after each step with the timestep
                log(sigma) / 4 that the step began at; a dictionary that it returns replaces tensors of those names.
            callback_on_step_end_tensor_inputs: which tensors it is handed: of `latents`, `image_latents`,
                `image_embeddings`, `added_time_ids`, `guidance_scale`. All but the first hold the unconditional
                half before the conditional one where there is guidance.
            return_dict: return the frames with all that was used to make them.
            to_zero: whether to end at 0 when `sigmas` does not; False ends at its last level.

        Returns:
            the frames, or a `StableVideoDiffusionPipelineOutput` if `return_dict`.

        Raises:
            InputError: an argument cannot be used; nothing has been computed.
            NumericalError: a NaN or an infinity appeared, and where.
            OutOfMemoryError: the device's memory ran out, in which stage, and what to change.
        """
        check_call(
            num_frames=num_frames,
            num_videos_per_prompt=num_videos_per_prompt,
            decode_chunk_size=decode_chunk_size,
            min_guidance_scale=min_guidance_scale,
            max_guidance_scale=max_guidance_scale,
            fps=fps,
            motion_bucket_id=motion_bucket_id,
            noise_aug_strength=noise_aug_strength,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        frames = num_frames if num_frames is not None else self.unet.config.num_frames
        check_size(height, width, self.vae.config.scale_factor)
        scales = guidance_scales(min_guidance_scale, max_guidance_scale, frames)
        given = noise_levels(self.sigma_schedule, self.scheduler, sigmas, num_inference_steps, to_zero)
        levels = levels_of(self.scheduler, given, to_zero=False)
        pictures = load_images(image)
        videos = len(pictures) * num_videos_per_prompt
        seeds = seeds_of(generator, videos)
        kind, guided = OUTPUT_TYPES[output_type], bool((scales != 1).any())
        job = Job(height, width, frames, videos, guided, 1 if kind == "pil" else 4, self.vae.config.scale_factor)
        k, stages = self.backend, Stages(self, job, Settings())
        if latents is None:
            x = stages.noise(seeds)
        else:
            x = k.array(check_latents(latents, (videos, *stages.shape)), k.state_dtype)
        stages.settings = self.residency.fit(self, job, decode_chunk_size)

        def step_ended(step: int, x: Array, denoiser: ConditionedDenoiser) -> Array:
            assert callback_on_step_end is not None
            tensors = {"latents": x, **denoiser.conditions()}
            given = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
            replaced = callback_on_step_end(self, step, scalings(levels[step]).c_noise, dict(given))
            tensors = check_replaced(replaced, given, x, k)
            x = tensors.pop("latents")
            denoiser.replace(tensors)
            return x

        result = stages.denoise(
            stages.condition(pictures, seeds, noise_aug_strength),
            x,
            sigmas=given,
            scheduler=self.scheduler,
            seeds=seeds,
            scales=scales,
            fps=fps,
            motion_bucket_id=motion_bucket_id,
            step_ended=None if callback_on_step_end is None else step_ended,
        )
        output: Any = result.x
        chunk = None
        if kind != "latent":
            output, chunk = stages.decode(result.x, kind, asked=decode_chunk_size is not None)
        if not return_dict:
            return output
        return StableVideoDiffusionPipelineOutput(
            frames=output,
            fps=fps,
            sigmas=levels,
            seeds=tuple(seeds),
            backend=k.name,
            device=k.device,
            dtype=k.dtype,
            scheduler=repr(self.scheduler),
            nfe=result.nfe,
            timings=stages.timings,
            output_type=kind,
            decode_chunk_size=chunk,
            memory="low" if stages.settings.on_demand else "max",
        )

    @property
    def memory(self) -> str:
        """`"auto"`, `"low"` or `"max"`."""
        return self.residency.policy.mode
