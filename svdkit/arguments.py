"""Checks of what a pipeline is called with; each error says what arrived and what was expected."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .arrays import to_host
from .backend import Array, Backend, Host
from .denoiser import CONDITIONS
from .errors import InputError
from .guidance import guidance_scales
from .sigmas import LARGEST
from .video import MOST_FPS
from .weights import STEMS

OUTPUT_TYPES = {"pil": "pil", "np": "np", "tensor": "tensor", "pt": "tensor", "latent": "latent"}
CALLBACK_TENSORS = ("latents", *CONDITIONS)


def check_number(name: str, value: Any, *, minimum: float, maximum: float = LARGEST, whole: bool = False) -> None:
    """Raises `InputError` unless a value is a number in a range."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not minimum <= value <= maximum:
        kind = "a whole number" if whole else "a finite number"
        raise InputError(f"{name} is {reprlib.repr(value)}, expected {kind} of at least {minimum:g}{_most(maximum)}.")


def _most(maximum: float) -> str:
    return f" and at most {maximum:g}" if maximum < LARGEST else ""


def check_call(
    *,
    num_frames: Any,
    num_videos_per_prompt: Any,
    decode_chunk_size: Any,
    min_guidance_scale: Any,
    max_guidance_scale: Any,
    fps: Any,
    motion_bucket_id: Any,
    noise_aug_strength: Any,
    output_type: Any,
    callback_on_step_end: Any,
    callback_on_step_end_tensor_inputs: Any,
    **others: Any,
) -> None:
    """Raises `InputError` for what can be found wrong with a pipeline's call without its model."""
    for name, value in (
        ("num_frames", 1 if num_frames is None else num_frames),
        ("num_videos_per_prompt", num_videos_per_prompt),
        ("decode_chunk_size", 1 if decode_chunk_size is None else decode_chunk_size),
    ):
        check_number(name, value, minimum=1, whole=True)
    check_number("fps", fps, minimum=1, maximum=MOST_FPS)
    check_number("motion_bucket_id", motion_bucket_id, minimum=0)
    check_number("noise_aug_strength", noise_aug_strength, minimum=0)
    guidance_scales(min_guidance_scale, max_guidance_scale, 1)
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type is {output_type!r}, expected pil, np, tensor or latent.")
    if callback_on_step_end is not None and not callable(callback_on_step_end):
        raise InputError(f"callback_on_step_end is {callback_on_step_end!r}, expected a function.")
    handed = callback_on_step_end_tensor_inputs
    if isinstance(handed, str) or not isinstance(handed, Iterable):
        raise InputError(f"callback_on_step_end_tensor_inputs is {handed!r}, expected a list of names.")
    if unknown := set(handed) - set(CALLBACK_TENSORS):
        raise InputError(f"There is no tensor {sorted(unknown)[0]!r} to hand; there are {CALLBACK_TENSORS}.")


def check_latents(latents: Any, expected: tuple[int, ...]) -> Host:
    """Noise that the caller gave, in any framework's array, on the host.

    Raises:
        InputError: it is no array of real, finite numbers of the expected shape.
    """
    found = tuple(getattr(latents, "shape", ()))
    if found != expected:
        what = f"have the shape {found}" if found else f"are a {type(latents).__name__}"
        raise InputError(
            f"latents {what}, expected an array {expected}: videos, frames, channels, height / 8, width / 8."
        )
    array: Host = to_host(latents)
    if array.dtype.kind in "OSUc":
        raise InputError(f"latents are of type {array.dtype}, expected real numbers.")
    if not np.isfinite(array).all():
        raise InputError("latents hold NaN or infinity, expected unit normal noise.")
    return array


def check_replaced(replaced: Any, given: Mapping[str, Any], x: Array, backend: Backend) -> dict[str, Any]:
    """What a callback returned, as the backend's arrays but for time ids; its `latents` are `x` where it returned none.

    Raises:
        InputError: it returned something else, or tensors that it was not handed or of another shape.
    """
    if replaced is None:
        replaced = {}
    if not isinstance(replaced, Mapping):
        raise InputError(f"The callback returned a {type(replaced).__name__}, expected a dict or None.")
    if unknown := set(replaced) - set(given):
        raise InputError(f"The callback returned {sorted(unknown)[0]!r}, which it was not handed.")
    expected = {name: tuple(array.shape) for name, array in {**given, "latents": x}.items()}
    for name, array in replaced.items():
        if tuple(getattr(array, "shape", ())) != expected[name]:
            raise InputError(f"The callback returned {name}, but no array of shape {expected[name]}.")

    def moved(name: str, array: Any) -> Any:
        if name == "added_time_ids":  # a network makes sinusoids of them, on the host
            return to_host(array)
        return backend.array(array, backend.state_dtype) if isinstance(array, np.ndarray) else array

    return {"latents": x, **{name: moved(name, array) for name, array in replaced.items()}}


def parse_components(texts: Iterable[str]) -> dict[str, str]:
    """Names of networks that plugins replace, by part, of texts of the form `PART=NAME`.

    Raises:
        InputError: one is of another form, there is no such part, or it is chosen twice.
    """
    chosen: dict[str, str] = {}
    for text in texts:
        part, equals, name = text.partition("=")
        if not equals or part not in STEMS:
            raise InputError(f"A component is {text!r}, expected PART=NAME with a part of {', '.join(STEMS)}.")
        if part in chosen:
            raise InputError(f"The {part} is chosen twice, {chosen[part]!r} and {name!r}. Leave one.")
        chosen[part] = name
    return chosen
