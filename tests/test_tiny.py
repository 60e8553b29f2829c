"""The model that ships: it is what diffusers makes of it, it keeps its picture, and it moves what is in it."""

from __future__ import annotations

import warnings

import diffusers
import pytest
import torch
from attrs import evolve
from parity import TOLERANCES, compare
from reference import Configuration, picture
from safetensors.numpy import load_file

from svdkit import StableVideoDiffusionPipeline, generate
from svdkit.hub import resolve_model, shipped_models
from training.evaluate import HELD_OUT, Evaluation, Example, displacement
from training.world import Clip, clip

SEED = HELD_OUT + 2000
"""Of clips that neither training nor the evaluation have seen."""


@pytest.fixture(scope="module")
def pipe() -> StableVideoDiffusionPipeline:
    pipe = StableVideoDiffusionPipeline.from_pretrained("tiny", backend="torch")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_ships_in_25_megabytes_of_float16() -> None:
    assert "tiny" in shipped_models()
    files = list(resolve_model("tiny").rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert {str(tensor.dtype) for path in files for tensor in load_file(path).values()} == {"float16"}


@pytest.mark.parametrize("backend", ["mindspore", "torch"])
def test_equals_diffusers(backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = diffusers.StableVideoDiffusionPipeline.from_pretrained(
            resolve_model("tiny"), torch_dtype=torch.float32
        )
    theirs.set_progress_bar_config(disable=True)
    ours = StableVideoDiffusionPipeline.from_pretrained("tiny", backend=backend, device="cpu", dtype="float32")
    ours.set_progress_bar_config(disable=True)
    errors = compare(Configuration(height=64, width=96, frames=3), theirs, ours)
    print({key: f"{error:.1e}" for key, error in errors.items()})
    assert {key: e for key, e in errors.items() if not e <= TOLERANCES[key]} == {}


def test_a_video_has_the_model_s_own_size() -> None:
    result = generate(picture(), model="tiny", backend="torch", num_inference_steps=1, progress=False)
    assert [frame.size for frame in result.frames[0]] == [(96, 96)] * 8


def animate(pipe: StableVideoDiffusionPipeline, original: Clip) -> Example:
    """The model's video of a clip's first frame, in 8 steps without guidance."""
    evaluation = Evaluation(pipe, pipe.size[0], num_inference_steps=8, max_guidance_scale=1)
    return evaluation.animate(original, seed=0)


@pytest.fixture(scope="module")
def boats(pipe: StableVideoDiffusionPipeline) -> list[Example]:
    """One that sails one way, and the same picture mirrored."""
    original = clip(SEED, scene="boat", fps=7, motion_bucket_id=127)
    return [animate(pipe, original), animate(pipe, evolve(original, frames=original.frames[:, :, ::-1].copy()))]


def test_the_first_frame_is_the_picture(boats: list[Example]) -> None:
    for example in boats:
        made, _ = example.decibels()
        assert made[0] > 24


def test_the_light_changes_as_the_hour_asks(boats: list[Example]) -> None:
    """Against the true future, which a picture that stays as it is misses."""
    for example in boats:
        made, repeated = example.decibels()
        assert (made - repeated)[1:].mean() > 3


def test_a_higher_bucket_is_more_motion(pipe: StableVideoDiffusionPipeline) -> None:
    originals = [clip(SEED, scene="rocket", fps=7, motion_bucket_id=bucket) for bucket in (48, 192)]
    slow, fast = (displacement(animate(pipe, original).made) for original in originals)
    assert slow > 0.5
    assert fast > 2 * slow
