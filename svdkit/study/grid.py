"""What a study is asked to compare: checked, kept as a file, and nothing computed."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict, evolve, field, fields_dict, frozen

from ..arguments import check_number, parse_components
from ..errors import InputError
from ..generation import DEFAULT_MODEL
from ..guidance import guidance_scales
from ..schedules import is_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODEL_SCHEDULE = "model"
"""The name of the noise levels that a generation has when none are given."""


def _plain(value: Any) -> Any:
    """A value, or a list of values, of NumPy's as Python's, which JSON and TOML have."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _several(value: Any) -> tuple[Any, ...]:
    """One value or several, each once, in their order."""
    value = _plain(value)
    each = [_plain(one) for one in value] if isinstance(value, (list, tuple)) else [value]
    try:
        return tuple(dict.fromkeys(each))
    except TypeError:  # no numbers, as checks will tell
        return tuple(each)


def _texts(value: Any) -> tuple[str, ...]:
    return _several([str(one) for one in (value if isinstance(value, (list, tuple)) else (value,))])


def _optional_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _schedules(value: Any) -> tuple[str, ...]:
    """Schedules as text, of which some were lists of numbers."""
    value = _plain(value)
    several = isinstance(value, (list, tuple)) and not (value and all(isinstance(one, (int, float)) for one in value))
    return _several([_schedule(one) for one in (value if several else [value])])


def _schedule(value: Any) -> str:
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    try:
        return ",".join(repr(float(one)) for one in value)
    except (TypeError, ValueError):
        raise InputError(f"A schedule is {value!r}, expected a name with options, numbers or a file of them.") from None


def _components(value: Any) -> tuple[str, ...]:
    """Components as `PART=NAME`, of which some were a mapping."""
    return _texts([f"{part}={name}" for part, name in value.items()] if isinstance(value, Mapping) else value)


@frozen(kw_only=True)
class Study:
    """A grid: every scheduler with every schedule at every budget, for every image, seed and guidance.

    Raises:
        InputError: a value cannot be used.
    """

    images: tuple[str, ...] = field(converter=_texts)
    """Paths of pictures."""
    schedulers: tuple[str, ...] = field(converter=_texts)
    """Names with options, as `svdkit generate --scheduler` takes them; `diffusers.CLASS` for one of diffusers."""
    schedules: tuple[str, ...] = field(default=(MODEL_SCHEDULE,), converter=_schedules)
    """Names with options, numbers, or files of them; `model` for the levels that a generation has otherwise."""
    budgets: tuple[int, ...] = field(default=(5, 10, 25), converter=_several)
    """Function evaluations; a cell has as many steps as stay within. Numbers of `schedules` have their own."""
    seeds: tuple[int, ...] = field(default=(0, 1, 2), converter=_several)
    guidance: tuple[str, ...] = field(default=("1-3",), converter=_texts)
    """Of the first and the last frame: `"1-3"`, or one number for both."""
    model: str = field(default=DEFAULT_MODEL, converter=str)
    variant: str | None = None
    backend: str = "mindspore"
    device: str | None = field(default=None, converter=_optional_text)
    dtype: str | None = None
    memory: str = "auto"
    components: tuple[str, ...] = field(default=(), converter=_components)
    """`PART=NAME` of networks by plugins, or a mapping, as `svdkit generate` takes them."""
    height: int | None = field(default=None, converter=_plain)
    width: int | None = field(default=None, converter=_plain)
    """With the height, in pixels; the model's own where None."""
    num_frames: int | None = field(default=None, converter=_plain)
    fps: float = field(default=7, converter=_plain)
    motion_bucket_id: float = field(default=127, converter=_plain)
    noise_aug_strength: float = field(default=0.02, converter=_plain)
    decode_chunk_size: int | None = field(default=None, converter=_plain)
    reference: str = "dpmpp_2m"
    """The solver of the reference, on the model's own levels."""
    reference_budget: int = field(default=200, converter=_plain)
    perceptual: bool = False
    """Whether to compare frames by what the model's image encoder makes of them, too."""

    def __attrs_post_init__(self) -> None:
        for name in ("images", "schedulers", "schedules", "budgets", "seeds", "guidance"):
            if not getattr(self, name):
                raise InputError(f"The study has no {name}, expected at least one.")
        for budget in self.budgets:
            check_number("A budget", budget, minimum=1, whole=True)
        for seed in self.seeds:
            check_number("A seed", seed, minimum=0, whole=True)
        check_number("reference_budget", self.reference_budget, minimum=2, whole=True)
        check_number("fps", self.fps, minimum=1)
        check_number("motion_bucket_id", self.motion_bucket_id, minimum=0)
        check_number("noise_aug_strength", self.noise_aug_strength, minimum=0)
        for name in ("num_frames", "decode_chunk_size"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), minimum=1, whole=True)
        parse_components(self.components)
        for text in self.guidance:
            guidance_scales(*guidance_ends(text), 1)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Study:
        """A study of named values.

        Raises:
            InputError: a name is unknown, one that is needed is missing, or a value cannot be used.
        """
        known = fields_dict(cls)
        if unknown := sorted(values.keys() - known.keys()):
            raise InputError(f"A study has no {unknown[0]!r}. It has {', '.join(known)}.")
        for name in ("images", "schedulers"):
            if name not in values:
                raise InputError(f"The study has no {name}, expected at least one.")
        return cls(**values)

    def absolute(self) -> Study:
        """The same study for any working folder."""
        files = [str(Path(text).absolute()) if is_file(text) else text for text in self.schedules]
        return evolve(
            self,
            images=[str(Path(image).absolute()) for image in self.images],
            schedules=files,
            model=str(Path(self.model).absolute()) if Path(self.model).is_dir() else self.model,
        )

    def as_toml(self) -> str:
        """The study as a file that `read_toml` reads; of strings, numbers and lists TOML's and JSON's forms agree."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def read_toml(path: Path) -> dict[str, Any]:
    """The values in a study's file; images that are not absolute are looked for beside it.

    Raises:
        InputError: it cannot be read or is not TOML.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The study {str(path)!r} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"The study {str(path)!r} is not TOML: {error}.") from error
    if "images" in values:
        values["images"] = [str(path.parent / image) for image in _texts(values["images"])]
    return values


def guidance_ends(text: str) -> tuple[float, float]:
    """Guidance of the first and the last frame: of `"1-3"` 1 and 3, of `"2"` 2 and 2.

    Raises:
        InputError: it does not read so.
    """
    number = r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*"
    found = re.fullmatch(f"{number}(?:-{number})?", text)
    try:
        if found:
            return float(found[1]), float(found[2] or found[1])
    except ValueError:
        pass
    raise InputError(f"Guidance is {text!r}, expected FIRST-LAST such as '1-3', or one number for all frames.")
