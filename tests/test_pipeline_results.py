"""What the call gives back, and how it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pipeline import ROUNDING_32, pixels, run

import svdkit
import svdkit.sampling
from svdkit.errors import OutputError
from svdkit.output import StableVideoDiffusionPipelineOutput
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.testing.inputs import relative_error


def test_every_output_type(pipe: StableVideoDiffusionPipeline) -> None:
    options = {"num_videos_per_prompt": 2}
    made = {kind: run(pipe, **options, output_type=kind) for kind in ("pil", "np", "tensor", "pt", "latent")}
    array = made["np"]
    assert array.shape == (2, 3, 16, 24, 3)
    assert 0 <= array.min() < array.max() <= 1
    assert array.std() > 0.02, "there is a picture"
    assert [len(video) for video in made["pil"]] == [3, 3]
    assert {(type(f), f.mode, f.size) for video in made["pil"] for f in video} == {(Image.Image, "RGB", (24, 16))}
    assert np.array_equal(np.stack([pixels(video) for video in made["pil"]]), (array * 255).round())
    assert made["tensor"].shape == (2, 3, 3, 16, 24)
    assert np.array_equal(made["tensor"].transpose(0, 1, 3, 4, 2), array)
    assert np.array_equal(made["pt"], made["tensor"])
    assert made["latent"].shape == (2, 3, 4, 2, 3)
    assert {made[kind].dtype for kind in ("np", "tensor", "latent")} == {np.dtype("float64")}


def test_the_result_tells_what_was_used(pipe: StableVideoDiffusionPipeline) -> None:
    frames = run(pipe, output_type="np")
    result = run(pipe, output_type="np", fps=12, return_dict=True)
    assert isinstance(result, svdkit.StableVideoDiffusionPipelineOutput)
    assert isinstance(frames, np.ndarray)
    assert frames.shape == result.frames.shape
    assert result.sigmas == (14, 2, 0)
    assert (result.seeds, result.seed, result.fps, result.nfe) == ((7,), 7, 12, 2)
    assert (result.backend, result.device, result.dtype, result.scheduler) == ("numpy", "cpu", "float64", "Euler()")
    assert (list(result.timings), result.output_type) == (["encode", "denoise", "decode"], "np")
    assert all(seconds > 0 for seconds in result.timings.values())
    latent = run(pipe, return_dict=True)
    assert (list(latent.timings), latent.output_type) == (["encode", "denoise"], "latent")
    assert run(pipe, output_type="pt", return_dict=True).output_type == "tensor"


def test_float32(checkpoint: Callable[[str], Path], loaded: StableVideoDiffusionPipeline) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), backend="numpy")
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 64, "width": 64, "output_type": "np"}
    made = run(pipe, **options, return_dict=True)
    assert made.dtype == made.frames.dtype.name == "float32"
    assert relative_error(made.frames, run(loaded, **options)) < ROUNDING_32


@pytest.fixture(scope="module")
def results(loaded: StableVideoDiffusionPipeline) -> dict[str, StableVideoDiffusionPipelineOutput]:
    """Two videos of each type of output."""
    options = {"num_videos_per_prompt": 2, "sigmas": [1.0], "fps": 10, "return_dict": True}
    return {kind: run(loaded, **options, output_type=kind) for kind in ("pil", "np", "tensor", "latent")}


@pytest.mark.parametrize("kind", ["pil", "np", "tensor"])
def test_every_output_type_is_saved_alike(
    results: dict[str, StableVideoDiffusionPipelineOutput], kind: str, tmp_path: Path
) -> None:
    paths = results[kind].save(tmp_path / "clip")
    assert paths == [tmp_path / "clip_0", tmp_path / "clip_1"]
    for folder, video in zip(paths, results["pil"].frames, strict=True):
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == ["frame_0000.png", "frame_0001.png", "frame_0002.png"]
        assert np.array_equal(pixels([Image.open(file) for file in files]), pixels(video))


def test_several_videos_are_numbered_and_one_is_not(
    pipe: StableVideoDiffusionPipeline, results: dict[str, StableVideoDiffusionPipelineOutput], tmp_path: Path
) -> None:
    assert results["pil"].save(str(tmp_path / "many.gif")) == [tmp_path / "many_0.gif", tmp_path / "many_1.gif"]
    one = run(pipe, output_type="pil", return_dict=True)
    assert one.save(tmp_path / "one.mp4") == [tmp_path / "one.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many_0.gif", "many_1.gif", "one.mp4"]
    assert b"avc1" in (tmp_path / "one.mp4").read_bytes()


@pytest.mark.parametrize(("fps", "milliseconds"), [(None, 100), (5, 200)])
def test_the_rate_is_that_of_the_generation_unless_given(
    results: dict[str, StableVideoDiffusionPipelineOutput], tmp_path: Path, fps: float | None, milliseconds: int
) -> None:
    (path, _) = results["pil"].save(tmp_path / "clip.gif", fps)
    with Image.open(path) as animation:
        assert (animation.info["duration"], animation.n_frames) == (milliseconds, 3)


def test_latents_are_not_saved_as_a_video(
    results: dict[str, StableVideoDiffusionPipelineOutput], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="generate with output_type='pil'"):
        results["latent"].save(tmp_path / "clip.gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["", "/", "."])
def test_a_path_without_a_name_cannot_be_saved_to(
    results: dict[str, StableVideoDiffusionPipelineOutput], path: str
) -> None:
    with pytest.raises(OutputError, match="does not name a file"):
        results["pil"].save(path)
