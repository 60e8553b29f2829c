"""What a generation needs in memory, told before anything is loaded, and the settings that make it fit."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict, field, frozen

from ..arguments import check_number
from ..backend import Backend, Host
from ..checkpoint import ARCHITECTURES, component_config, stored_dtype
from ..config import video_size
from ..denoiser import ConditionedDenoiser
from ..errors import CheckpointError, InputError
from ..hub import resolve_model
from ..params import Params, expected_shapes
from ..plugins import make_backend
from ..preprocess import check_size
from . import Memory, describe
from .meter import Ledger, Meter

MODES = ("auto", "low", "max")
MARGIN = 1.15
"""How much more than planned may be needed: how far plans were off where they were compared with measurements."""


@frozen
class Settings:
    """What is done to need less memory."""

    on_demand: bool = False
    """Networks are loaded when a stage needs them, and released after it."""
    forward_chunk: int | None = None
    """Frames that feed-forward layers take at a time; all if None."""
    decode_chunk: int = 1
    """Frames decoded at a time."""


@frozen
class Job:
    """How much is generated at a time."""

    height: int
    width: int
    num_frames: int
    num_videos: int = 1
    guided: bool = True
    output_bytes: int = 1
    """Of one channel of a pixel, where frames are collected: 1 for PIL images, 4 for arrays."""
    scale_factor: int = 8
    """How many pixels of the video one of the latents is, along each side."""


@frozen
class Plan:
    """Bytes that a generation needs on its device."""

    model: str
    backend: str
    device: str
    dtype: str
    job: Job
    settings: Settings
    weights: Mapping[str, int]
    """Of each network."""
    activations: Mapping[str, int]
    """At the peak of each stage, beside the weights."""
    peaks: Mapping[str, int]
    """Weights that are loaded in each stage, and its activations."""
    base: int
    """What the process held before: the interpreter and the framework."""
    memory: Memory
    notes: tuple[str, ...] = ()
    """What had to be assumed."""

    @property
    def needed(self) -> int:
        """At the peak of all stages, with what the process held before."""
        return self.base + max(self.peaks.values())

    @property
    def capacity(self) -> int:
        """What the process can have."""
        return self.memory.available + self.memory.used

    @property
    def fits(self) -> bool:
        """Whether it can have what is needed and a margin."""
        return self.base + MARGIN * max(self.peaks.values()) <= self.capacity

    def warning(self, decode_chunk: int | None) -> str:
        """What a caller should know who did not choose the settings, nor the chunk if it is None; empty if nothing."""
        needs = f"{describe(self.needed)} are needed and {describe(self.capacity)} are available"
        if not self.fits:
            return f"This generation may run out of memory: {needs}. {advice(self)}"
        if decode_chunk is None and self.settings.decode_chunk < self.job.num_frames:
            chunk = self.settings.decode_chunk
            return (
                f"Frames are decoded {chunk} at a time, since all {self.job.num_frames} together do not fit in "
                f"{describe(self.capacity)}; they differ slightly. decode_chunk_size={chunk} says the same explicitly."
            )
        return ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"needed": self.needed, "capacity": self.capacity, "fits": self.fits}

    def __str__(self) -> str:
        job, s = self.job, self.settings
        guided = ", with guidance" if job.guided else ""
        lines = [
            f"{self.model} on {self.backend}, {self.device}, {self.dtype}: {job.num_videos} x {job.num_frames} frames, "
            f"{job.width}x{job.height}{guided}",
            "",
            *(f"{name + ' weights':24}{describe(size):>10}" for name, size in self.weights.items()),
            *(f"{name + ' activations':24}{describe(size):>10}" for name, size in self.activations.items()),
            f"{'held already':24}{describe(self.base):>10}",
            f"{'needed':24}{describe(self.needed):>10}",
            f"{'available':24}{describe(self.capacity):>10}",
            "",
            f"networks: {'one after another' if s.on_demand else 'all loaded at once'}; feed-forward layers: "
            f"{f'{s.forward_chunk} frames at a time' if s.forward_chunk else 'whole'}; "
            f"decoding: {s.decode_chunk} of {job.num_frames} frames at a time",
            "It fits." if self.fits else f"It does not fit. {advice(self)}",
            *self.notes,
        ]
        return "\n".join(lines)


def advice(plan: Plan) -> str:
    """Which setting to change first, as a sentence."""
    stage = max(plan.peaks, key=lambda name: plan.peaks[name])
    return advise(stage, plan.dtype, plan.settings)


def advise(stage: str, dtype: str, settings: Settings) -> str:
    """What needs less memory in a stage, the least drastic first."""
    ways = []
    if stage == "decode" and settings.decode_chunk > 1:
        ways.append(f"decode_chunk_size={(settings.decode_chunk + 1) // 2}")
    if not settings.on_demand or settings.forward_chunk is None:
        ways.append('memory="low"')
    if dtype in ("float32", "float64"):
        ways.append("a dtype of 16 bits where the backend has one")
    ways.append("a smaller height and width")
    if stage == "denoise":
        ways.append("fewer num_frames or videos")
    return f"Less is needed with {', then '.join(ways)}."


@frozen
class Planner:
    """Runs the networks of a checkpoint on shapes.

    Args:
        folder: the checkpoint; of it are read configurations and what its weights are stored in.
        backend: what computes.
        variant: which weights.
    """

    folder: Path
    backend: Backend
    variant: str | None = None
    _results: dict[Any, Any] = field(factory=dict, init=False, eq=False, repr=False)
    _assumed: dict[str, str] = field(factory=dict, init=False, eq=False, repr=False)
    """What had to be assumed of networks, by name."""

    def plan(self, model: str, job: Job, settings: Settings, base: int) -> Plan:
        """The plan of a generation with certain settings; `base` is what the process held before loading."""
        k = self.backend
        encoder, encoder_weights = self._peak("image_encoder", job, settings)
        coder, vae_weights = self._peak("encode", job, settings)
        unet, unet_weights = self._peak("denoise", job, settings)
        decoder, _ = self._peak("decode", job, settings)
        weights = {"image_encoder": encoder_weights, "vae": vae_weights, "unet": unet_weights}
        activations = {"encode": max(encoder, coder), "denoise": unet, "decode": decoder}
        if settings.on_demand:
            peaks = {
                "encode": max(encoder_weights + encoder, vae_weights + coder),
                "denoise": unet_weights + unet,
                "decode": vae_weights + decoder,
            }
        else:
            peaks = {stage: sum(weights.values()) + size for stage, size in activations.items()}
        notes = tuple(self._assumed.values())
        return Plan(
            *(model, k.name, k.device, k.dtype, job, settings, weights, activations, peaks, base, k.memory(), notes)
        )

    def choose(self, model: str, job: Job, decode_chunk: int | None, base: int, movable: bool, loaded: bool) -> Plan:
        """The plan with the least drastic settings that fit, or with the lowest of all if none does.

        Args:
            model: its name in the plan.
            job: what is generated.
            decode_chunk: what the caller asked for, which is kept; None to choose.
            base: what the process held before.
            movable: whether networks may be loaded one after another.
            loaded: whether they may stay loaded together.
        """
        plans = []
        for settings in ladder(job.num_frames, decode_chunk, movable, loaded):
            plans.append(self.plan(model, job, settings, base))
            if plans[-1].fits:
                return plans[-1]
        return min(reversed(plans), key=lambda plan: plan.needed)

    def _peak(self, stage: str, job: Job, settings: Settings) -> tuple[int, int]:
        """Bytes of a stage's activations and of its network's weights."""
        key = stage, job, stage == "denoise" and settings.forward_chunk, stage == "decode" and settings.decode_chunk
        if key not in self._results:
            self._results[key] = self._measure(stage, job, settings)
        result: tuple[int, int] = self._results[key]
        return result

    def _measure(self, stage: str, job: Job, settings: Settings) -> tuple[int, int]:
        name = {"encode": "vae", "decode": "vae", "denoise": "unet"}.get(stage, stage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of configurations, which loading gives
            config, backend = component_config(name, self.folder, self.backend)
        ledger = Ledger()
        try:
            stored = stored_dtype(name, self.folder, self.variant)
        except CheckpointError as error:
            stored = "float32"
            self._assumed[name] = f"Weights of the {name} are counted as if they were stored in float32. {error}"
        network = metered(name, config, Meter(backend, ledger), stored)
        run(stage, network, job, settings)
        peak = ledger.peak
        if stage == "decode":
            # Frames are collected on the host, which on a CPU is the same memory.
            peak += job.num_videos * job.num_frames * 3 * job.height * job.width * job.output_bytes
        return peak, ledger.weights


def ladder(frames: int, decode_chunk: int | None, movable: bool, loaded: bool = True) -> Iterator[Settings]:
    """Settings, the least drastic first: what changes no result comes before smaller chunks to decode.

    Args:
        frames: of a video.
        decode_chunk: what the caller asked for; None for any.
        movable: whether networks may be loaded one after another.
        loaded: whether they may stay loaded together.
    """
    places = [False] * loaded + [True] * (movable or not loaded)
    whole = min(decode_chunk or frames, frames)
    yield Settings(not loaded, None, whole)
    for on_demand in places:
        yield Settings(on_demand, 1, whole)
    for on_demand in places:
        chunk = whole
        while decode_chunk is None and chunk > 1:
            chunk = (chunk + 1) // 2
            yield Settings(on_demand, 1, chunk)


class _Shapes:
    """Weights of which only shapes and dtype are real."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        self.shapes, self.zero = shapes, np.zeros((), np.dtype(dtype))

    def keys(self) -> Any:
        return self.shapes.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self.shapes[key]

    def read(self, key: str) -> Host:
        return np.broadcast_to(self.zero, self.shapes[key])


