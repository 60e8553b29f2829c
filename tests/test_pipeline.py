"""Every parameter of the call does what it says, on the NumPy backend: whole tensors, against what they mean."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from reference import picture
from small_pipeline import (
    EFFECT,
    ROUNDING,
    ROUNDING_32,
    SMALL,
    Ancestral,
    Guided,
    Spy,
    SpyScheduler,
    noise,
    run,
)

import svdkit
import svdkit.sampling
from svdkit.errors import InputError
from svdkit.generation import generate
from svdkit.noise import Purpose, normal
from svdkit.output import StableVideoDiffusionPipelineOutput
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.plugins import make
from svdkit.preprocess import vae_pixels
from svdkit.sigmas import karras
from svdkit.testing.inputs import relative_error
from svdkit_schedulers.euler import Euler

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
