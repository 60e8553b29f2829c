"""Every solver through the whole pipeline: what the backends make of the same seed agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from reference import picture

import svdkit
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.sampling import get_scheduler
from svdkit.testing.inputs import relative_error

SOLVERS = [info.name for info in svdkit.list_schedulers()]


@pytest.fixture(scope="module")
def pipelines(checkpoint: Callable[[str], Path]) -> Mapping[str, StableVideoDiffusionPipeline]:
    backends = [info.name for info in svdkit.list_backends() if info.available]
    loaded = {
        name: StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), backend=name) for name in backends
    }
    for pipe in loaded.values():
        pipe.set_progress_bar_config(disable=True)
    return loaded


def test_there_is_more_than_one_backend(pipelines: Mapping[str, StableVideoDiffusionPipeline]) -> None:
    assert {"numpy", "mindspore"} <= set(pipelines)
    assert len(SOLVERS) >= 20


@pytest.mark.parametrize("name", SOLVERS)
def test_the_backends_agree(pipelines: Mapping[str, StableVideoDiffusionPipeline], name: str) -> None:
    made = {}
    for backend, pipe in pipelines.items():
        pipe.scheduler = get_scheduler(name)
        made[backend] = pipe(
            picture(),
            height=64,
            width=64,
            num_frames=2,
            num_inference_steps=4,
            max_guidance_scale=1,  # half the work; guidance is the same for all
            generator=11,
            output_type="latent",
            return_dict=True,
        )
    numpy = made.pop("numpy")
    for backend, other in made.items():
        assert (other.sigmas, other.nfe, other.seeds) == (numpy.sigmas, numpy.nfe, numpy.seeds)
        found = pipelines[backend].backend.numpy(other.frames)
        assert relative_error(found, numpy.frames) < 1e-4