def metered(name: str, config: Any, meter: Meter, stored: str = "float32") -> Any:
    """A network on a meter, with weights that take no memory, as if they were stored in a dtype."""
    _, architecture = ARCHITECTURES[name]
    source = _Shapes(expected_shapes(lambda p: architecture(config, p)), stored)
    return architecture(config, Params(source, meter))


def run(stage: str, network: Any, job: Job, settings: Settings) -> Any:
    """What a stage of the pipeline computes on its device at a time, on a metered network."""
    k: Meter = network.backend
    config = network.config
    latent = job.height // job.scale_factor, job.width // job.scale_factor
    if stage == "image_encoder":
        return network(k.new((1, config.num_channels, config.image_size, config.image_size), "float32"))
    if stage == "encode":
        return network.encode(k.new((1, config.in_channels, job.height, job.width), k.state_dtype))
    if stage == "decode":
        frames = min(settings.decode_chunk, job.num_frames)
        return network.decode(k.new((frames, config.latent_channels, *latent), k.state_dtype))
    if settings.forward_chunk is not None:
        network.enable_forward_chunking(settings.forward_chunk)
    batch, frames, channels = (1 + job.guided) * job.num_videos, job.num_frames, config.in_channels // 2
    denoise = ConditionedDenoiser(
        unet=network,
        frames=frames,
        guided=job.guided,
        image_embeddings=k.new((batch, 1, config.cross_attention_dim[0]), k.state_dtype),
        image_latents=k.new((batch, frames, channels, *latent), k.state_dtype),
        added_time_ids=np.ones((batch, 3)),
        guidance_scale=k.new((1, frames, 1, 1, 1), k.state_dtype),
    )
    return denoise(k.new((job.num_videos, frames, channels, *latent), k.state_dtype), 1.0)


