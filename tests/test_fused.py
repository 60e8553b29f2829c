"""The torch backend's kernels in Triton, run by Triton's interpreter: without a GPU, on the CPU's tensors."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from svdkit_torch.backend import TorchBackend

fused = pytest.importorskip("svdkit_torch.fused", exc_type=ImportError)
ROUNDING = {torch.float32: 2e-7, torch.bfloat16: 4e-3, torch.float16: 6e-4}
"""Measured 1e-7, 3.4e-3 and 4e-4."""


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The error of a whole tensor."""
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", [(2, 300, 96), (3, 17, 320), (1, 512, 64)])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(shape: tuple[int, int, int], dtype: torch.dtype, silu: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=rng).to(dtype)
    w, b = torch.randn(2, shape[2], generator=rng).to(dtype)
    expected = F.group_norm(x.double().mT, 32, w.double(), b.double(), 1e-5).mT
    expected = F.silu(expected) if silu else expected
    assert relative(fused.group_norm(x, 32, w, b, 1e-5, silu), expected) < ROUNDING[dtype]


def test_group_norm_where_the_mean_is_large() -> None:
    """What a sum of squares would lose: 1e-3 for a mean of 100 and a spread of 1."""
    x = 100 + torch.randn(2, 500, 64, generator=torch.Generator().manual_seed(0))
    one, zero = torch.ones(64), torch.zeros(64)
    expected = F.group_norm(x.double().mT, 32, one.double(), zero.double(), 1e-5).mT
    assert relative(fused.group_norm(x, 32, one, zero, 1e-5, False), expected) < 1e-5


@pytest.mark.parametrize("dtype", ROUNDING)
def test_layer_norm_and_gate(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 50, 160, generator=rng).to(dtype)
    w, b = torch.randn(2, 160, generator=rng).to(dtype)
    expected = F.layer_norm(x.double(), (160,), w.double(), b.double(), 1e-5)
    assert relative(fused.layer_norm(x, w, b, 1e-5), expected) < ROUNDING[dtype]
    for rows in (x, torch.randn(3, 2 * 1280, generator=rng).to(dtype)):  # the second is gated in several parts
        value, gate = rows.double().chunk(2, -1)
        assert relative(fused.gated(rows), value * F.gelu(gate)) < ROUNDING[dtype]


def test_layers_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that believes it is on a GPU: the same results, and torch's own norms are not called."""
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((2, 64)).astype("f")
    wide = rng.standard_normal((128, 64)).astype("f")
    x = torch.from_numpy(rng.standard_normal((4, 6, 5, 64)).astype("f"))

    def results(k: TorchBackend) -> list[torch.Tensor]:
        norm = k.group_norm(w, b, 32, 1e-5, True)
        maps = [norm(x), norm(x, 2)]
        return [*maps, k.layer_norm(w, b, 1e-6)(k.tokens(x)), k.geglu(wide, np.zeros(128, "f"))(k.tokens(x))]

    plain, k = results(TorchBackend("cpu")), TorchBackend("cpu")
    k._packs = False
    monkeypatch.setattr(k, "_fuses", lambda *_: lambda _: True)
    for name in ("layer_norm", "gelu"):
        monkeypatch.setattr(F, name, _unused)
    for found, expected in zip(results(k), plain, strict=True):
        assert found.shape == expected.shape
        assert relative(found, expected.double()) < 5e-7


def _unused(*_: Any, **__: Any) -> Any:
    raise AssertionError("torch's own was called")


def test_where_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    k, x = TorchBackend("cpu"), torch.zeros(2)
    weight = np.zeros(2, "f")
    assert not k._fuses(weight)(x)
    k._device = torch.device("cuda")
    assert k._fuses(weight)(x)
    assert not k._fuses(torch.zeros(2))(x)  # a weight that is trained
    wanted = x.requires_grad_()
    assert not k._fuses(weight)(wanted)
    with torch.no_grad():
        assert k._fuses(weight)(wanted)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not k._fuses(weight)(torch.zeros(2))
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not k._fuses(weight)(torch.zeros(2))
