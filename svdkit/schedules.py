"""Noise levels by name, from a list or from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError, SigmasError
from .plugins import make, parse_options
from .sigmas import check_steps, validate_sigmas

MOST_CHARACTERS = 1_000_000
"""Of a file of noise levels; a larger one is something else."""


def sigma_schedule(name: str, steps: int, **options: Any) -> tuple[float, ...]:
    """A registered schedule's noise levels.

    Args:
        name: with options if it has any: `"karras"`, `"karras:rho=5"`.
        steps: how many levels, not counting the final 0.
        **options: as well, for instance `sigma_min=0.002, sigma_max=700.0`.

    Returns:
        descending levels with the final 0, checked.

    Raises:
        UnknownPluginError: no schedule has that name.
        InputError: steps or an option cannot be used.
    """
    name, parsed = parse_options(name)
    return validate_sigmas(make("sigma schedule", name, {**parsed, **options}, check_steps(steps)))


def read_sigmas(text: str, steps: int, *, to_zero: bool = True) -> tuple[float, ...]:
    """Noise levels as a user writes them: `"700,54.5,0.002"`, a schedule's name, or a `.txt` or `.json` file.

    Args:
        text: what was written.
        steps: how many levels a schedule is to have; numbers are as many as they are.
        to_zero: whether to add a final 0 to numbers that have none.

    Raises:
        SigmasError: the numbers do not descend, or are none.
        UnknownPluginError: it is none of these.
    """
    if is_file(text):
        return validate_sigmas(_from_file(Path(text)), to_zero=to_zero)
    if re.match(r"\s*\[?\s*[-+.\d]", text):
        return validate_sigmas(_numbers(text, "sigmas"), to_zero=to_zero)
    return sigma_schedule(text, steps)


def is_file(text: str) -> bool:
    """Whether what a user wrote for noise levels is the name of a file, be it there or not."""
    return Path(text).suffix.lower() in (".txt", ".json")


def _from_file(path: Path) -> Sequence[float]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The noise levels in {str(path)!r} cannot be read: {error}.") from error
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{str(path)!r} has over {MOST_CHARACTERS:,} characters, which are no noise levels.")
    if path.suffix.lower() == ".txt":
        return _numbers(text, str(path))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SigmasError(f"{str(path)!r} is not JSON ({error}); expected a list of numbers.") from error
    if not isinstance(values, list):
        raise SigmasError(f"{str(path)!r} holds a {type(values).__name__}, expected a list of numbers.")
    return values


def _numbers(text: str, where: str) -> list[float]:
    """Numbers between commas, white space and brackets."""
    words = [word for word in re.split(r"[\s,;\[\]]+", text) if word]
    numbers = []
    for i, word in enumerate(words):
        try:
            numbers.append(float(word))
        except ValueError:
            raise SigmasError(f"{where}[{i}] is {word!r}, expected a number.") from None
    return numbers