def plan(
    model: str | os.PathLike[str],
    *,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    num_videos: int = 1,
    backend: str = "mindspore",
    device: str | None = None,
    dtype: str | None = None,
    decode_chunk_size: int | None = None,
    guided: bool = True,
    memory: str = "auto",
    compile: bool = False,
    **where: Any,
) -> Plan:
    """What `generate` needs, before anything is loaded: only configurations and headers of weight files are read.

    Args:
        model: a folder, a model that ships, or a hub id, which is downloaded if it is not yet.
        height, width: of the video in pixels; the checkpoint's own if None.
        num_frames: the checkpoint's own number if None.
        num_videos: how many are made at a time.
        backend, device, dtype: as `StableVideoDiffusionPipeline.from_pretrained` has them.
        decode_chunk_size: frames decoded at a time; as `memory` says if None.
        guided: whether guidance is used, which doubles the batch.
        memory: `"auto"`, `"low"` or `"max"`.
        compile: whether networks are compiled, and so cannot be loaded one after another.
        **where: `variant`, `revision`, `cache_dir`, `local_files_only`, `token` of a hub id.

    Raises:
        InputError: an argument cannot be used.
        CheckpointError: the checkpoint is missing.
    """
    check_mode(memory, compile)
    kernels = make_backend(backend, device, dtype)
    folder = resolve_model(model, **where)
    unet, _ = component_config("unet", folder, kernels)
    vae, _ = component_config("vae", folder, kernels)
    own = video_size(unet, vae)
    height, width = own[0] if height is None else height, own[1] if width is None else width
    check_size(height, width, vae.scale_factor)
    frames = unet.num_frames if num_frames is None else num_frames
    for name, value in (
        ("num_frames", frames),
        ("num_videos", num_videos),
        ("decode_chunk_size", 1 if decode_chunk_size is None else decode_chunk_size),
    ):
        check_number(name, value, minimum=1, whole=True)
    job = Job(height, width, frames, num_videos, guided, scale_factor=vae.scale_factor)
    planner, base = Planner(folder, kernels, where.get("variant")), kernels.memory().used
    if memory == "auto":
        return planner.choose(str(model), job, decode_chunk_size, base, movable=not compile, loaded=compile)
    return planner.plan(str(model), job, fixed(memory, job.num_frames, decode_chunk_size), base)


def fixed(memory: str, frames: int, decode_chunk: int | None) -> Settings:
    """What `"low"` and `"max"` stand for."""
    if memory == "low":
        return Settings(True, 1, decode_chunk or 1)
    return Settings(False, None, min(decode_chunk or frames, frames))


def check_mode(memory: str, compile: bool) -> None:
    """Raises `InputError` unless `memory` is a mode that goes together with `compile`."""
    if memory not in MODES:
        raise InputError(f'memory is {memory!r}, expected "auto", "low" or "max".')
    if memory == "low" and compile:
        raise InputError(
            'memory="low" releases each network after its stage, and what was compiled holds on to its weights; '
            'leave compile=False, or choose memory="auto" or "max".'
        )
