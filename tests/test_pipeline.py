"""Every parameter of the call does what it says, on the NumPy backend: whole tensors, against what they mean."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attrs import define, field, frozen
from diffusers import AutoencoderKLTemporalDecoder
from PIL import Image
from reference import picture, relative_error

import svdkit
import svdkit.sampling
from svdkit.arguments import CALLBACK_TENSORS, check_replaced
from svdkit.checkpoint import FeatureExtractor
from svdkit.errors import ImageError, InputError, NumericalError, OutputError
from svdkit.generation import generate
from svdkit.memory.planning import plan
from svdkit.noise import Purpose, normal
from svdkit.output import StableVideoDiffusionPipelineOutput
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.plugins import make, registry
from svdkit.preprocess import vae_pixels
from svdkit.sigmas import karras
from svdkit_numpy.backend import NumpyBackend
from svdkit_schedulers.euler import Euler

# Matrix products of another size sum in another order: 1e-16 each time, which networks with random weights magnify.
ROUNDING = 1e-10
# The same where something is in float32, if norms are over more than a few positions.
ROUNDING_32 = 1e-4
# What a parameter must change at least, far above rounding.
EFFECT = 1e-2

# A call that takes a tenth of a second.
SMALL = {"height": 16, "width": 24, "sigmas": (14.0, 2.0)}

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


class Spy:
    """A component that notes the arrays it is called with, and does what it did before."""

    def __init__(self, component: Any) -> None:
        self.component = component
        self.calls: list[SimpleNamespace] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.component, name)
        return self._noting(name, attribute) if name in ("prepare", "encode", "decode") else attribute

    def __call__(self, *args: Any) -> Any:
        return self._noting("call", self.component)(*args)

    def _noting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any) -> Any:
            kept = tuple(np.copy(a) if isinstance(a, np.ndarray) else a for a in args)
            result = function(*args)
            self.calls.append(SimpleNamespace(name=name, args=kept, result=result))
            return result

        return noting

    def of(self, name: str) -> list[SimpleNamespace]:
        """The calls of one method."""
        return [call for call in self.calls if call.name == name]


@define
class SpyScheduler:
    """Euler's method, and what it was given."""

    solver: Any = field(factory=Euler)
    x: list[np.ndarray] = field(factory=list)
    sigmas: Any = None

    def step(
        self, denoise: Any, x: np.ndarray, i: int, sigmas: Sequence[float], history: Any, noise: Any
    ) -> tuple[np.ndarray, Any]:
        self.x.append(x.copy())
        self.sigmas = sigmas
        return self.solver.step(denoise, x, i, sigmas, history, noise)


@frozen
class Ancestral:
    """Goes to a clean sample and adds new noise, two draws a step."""

    def step(
        self, denoise: Any, x: np.ndarray, i: int, sigmas: Sequence[float], history: Any, noise: Any
    ) -> tuple[np.ndarray, Any]:
        return denoise(x, sigmas[i]) + (noise(0) + noise(1)) * (sigmas[i + 1] / 2**0.5), None


class Guided:
    """A network whose output is 1 where it is not conditioned and 2 where it is."""

    def __init__(self, unet: Any) -> None:
        self.config, self.backend = unet.config, unet.backend

    def prepare(self, image_embeddings: np.ndarray, added_time_ids: Any, frames: int) -> np.ndarray:
        return image_embeddings

    def __call__(self, sample: np.ndarray, c_noise: float, prepared: np.ndarray) -> np.ndarray:
        conditioned = (sample[:, :, 4:] != 0).any((1, 2, 3, 4))
        assert (conditioned == (prepared != 0).any((1, 2))).all(), "latents and embedding do not belong together"
        return np.ones_like(sample[:, :, :4]) + conditioned[:, None, None, None, None]


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> StableVideoDiffusionPipeline:
    """In float64, so that what is the same in exact arithmetic is the same here, nearly."""
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), backend="numpy", dtype="float64")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded: StableVideoDiffusionPipeline) -> StableVideoDiffusionPipeline:
    """The same components in a pipeline of their own, which a test may change."""
    copy = StableVideoDiffusionPipeline(**loaded.components, sigma_schedule=loaded.sigma_schedule)
    copy.set_progress_bar_config(disable=True)
    copy._origin = loaded._origin
    return copy


def run(pipe: StableVideoDiffusionPipeline, **options: Any) -> Any:
    """A small call; latents unless asked for something else."""
    return pipe(**{"image": picture(), "generator": 7, "output_type": "latent", **SMALL, **options})


def noise(seed: int = 0, videos: int = 1, frames: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((videos, frames, 4, 2, 3))


def pixels(frames: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in frames])


