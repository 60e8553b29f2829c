"""Parity with diffusers 0.42.1 in float32: components, five-step latents and frames, on six configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from parity import TOLERANCES, measure
from reference import CONFIGURATIONS


@pytest.mark.parametrize("backend", ["numpy", "mindspore"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_equals_diffusers(name: str, backend: str, checkpoint: Callable[[str], Path]) -> None:
    errors = measure(name, backend, checkpoint(name))
    assert errors.keys() == TOLERANCES.keys()
    assert {key: e for key, e in errors.items() if not e <= TOLERANCES[key]} == {}
