"""What a callback is handed and may replace, and what happens to numbers that are none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reference import picture
from small_pipeline import EFFECT, ROUNDING, Spy, SpyScheduler, noise, run

from svdkit.arguments import CALLBACK_TENSORS, check_replaced
from svdkit.errors import InputError, NumericalError
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.testing.inputs import relative_error
from svdkit_numpy.backend import NumpyBackend


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