def test_the_signature_is_that_of_the_public_pipeline() -> None:
    parameters = dict(inspect.signature(StableVideoDiffusionPipeline.__call__).parameters)
    del parameters["self"]
    shared = {name: p.default for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert shared == SIGNATURE
    assert list(shared) == list(SIGNATURE)
    # What is svdkit's own is in nobody's way.
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name not in SIGNATURE)


# Several images and videos


def test_a_batch_is_image_major_and_each_video_as_if_made_alone(pipe: StableVideoDiffusionPipeline) -> None:
    images = [picture(1), picture(2)]
    options = {"noise_aug_strength": 0.3, "sigmas": (80.0, 20.0, 2.0)}
    batch = run(pipe, image=images, num_videos_per_prompt=2, generator=10, **options)
    assert batch.shape == (4, 3, 4, 2, 3)
    for i in range(4):
        alone = run(pipe, image=images[i // 2], generator=10 + i, **options)
        assert relative_error(batch[i], alone[0]) < ROUNDING
        assert all(relative_error(batch[j], batch[i]) > EFFECT for j in range(4) if j != i)


def test_injected_latents_follow_the_order_of_the_videos(pipe: StableVideoDiffusionPipeline) -> None:
    images, latents = [picture(1), picture(2)], noise(videos=4)
    frames = run(pipe, image=images, num_videos_per_prompt=2, generator=10, latents=latents, output_type="np")
    for i in (1, 2):
        alone = run(pipe, image=images[i // 2], generator=10 + i, latents=latents[i : i + 1], output_type="np")
        assert relative_error(frames[i], alone[0]) < ROUNDING


@pytest.mark.parametrize("backend", ["numpy", "torch", "mindspore"])
@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_latents_of_any_framework(checkpoint: Callable[[str], Path], backend: str, framework: str) -> None:
    pytest.importorskip(backend)
    pytest.importorskip(framework)
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), backend=backend, dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    theirs = make("backend", framework, None, None, "bfloat16" if framework == "torch" else "float32")
    latents = theirs.array(noise())
    options = {"sigmas": [9.0], "return_dict": True}
    found = run(pipe, latents=latents, **options).frames
    expected = run(pipe, latents=theirs.numpy(latents), **options).frames
    assert np.array_equal(pipe.backend.numpy(found), pipe.backend.numpy(expected))


def test_the_noise_of_a_stochastic_scheduler_is_each_videos_own(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.scheduler = Ancestral()
    batch = run(pipe, num_videos_per_prompt=2, generator=[4, 11], latents=np.repeat(noise(), 2, 0))
    for video, seed in zip(batch, (4, 11), strict=True):
        assert relative_error(video, run(pipe, generator=seed, latents=noise())[0]) < ROUNDING
    assert relative_error(batch[0], batch[1]) > EFFECT


# Randomness


@pytest.mark.parametrize(
    "generator",
    [5, np.int64(5), [5, 6], (5, 6), [np.int32(5), 6]],
    ids=["seed", "numpy-seed", "list", "tuple", "mixed-list"],
)
def test_seeds_in_every_form(pipe: StableVideoDiffusionPipeline, generator: Any) -> None:
    result = run(pipe, num_videos_per_prompt=2, generator=generator, return_dict=True)
    assert result.seeds == (5, 6)
    assert result.seed == 5
    assert np.array_equal(result.frames, run(pipe, num_videos_per_prompt=2, generator=5))
    assert relative_error(result.frames[0], result.frames[1]) > EFFECT


def test_numpy_generators(pipe: StableVideoDiffusionPipeline) -> None:
    def make(generator: Any) -> StableVideoDiffusionPipelineOutput:
        return run(pipe, num_videos_per_prompt=2, generator=generator, return_dict=True)

    one = make(np.random.default_rng(3))
    assert np.array_equal(one.frames, make(np.random.default_rng(3)).frames)
    shared = np.random.default_rng(3)
    assert make(shared).seeds == one.seeds != make(shared).seeds, "a generator moves on from call to call"
    listed = make([np.random.default_rng(3), np.random.default_rng(4)])
    assert listed.seeds[0] == one.seeds[0] != listed.seeds[1]
    assert np.array_equal(make(list(one.seeds)).frames, one.frames), "the seeds in the result make it again"


def test_no_generator_means_another_video_each_time_which_its_seed_makes_again(
    pipe: StableVideoDiffusionPipeline,
) -> None:
    one, two = (run(pipe, generator=None, return_dict=True) for _ in range(2))
    assert one.seed != two.seed
    assert np.array_equal(run(pipe, generator=one.seed), one.frames)


def test_the_same_seed_gives_the_same_frames_and_another_does_not(pipe: StableVideoDiffusionPipeline) -> None:
    one, same, other = (run(pipe, generator=seed, output_type="np") for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert relative_error(one, other) > EFFECT


def test_the_same_seed_gives_the_same_frames_in_a_new_process(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    program = (
        "import sys, numpy, svdkit\n"
        f"options = dict(**{SMALL}, seed=7, output_type='np', progress=False)\n"
        "result = svdkit.generate(sys.argv[2], backend='numpy', model=sys.argv[1], **options)\n"
        "numpy.save(sys.argv[3], result.frames)"
    )
    picture().save(tmp_path / "photo.png")
    frames = []
    for i in range(2):
        arguments = [str(checkpoint("plain")), str(tmp_path / "photo.png"), str(tmp_path / f"{i}.npy")]
        subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=120)
        frames.append(np.load(tmp_path / f"{i}.npy"))
    assert frames[0].dtype == np.float32
    assert np.array_equal(frames[0], frames[1])


# Latents, noise levels, scheduler


def test_latents_are_scaled_to_the_first_noise_level(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.scheduler = spy = SpyScheduler()
    latents = noise()
    before = latents.copy()
    run(pipe, latents=latents, sigmas=[14.5, 1.0])
    assert relative_error(spy.x[0], latents * (14.5**2 + 1) ** 0.5) < ROUNDING
    assert np.array_equal(latents, before), "the caller's array is left alone"


def test_initial_noise_is_that_of_the_seed(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.scheduler = spy = SpyScheduler()
    frames = run(pipe, generator=3)
    latents = normal(3, Purpose.LATENTS, (3, 4, 2, 3))[None].astype(np.float64)
    assert relative_error(spy.x[0], latents * (spy.sigmas[0] ** 2 + 1) ** 0.5) < ROUNDING
    assert abs(latents.std() - 1) < 0.25  # 72 numbers: 3 standard deviations
    assert np.array_equal(run(pipe, generator=3, latents=latents), frames)


def test_the_last_step_to_0_can_be_left_out(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.scheduler = spy = SpyScheduler()
    run(pipe, sigmas=[14.0, 2.0, 0.5])
    stopped = run(pipe, sigmas=[14.0, 2.0], to_zero=False, return_dict=True)
    assert (stopped.sigmas, stopped.nfe) == ((14, 2), 1)
    assert np.array_equal(stopped.frames, spy.x[1])


@pytest.mark.parametrize("form", [list, tuple, np.array])
@pytest.mark.parametrize("end", [[], [0.0]], ids=["open", "zero"])
def test_custom_sigmas_are_taken_verbatim(pipe: StableVideoDiffusionPipeline, form: Any, end: list[float]) -> None:
    pipe.scheduler, pipe.unet = spy, network = SpyScheduler(), Spy(pipe.unet)
    sigmas = [123.456, 7.5, 7.4, 0.3]
    result = run(pipe, sigmas=form(sigmas + end), num_inference_steps=50, return_dict=True)
    assert spy.sigmas == result.sigmas == (*sigmas, 0.0)
    assert result.nfe == len(spy.x) == 4
    assert [call.args[1] for call in network.of("call")] == pytest.approx(np.log(sigmas) / 4)


def test_the_schedule_is_the_checkpoints_or_one_by_name(pipe: StableVideoDiffusionPipeline) -> None:
    def used(**options: Any) -> tuple[float, ...]:
        return run(pipe, **{"sigmas": None, "return_dict": True, **options}).sigmas

    pipe.unet = Guided(pipe.unet)
    assert used()[:4] == pytest.approx((700, 545.7292, 421.5691, 322.4537), rel=1e-6)
    assert used()[-4:] == pytest.approx((0.0248, 0.0079, 0.002, 0), abs=5e-5)
    assert len(used()) == 26
    assert used(num_inference_steps=4) == used(num_inference_steps=4, sigmas="karras") == tuple(karras(4))
    assert used(num_inference_steps=1) == (pytest.approx(700), 0)
    pipe.sigma_schedule = lambda steps: [10.0 / (i + 1) for i in range(steps)]
    assert used(num_inference_steps=3) == (10.0, 5.0, 10 / 3, 0.0)
    assert used(num_inference_steps=4, sigmas="karras") == tuple(karras(4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_videos_per_prompt": None}, "num_videos_per_prompt is None"),
        ({"sigmas": [1, 2]}, r"sigmas\[1\] is 2"),
        ({"output_type": "mp4"}, "output_type is 'mp4'"),
        ({"fps": 1000}, "fps is 1000, expected a finite number of at least 1 and at most 240"),
        ({"fps": 10**400}, "fps is 1000"),
        ({"max_guidance_scale": 10**400}, "max_guidance_scale is 1000"),
        ({"callback_on_step_end": 5}, "callback_on_step_end is 5, expected a function"),
        ({"callback_on_step_end_tensor_inputs": None}, "None, expected a list of names"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_call_is_found_before_the_model_is_fetched(
    call: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StableVideoDiffusionPipeline, "from_pretrained", None)
    with pytest.raises(InputError, match=words):
        generate(picture(), model="there/is-none", **call)
    with pytest.raises(TypeError, match="num_inference_step"):
        generate(picture(), model="there/is-none", num_inference_step=5)


def test_levels_come_from_a_path_too(pipe: StableVideoDiffusionPipeline, tmp_path: Path) -> None:
    (tmp_path / "levels.txt").write_text("14, 2.5")
    assert run(pipe, sigmas=tmp_path / "levels.txt", return_dict=True).sigmas == (14, 2.5, 0)


@pytest.mark.parametrize("backend", ["numpy", "torch", "mindspore"])
def test_a_callback_may_return_arrays_of_the_host(backend: str, checkpoint: Callable[[str], Path]) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), backend=backend, dtype="float32")
    names = ("latents", "guidance_scale", "image_latents")

    def doubled(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        return {name: 2 * pipe.backend.numpy(tensors[name]).astype(np.float64) for name in names}

    def of_the_framework(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        return {name: 2 * tensors[name] for name in names}

    options = {"generator": 1, "output_type": "np", "callback_on_step_end_tensor_inputs": names}
    made = [run(pipe, **options, callback_on_step_end=f) for f in (doubled, of_the_framework, None)]
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)
    assert np.abs(made[0] - made[2]).max() > 1e-2


def test_a_device_may_be_torchs_own_object(
    pipe: StableVideoDiffusionPipeline, checkpoint: Callable[[str], Path]
) -> None:
    assert pipe.to(torch.device("cpu")) is pipe
    folder = checkpoint("plain")
    made = StableVideoDiffusionPipeline.from_pretrained(folder, backend="torch", device=torch.device("cpu"))
    assert made.backend.device == "cpu"
    with pytest.raises(InputError, match="no device 'cpu:9'"):
        StableVideoDiffusionPipeline.from_pretrained(folder, backend="numpy", device="cpu:9")
    with pytest.raises(InputError, match="components is 'unet=x', expected names by part"):
        StableVideoDiffusionPipeline.from_pretrained(folder, backend="numpy", components="unet=x")
    with pytest.raises(InputError, match=r"components is \['unet=x'\], expected names by part"):
        StableVideoDiffusionPipeline.from_pretrained(folder, backend="numpy", components=["unet=x"])


def test_a_scheduler_is_assigned_by_name_too(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.scheduler = "dpm_2_ancestral:eta=0.5"
    assert repr(pipe.scheduler) == repr(svdkit.sampling.get_scheduler("dpm_2_ancestral:eta=0.5"))
    assert run(pipe, return_dict=True).scheduler == repr(pipe.scheduler)
    before = pipe.scheduler
    with pytest.raises(InputError, match=r"no scheduler 'eulre'.*'euler'"):
        pipe.scheduler = "eulre"
    assert pipe.scheduler is before


def test_schedulers_by_name_and_as_objects(
    pipe: StableVideoDiffusionPipeline, checkpoint: Callable[[str], Path]
) -> None:
    expected = run(pipe)
    for scheduler in ("euler", Euler(), SpyScheduler()):
        options = {"backend": "numpy", "dtype": "float64", "scheduler": scheduler}
        other = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), **options)
        other.set_progress_bar_config(disable=True)
        assert np.array_equal(run(other), expected)
    with pytest.raises(InputError, match="expected a name or an object with a `step` method"):
        StableVideoDiffusionPipeline(**{**pipe.components, "scheduler": 3})


# Conditioning


@pytest.mark.parametrize("guidance", [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0), (0.5, 1.5), (0, 4)])
def test_guidance_is_linear_from_the_first_frame_to_the_last(
    pipe: StableVideoDiffusionPipeline, guidance: tuple[float, float]
) -> None:
    pipe.unet = Guided(pipe.unet)
    first, last = guidance
    latents = noise(videos=2, frames=5)
    options = {"num_frames": 5, "sigmas": [1.0], "num_videos_per_prompt": 2, "latents": latents}
    x0 = run(pipe, **options, min_guidance_scale=first, max_guidance_scale=last)
    # One step from sigma = 1 to 0 ends at x0 = x / 2 - F / sqrt(2), where x = sqrt(2) * latents.
    output = latents - x0 * 2**0.5
    scales = first + (last - first) * np.arange(5) / 4
    expected = np.broadcast_to((1 + scales).reshape(1, 5, 1, 1, 1), x0.shape)
    assert relative_error(output, expected) < ROUNDING


def test_one_frame_is_guided_by_the_first_scale(pipe: StableVideoDiffusionPipeline) -> None:
    options = {"num_frames": 1, "latents": noise(frames=1)}
    one, two, three = (
        run(pipe, **options, min_guidance_scale=low, max_guidance_scale=high) for low, high in ((2, 9), (2, 2), (9, 9))
    )
    assert np.array_equal(one, two)
    assert relative_error(one, three) > EFFECT


def test_guidance_of_1_runs_the_conditional_model_alone(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.unet = spy = Spy(pipe.unet)
    alone = run(pipe, min_guidance_scale=1.0, max_guidance_scale=1.0, num_videos_per_prompt=2)
    assert [call.args[0].shape[0] for call in spy.of("call")] == [2, 2]
    assert spy.of("prepare")[0].args[0].shape[0] == 2
    spy.calls.clear()
    doubled = run(pipe, min_guidance_scale=1.0, max_guidance_scale=1 + 1e-13, num_videos_per_prompt=2)
    assert [call.args[0].shape[0] for call in spy.of("call")] == [4, 4]
    assert relative_error(doubled, alone) < ROUNDING


def test_the_unconditional_half_has_zeros_and_the_same_time_ids(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.unet, pipe.image_encoder = spy, encoder = Spy(pipe.unet), Spy(pipe.image_encoder)
    images = [picture(1), picture(2)]
    options = {"fps": 10, "motion_bucket_id": 50, "noise_aug_strength": 0.25}
    run(pipe, image=images, num_videos_per_prompt=2, num_frames=5, **options)
    (prepared,) = spy.of("prepare")
    embeddings, ids, frames = prepared.args
    assert frames == 5
    assert np.array_equal(ids, [[9, 50, 0.25]] * 8), "the UNet is told fps - 1"
    one, two = (call.result for call in encoder.of("call"))
    assert relative_error(one, two) > EFFECT
    assert np.array_equal(embeddings[4:, 0], np.concatenate([one, one, two, two]))
    assert not embeddings[:4].any()
    for call in spy.of("call"):
        latents = call.args[0]
        assert latents.shape == (8, 5, 8, 2, 3)
        assert not latents[:4, :, 4:].any()
        assert np.array_equal(latents[:4, :, :4], latents[4:, :, :4])


def test_only_the_noisy_channels_are_scaled(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.scheduler, pipe.unet, pipe.vae = solver, spy, vae = SpyScheduler(), Spy(pipe.unet), Spy(pipe.vae)
    run(pipe, max_guidance_scale=1.0)
    encoded = vae.of("encode")[0].result
    for call, x, sigma in zip(spy.of("call"), solver.x, solver.sigmas[:-1], strict=True):
        assert relative_error(call.args[0][:, :, :4], x / (sigma**2 + 1) ** 0.5) < ROUNDING
        assert np.array_equal(call.args[0][:, :, 4:], np.repeat(encoded[:, None], 3, 1))
        assert call.args[1] == pytest.approx(np.log(sigma) / 4)


@pytest.mark.parametrize("name", ["fps", "motion_bucket_id", "noise_aug_strength"])
def test_every_time_id_matters(pipe: StableVideoDiffusionPipeline, name: str) -> None:
    values = {"fps": 20, "motion_bucket_id": 10, "noise_aug_strength": 0.5}
    assert relative_error(run(pipe, **{name: values[name]}), run(pipe)) > EFFECT


def test_augmentation_noise_is_that_of_the_videos_seed(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.vae = spy = Spy(pipe.vae)
    clean = vae_pixels(picture(), 16, 24)
    run(pipe, noise_aug_strength=0.5, generator=[3, 9], num_videos_per_prompt=2)
    for call, seed in zip(spy.of("encode"), (3, 9), strict=True):
        expected = clean + 0.5 * normal(seed, Purpose.AUGMENTATION, clean.shape)
        assert relative_error(call.args[0], expected[None]) < 1e-6  # pixels are float32
    spy.calls.clear()
    run(pipe, noise_aug_strength=0)
    assert np.array_equal(spy.of("encode")[0].args[0], clean[None])


def test_image_latents_are_the_mode_and_not_scaled(
    pipe: StableVideoDiffusionPipeline, checkpoint: Callable[[str], Path]
) -> None:
    handed = {}
    run(
        pipe,
        noise_aug_strength=0,
        callback_on_step_end=lambda pipe, step, timestep, tensors: handed.update(tensors),
        callback_on_step_end_tensor_inputs=["image_latents"],
    )
    oracle = AutoencoderKLTemporalDecoder.from_pretrained(checkpoint("plain"), subfolder="vae")
    with torch.no_grad():
        mode = oracle.encode(torch.from_numpy(vae_pixels(picture(), 16, 24)[None])).latent_dist.mode().numpy()
    unconditional, conditional = handed["image_latents"]
    assert relative_error(conditional, np.repeat(mode, 3, 0)) < ROUNDING_32
    assert not unconditional.any()


def test_the_number_of_frames_is_the_checkpoints_if_none_is_given(pipe: StableVideoDiffusionPipeline) -> None:
    assert run(pipe).shape[1] == pipe.unet.config.num_frames == 3
    assert run(pipe, num_frames=4).shape[1] == 4


@pytest.mark.parametrize("size", [(72, 104), (64, 40), (8, 8), (24, 136)])
def test_sizes_that_are_multiples_of_8_only(pipe: StableVideoDiffusionPipeline, size: tuple[int, int]) -> None:
    height, width = size
    pipe.unet = spy = Spy(pipe.unet)
    frames = run(pipe, height=height, width=width, num_frames=2, sigmas=[1.0], output_type="np")
    assert frames.shape == (1, 2, height, width, 3)
    assert np.isfinite(frames).all()
    assert spy.of("call")[0].args[0].shape[3:] == (height // 8, width // 8)


# The image


def test_every_form_of_an_image_gives_the_same_video(pipe: StableVideoDiffusionPipeline, tmp_path: Path) -> None:
    def made(image: Any) -> np.ndarray:
        return run(pipe, image=image, height=64, width=64, sigmas=[2.0])

    image, path = picture(width=64, height=64), tmp_path / "photo.png"
    image.save(path)
    array = np.asarray(image)
    expected = made(image)
    for same in (str(path), [path], (image,), array, array[None], image.convert("RGBA")):
        assert np.array_equal(made(same), expected)
    # 8 bits become floating point after they were resized, here before.
    floats = np.ascontiguousarray(array.transpose(2, 0, 1)[None], np.float32) / 255
    for near in (floats, [floats[0]], torch.from_numpy(floats)):
        assert relative_error(made(near), expected) < ROUNDING_32
    assert relative_error(made(picture(1)), expected) > EFFECT
    assert len(run(pipe, image=np.repeat(floats, 2, 0))) == len(run(pipe, image=[image, path])) == 2


# Decoding


@pytest.mark.parametrize(
    ("chunk", "sizes"),
    [
        (2, [2, 2, 1]),
        (3, [3, 2]),
        (1, [1] * 5),
        (4, [4, 1]),
        (5, [5]),
        (99, [5]),
        (None, [5]),
        (np.int64(2), [2, 2, 1]),
    ],
)
def test_chunks_divide_no_video_and_join_none(
    pipe: StableVideoDiffusionPipeline, chunk: int | None, sizes: list[int]
) -> None:
    pipe.vae = spy = Spy(pipe.vae)
    options = {"num_frames": 5, "num_videos_per_prompt": 2, "sigmas": [1.0]}
    frames = run(pipe, **options, decode_chunk_size=chunk, output_type="np")
    assert [call.args[0].shape[0] for call in spy.of("decode")] == 2 * sizes
    latents = run(pipe, **options)
    ends = np.cumsum(sizes)
    for video, made in zip(latents, frames, strict=True):
        pieces = [
            pipe.vae.component.decode(video[end - size : end] / 0.18215) for size, end in zip(sizes, ends, strict=True)
        ]
        expected = np.concatenate(pieces).transpose(0, 2, 3, 1) / 2 + 0.5
        assert relative_error(made, expected.clip(0, 1)) < ROUNDING


def test_latents_are_divided_by_the_scaling_factor_before_decoding(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.vae = spy = Spy(pipe.vae)
    run(pipe, output_type="np")
    assert relative_error(spy.of("decode")[0].args[0], run(pipe)[0] / 0.18215) < ROUNDING


# Forward chunking


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("size", [1, 2, 5, 1000, None])
def test_chunked_feed_forward_layers_equal_whole_ones(
    pipe: StableVideoDiffusionPipeline, monkeypatch: pytest.MonkeyPatch, size: int | None, dim: int
) -> None:
    feed_forward = pipe.unet.down[0][0].attentions[0].blocks[0][0].ff
    rows: list[int] = []
    project = feed_forward.proj
    monkeypatch.setattr(feed_forward, "proj", lambda x: (rows.append(x.shape[dim]), project(x))[1])
    options = {"sigmas": [1.0]}
    whole = run(pipe, **options)
    (length,) = rows
    pipe.unet.enable_forward_chunking(size, dim)
    try:
        rows.clear()
        assert relative_error(run(pipe, **options), whole) < ROUNDING
        assert max(rows) == min(size or 1, length)
        assert sum(rows) == length
    finally:
        pipe.unet.disable_forward_chunking()
    rows.clear()
    assert np.array_equal(run(pipe, **options), whole)
    assert rows == [length]


@pytest.mark.parametrize(("size", "dim"), [(0, 0), (-1, 0), (1, 2), (1, -1), (1.5, 1)])
def test_impossible_forward_chunking(pipe: StableVideoDiffusionPipeline, size: Any, dim: int) -> None:
    with pytest.raises(InputError, match=f"dim 0 or 1 and a positive size, not dim {dim} and size {size}"):
        pipe.unet.enable_forward_chunking(size, dim)


# Outputs


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


# Callbacks


def test_the_callback_is_called_after_each_step(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.scheduler = spy = SpyScheduler()
    calls: list[tuple[Any, ...]] = []
    sigmas = [30.0, 3.0, 0.3]
    frames = run(pipe, sigmas=sigmas, callback_on_step_end=lambda *args: calls.append(args))
    assert [args[0] for args in calls] == [pipe] * 3
    assert [args[1] for args in calls] == [0, 1, 2]
    assert [args[2] for args in calls] == pytest.approx(np.log(sigmas) / 4)
    assert [list(args[3]) for args in calls] == [["latents"]] * 3
    for args, x in zip(calls, [*spy.x[1:], frames], strict=True):
        assert np.array_equal(args[3]["latents"], x), "latents are those after the step"


def test_the_callback_is_handed_what_it_asks_for(pipe: StableVideoDiffusionPipeline) -> None:
    handed: dict[str, Any] = {}
    options = {"image": [picture(1), picture(2)], "min_guidance_scale": 2.0, "max_guidance_scale": 1.0}
    expected = run(pipe, **options)
    frames = run(
        pipe,
        **options,
        callback_on_step_end=lambda pipe, step, timestep, tensors: handed.update(tensors),
        callback_on_step_end_tensor_inputs=CALLBACK_TENSORS,
    )
    assert {name: np.shape(value) for name, value in handed.items()} == {
        "latents": (2, 3, 4, 2, 3),
        "image_latents": (4, 3, 4, 2, 3),
        "image_embeddings": (4, 1, 24),
        "added_time_ids": (4, 3),
        "guidance_scale": (1, 3, 1, 1, 1),
    }
    assert np.array_equal(handed["guidance_scale"].ravel(), [2, 1.5, 1])
    assert np.array_equal(frames, expected), "None replaces nothing"


def test_replaced_time_ids_stay_on_the_host(pipe: StableVideoDiffusionPipeline) -> None:
    """With all their digits, and from whatever framework they come: a network makes sinusoids of them there."""
    ids, x = np.array([[6, 127, 0.02]]), np.zeros((1, 2))
    for given in (ids, torch.tensor(ids)):
        replaced = check_replaced({"added_time_ids": given}, {"added_time_ids": ids}, x, NumpyBackend(dtype="float32"))
        assert type(replaced["added_time_ids"]) is np.ndarray
        np.testing.assert_array_equal(replaced["added_time_ids"], ids)


def test_replaced_latents_are_those_of_the_next_step_and_of_the_result(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.scheduler = spy = SpyScheduler()
    given = [noise(seed) for seed in range(3)]

    def replace(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": given[step]}

    frames = run(pipe, sigmas=[9.0, 3.0, 1.0], callback_on_step_end=replace)
    assert np.array_equal(spy.x[1], given[0])
    assert np.array_equal(spy.x[2], given[1])
    assert np.array_equal(frames, given[2])


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (["added_time_ids"], {"fps": 25, "motion_bucket_id": 3}),
        (["image_embeddings", "image_latents"], {"image": picture(5)}),
        (["guidance_scale"], {"min_guidance_scale": 6.0, "max_guidance_scale": 2.0}),
    ],
    ids=lambda value: "-".join(value),
)
def test_replaced_conditioning_holds_from_the_next_step_on(
    pipe: StableVideoDiffusionPipeline, names: list[str], other: dict[str, Any]
) -> None:
    """A run whose conditioning is replaced after the first step ends as one that begins there with the other."""
    sigmas = [20.0, 5.0, 1.0]
    replacements: dict[str, Any] = {}
    after_first = []

    def replace(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any] | None:
        if step > 0:
            return None
        after_first.append(tensors["latents"])
        return {name: replacements[name] for name in names}

    run(
        pipe,
        sigmas=sigmas,
        **other,
        callback_on_step_end=lambda pipe, step, timestep, tensors: replacements.update(tensors),
        callback_on_step_end_tensor_inputs=names,
    )
    tensors = ["latents", *names]
    changed = run(pipe, sigmas=sigmas, callback_on_step_end=replace, callback_on_step_end_tensor_inputs=tensors)
    begun = run(pipe, sigmas=sigmas[1:], latents=after_first[0] / (sigmas[1] ** 2 + 1) ** 0.5, **other)
    assert relative_error(changed, begun) < ROUNDING
    assert relative_error(changed, run(pipe, sigmas=sigmas)) > EFFECT


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"image_latents": 0}, "returned 'image_latents', which it was not handed"),
        ({"latent": 0}, "returned 'latent', which it was not handed"),
        (np.zeros(3), "returned a ndarray, expected a dict or None"),
        ({"latents": np.zeros((1, 3, 4, 3, 2))}, r"no array of shape \(1, 3, 4, 2, 3\)"),
        ({"latents": None}, r"no array of shape \(1, 3, 4, 2, 3\)"),
    ],
    ids=["not-handed", "unknown", "array", "shape", "none"],
)
def test_what_a_callback_must_not_return(pipe: StableVideoDiffusionPipeline, returned: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(pipe, callback_on_step_end=lambda *_: returned)


@pytest.mark.parametrize("name", CALLBACK_TENSORS)
def test_what_a_callback_returns_has_the_shape_of_what_it_was_handed(
    pipe: StableVideoDiffusionPipeline, name: str
) -> None:
    options: dict[str, Any] = {"callback_on_step_end_tensor_inputs": CALLBACK_TENSORS}
    with pytest.raises(InputError, match=f"returned {name}, but no array of shape "):
        run(pipe, callback_on_step_end=lambda *args: {name: args[3][name][..., :1].repeat(9, -1)}, **options)


def test_an_unknown_tensor_is_refused_before_anything_is_computed(pipe: StableVideoDiffusionPipeline) -> None:
    pipe.image_encoder = spy = Spy(pipe.image_encoder)
    with pytest.raises(InputError, match=r"no tensor 'prompt_embeds' to hand; there are .*image_embeddings"):
        run(pipe, callback_on_step_end=print, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    assert not spy.calls


def test_an_error_in_a_callback_comes_out_as_it_is(pipe: StableVideoDiffusionPipeline) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pipe, callback_on_step_end=stop)


# Numbers that are none


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_while_denoising_names_step_and_sigma(pipe: StableVideoDiffusionPipeline, value: float) -> None:
    class Failing(Spy):
        def __call__(self, *args: Any) -> Any:
            output = super().__call__(*args)
            if len(self.of("call")) == 2:
                output[0, 1, 2, 1, 0] = value
            return output

    pipe.unet = spy = Failing(pipe.unet)
    steps: list[int] = []
    options = {"max_guidance_scale": 1.0, "callback_on_step_end": lambda pipe, step, *_: steps.append(step)}
    with pytest.raises(NumericalError, match=r"in step 2 of 4, from sigma 52\.5 to 7, in float64"):
        run(pipe, sigmas=[600, 52.5, 7, 1], **options)
    assert len(spy.of("call")) == 2, "it stops there"
    assert steps == [0]


def test_nan_while_decoding_names_the_frames(pipe: StableVideoDiffusionPipeline) -> None:
    decode = pipe.vae.decode

    def failing(latents: np.ndarray) -> np.ndarray:
        frames = decode(latents)
        decoded.append(len(frames))
        if len(decoded) == 4:
            frames[0, 0, 0, 0] = np.nan
        return frames

    decoded: list[int] = []
    pipe.vae = SimpleNamespace(config=pipe.vae.config, backend=pipe.vae.backend, encode=pipe.vae.encode, decode=failing)
    with pytest.raises(NumericalError, match="decoding frames 2 to 2 of video 1, in float64"):
        run(pipe, num_videos_per_prompt=2, decode_chunk_size=2, output_type="pil")
    assert decoded == [2, 1, 2, 1]


# The pipeline as an object


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
