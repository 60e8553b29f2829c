"""The pipeline as an object, and `generate`, which loads one and calls it."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import picture
from small_pipeline import SMALL, SpyScheduler, run

import svdkit
import svdkit.sampling
from svdkit.checkpoint import FeatureExtractor
from svdkit.errors import ImageError, InputError
from svdkit.generation import generate
from svdkit.memory.planning import plan
from svdkit.output import StableVideoDiffusionPipelineOutput
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.plugins import registry
from svdkit_numpy.backend import NumpyBackend

SIGNATURE = {
    "image": inspect.Parameter.empty,
    "height": 576,
    "width": 1024,
    "num_frames": None,
    "num_inference_steps": 25,
    "sigmas": None,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 3.0,
    "fps": 7,
    "motion_bucket_id": 127,
    "noise_aug_strength": 0.02,
    "decode_chunk_size": None,
    "num_videos_per_prompt": 1,
    "generator": None,
    "latents": None,
    "output_type": "pil",
    "callback_on_step_end": None,
    "callback_on_step_end_tensor_inputs": ("latents",),
    "return_dict": False,
}


def test_the_signature_is_that_of_the_public_pipeline() -> None:
    parameters = dict(inspect.signature(StableVideoDiffusionPipeline.__call__).parameters)
    del parameters["self"]
    shared = {name: p.default for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert shared == SIGNATURE
    assert list(shared) == list(SIGNATURE)
    # What is svdkit's own is in nobody's way.
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name not in SIGNATURE)


def test_components_make_the_same_pipeline(loaded: StableVideoDiffusionPipeline) -> None:
    components = loaded.components
    assert list(components) == ["vae", "image_encoder", "unet", "scheduler", "feature_extractor"]
    by_hand = StableVideoDiffusionPipeline(**components)
    by_hand.set_progress_bar_config(disable=True)
    assert by_hand.components == components
    assert by_hand.backend is loaded.backend
    assert np.array_equal(run(by_hand), run(loaded))
    fewest = StableVideoDiffusionPipeline(components["vae"], components["image_encoder"], components["unet"])
    fewest.set_progress_bar_config(disable=True)
    assert np.array_equal(run(fewest), run(loaded))


def test_a_pipeline_built_by_hand_has_no_checkpoint(loaded: StableVideoDiffusionPipeline, tmp_path: Path) -> None:
    pipe = StableVideoDiffusionPipeline(**loaded.components)
    assert pipe.to("cpu") is pipe
    with pytest.raises(InputError, match="cannot be moved; use from_pretrained"):
        pipe.to("cuda")
    with pytest.raises(InputError, match="cannot be saved; use from_pretrained"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_a_network_of_the_callers_own_is_not_lost_on_the_way(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), backend="numpy")
    pipe.unet = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), backend="numpy").unet
    with pytest.raises(InputError, match="replaced, so it cannot be moved"):
        pipe.to("cuda")
    with pytest.raises(InputError, match="replaced, so it cannot be saved"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


class TwoDevices(NumpyBackend):
    """NumPy, which calls itself two devices."""

    name = "two-devices"
    devices = ("here", "there")


class Plugin:
    """What a package with a backend of its own would register."""

    @svdkit.hookimpl
    def svdkit_backends(self) -> list[svdkit.PluginSpec]:
        target = f"{__name__}:TwoDevices"
        return [svdkit.PluginSpec(name="two-devices", target=target, summary="for this test")]


@pytest.fixture
def plugin() -> Iterator[None]:
    registered, manager = Plugin(), registry().manager
    manager.register(registered, "for-this-test")
    yield
    manager.unregister(registered)


@pytest.mark.usefixtures("plugin")
def test_to_another_device(checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    options = {"backend": "two-devices", "dtype": "float64", "scheduler": SpyScheduler()}
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), **options)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.to("here") is pipe
    pipe.feature_extractor, pipe.sigma_schedule = FeatureExtractor(image_mean=(0.1, 0.2, 0.3)), lambda steps: [5.0, 1.0]
    moved = pipe.to("there")
    made, expected = run(moved, return_dict=True), run(pipe, return_dict=True)
    assert capsys.readouterr() == ("", ""), "progress stays disabled"
    assert (expected.backend, expected.device, expected.dtype) == ("two-devices", "here", "float64")
    assert (made.backend, made.device, made.dtype) == ("two-devices", "there", "float64")
    assert moved.scheduler is pipe.scheduler
    assert (moved.feature_extractor, moved.sigma_schedule) == (pipe.feature_extractor, pipe.sigma_schedule)
    assert np.array_equal(made.frames, expected.frames)
    with pytest.raises(InputError, match="no device 'nowhere'; it has here, there"):
        pipe.to("nowhere")


def test_progress_is_shown_unless_it_is_disabled(
    pipe: StableVideoDiffusionPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    run(pipe, output_type="np")
    assert capsys.readouterr() == ("", "")
    pipe.set_progress_bar_config(ncols=70)
    run(pipe, output_type="np", num_videos_per_prompt=2)
    shown = capsys.readouterr()
    assert shown.out == ""
    for stage, total in (("encode", "4/4"), ("denoise", "2/2"), ("decode", "6/6")):
        assert any(stage in line and total in line for line in shown.err.replace("\r", "\n").splitlines())


# generate()


def test_generate_is_load_and_call(loaded: StableVideoDiffusionPipeline, checkpoint: Callable[[str], Path]) -> None:
    small = {**SMALL, "output_type": "np"}
    options = {"backend": "numpy", "model": checkpoint("plain"), "dtype": "float64", "progress": False}
    result = generate(picture(), **options, **small, seed=7, num_videos_per_prompt=2, scheduler="euler")
    assert result.seeds == (7, 8)
    assert list(result.timings) == ["load", "encode", "denoise", "decode"]
    assert np.array_equal(result.frames, run(loaded, output_type="np", num_videos_per_prompt=2))
    again = generate(picture(), **options, **small, generator=[7], return_dict=False)
    assert np.array_equal(again.frames, run(loaded, output_type="np"))


def test_generate_passes_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = inspect.signature(StableVideoDiffusionPipeline.from_pretrained).parameters
    options = inspect.signature(generate).parameters
    assert {name: p.default for name, p in loading.items() if name not in ("model", "once")} == {
        name: p.default for name, p in options.items() if name in loading and name != "model"
    }
    given = {name: object() for name in loading if name not in ("model", "once")}
    call = {name: object() for name in SIGNATURE if name not in ("image", "return_dict", "generator")}
    monkeypatch.setattr(svdkit.generation, "check_call", lambda **call: None)  # there are no such numbers
    seen: dict[str, Any] = {}

    class Loaded:
        size = 16, 24

        def set_progress_bar_config(self, **options: Any) -> None:
            seen["progress"] = options

        def __call__(self, image: Any, **options: Any) -> StableVideoDiffusionPipelineOutput:
            seen["call"] = {"image": image, **options}
            return StableVideoDiffusionPipelineOutput("frames")

    def from_pretrained(model: Any, **options: Any) -> Loaded:
        seen["loading"] = {"model": model, **options}
        return Loaded()

    monkeypatch.setattr(StableVideoDiffusionPipeline, "from_pretrained", from_pretrained)
    assert generate(picture(), model="model", seed=5, progress=False, **given, **call).frames == "frames"
    assert seen["loading"] == {"model": "model", **given, "once": True}
    assert [read.tobytes() for read in seen["call"].pop("image")] == [picture().tobytes()]
    assert seen["call"] == {"generator": 5, "return_dict": True, **call}
    assert seen["progress"] == {"disable": True}
    generate(picture(), width=40)
    assert (seen["call"]["height"], seen["call"]["width"]) == (16, 40)


@pytest.mark.parametrize(("sample_size", "size"), [(96, (576, 1024)), ([6, 10], (48, 80))])
def test_the_checkpoint_tells_the_size_of_its_videos(
    checkpoint: Callable[[str], Path], tmp_path: Path, sample_size: Any, size: tuple[int, int]
) -> None:
    folder = shutil.copytree(checkpoint("plain"), tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": sample_size}))
    assert StableVideoDiffusionPipeline.from_pretrained(folder, backend="numpy").size == size
    job = plan(folder, backend="numpy").job
    assert (job.height, job.width) == size


def test_a_picture_is_read_before_the_model() -> None:
    with pytest.raises(ImageError, match="does not exist"):
        generate("missing.png", model="missing/model", backend="numpy", local_files_only=True)


def test_a_seed_and_a_generator_conflict() -> None:
    with pytest.raises(InputError, match="Both seed and generator are given"):
        generate(picture(), model="tiny-random", backend="numpy", seed=1, generator=2)


def test_the_shipped_model_makes_a_video(tmp_path: Path) -> None:
    options = {"model": "tiny-random", "backend": "numpy", **SMALL}
    result = generate(picture(), **options, seed=0, progress=False)
    assert len(result.frames[0]) == 8
    assert result.save(tmp_path / "clip.webp") == [tmp_path / "clip.webp"]
