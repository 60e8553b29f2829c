"""Parity with diffusers 0.42.1 in float32: components, five-step latents and frames, on six configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from half import DTYPES, allowed
from half import measure as measure_half
from parity import TOLERANCES, measure
from reference import CONFIGURATIONS


@pytest.mark.parametrize("backend", ["numpy", "mindspore", "torch"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_equals_diffusers(name: str, backend: str, checkpoint: Callable[[str], Path]) -> None:
    errors = measure(name, backend, checkpoint(name))
    assert errors.keys() == TOLERANCES.keys()
    assert {key: e for key, e in errors.items() if not e <= TOLERANCES[key]} == {}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_16_bits_are_no_further_from_float64_than_diffusers(
    name: str, dtype: str, checkpoint: Callable[[str], Path]
) -> None:
    errors = measure_half(name, dtype, checkpoint(name))
    print({component: f"{ours:.2e} / {theirs:.2e}" for component, (ours, theirs) in errors.items()})
    assert {key: pair for key, pair in errors.items() if not pair[0] <= allowed(pair[1])} == {}
