"""The shortest way from a picture to a video."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
from attrs import evolve

from .arguments import check_call
from .errors import InputError
from .interfaces import Scheduler
from .output import StableVideoDiffusionPipelineOutput
from .pipeline import StableVideoDiffusionPipeline
from .preprocess import ImageInput, load_images
from .sigmas import validate_sigmas

DEFAULT_MODEL = "stabilityai/stable-video-diffusion-img2vid-xt"


def generate(
    image: ImageInput,
    *,
    backend: str = "mindspore",
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    scheduler: str | Scheduler | None = None,
    seed: int | None = None,
    height: int | None = None,
    width: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    components: Mapping[str, str] | None = None,
    compile: bool = False,
    memory: str = "auto",
    progress: bool = True,
    **call: Any,
) -> StableVideoDiffusionPipelineOutput:
    """Load a model, and make videos that begin with a picture.

    Unless `memory="max"`, each network is in memory only while its stage lasts, and its loading counts to that stage.
    For several calls with one model, make a `StableVideoDiffusionPipeline` once and call it.

    Args:
        image: a PIL image, a path, an array `(B, 3, H, W)` in [0, 1], or a list of pictures or paths.
        backend, model, scheduler, device, dtype, variant, revision, cache_dir, local_files_only, token, components,
            compile, memory: as `StableVideoDiffusionPipeline.from_pretrained` has them.
        seed: of the first video; the i-th takes `seed + i`. Any if None; the result tells which.
        height, width: of the video in pixels; the model's own if None.
        progress: whether to show progress bars.
        **call: the other parameters of `StableVideoDiffusionPipeline.__call__`.

    Returns:
        the frames, and everything that was used to make them.

    Raises:
        SvdkitError: see `from_pretrained` and `__call__`.
    """
    if seed is not None:
        if call.get("generator") is not None:
            raise InputError("Both seed and generator are given; pass one of them.")
        call["generator"] = seed
    call.pop("return_dict", None)
    # Loading the model may take minutes, and be for nothing.
    bound = signature(StableVideoDiffusionPipeline.__call__).bind(None, image, **call)
    bound.apply_defaults()
    check_call(**bound.arguments)
    if isinstance(call.get("sigmas"), (list, tuple, np.ndarray)):
        validate_sigmas(call["sigmas"])
    image = load_images(image)
    start = time.perf_counter()
    pipe = StableVideoDiffusionPipeline.from_pretrained(
        model,
        backend=backend,
        device=device,
        dtype=dtype,
        scheduler=scheduler,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
        components=components,
        compile=compile,
        memory=memory,
        once=True,
    )
    load = time.perf_counter() - start
    pipe.set_progress_bar_config(disable=not progress)
    height, width = (own if given is None else given for given, own in zip((height, width), pipe.size, strict=True))
    output: StableVideoDiffusionPipelineOutput = pipe(image, height=height, width=width, **call, return_dict=True)
    return evolve(output, timings={"load": load, **output.timings})
