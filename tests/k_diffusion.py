"""k-diffusion's samplers, from the source that its distribution installs, without the package's own imports.

The package imports training code, from CLIP to Weights & Biases; `sampling.py` needs PyTorch and SciPy, and for what
is not used here, Brownian trees and likelihoods, torchsde and torchdiffeq, which stubs stand for. It is installed by
`pip install --no-deps k-diffusion`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock


def _stub(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module


def _append_dims(x: Any, dims: int) -> Any:
    return x[(...,) + (None,) * (dims - x.ndim)]


@cache
def samplers() -> Any:
    """The module `k_diffusion.sampling`."""
    path = Path(str(importlib.metadata.distribution("k-diffusion").locate_file("k_diffusion/sampling.py")))
    utils = _stub("stubbed_k_diffusion.utils", append_dims=_append_dims)
    stubs = {
        "stubbed_k_diffusion": _stub("stubbed_k_diffusion", utils=utils, __path__=[]),
        "stubbed_k_diffusion.utils": utils,
        "torchsde": _stub("torchsde"),
        "torchdiffeq": _stub("torchdiffeq", odeint=None),
    }
    spec = importlib.util.spec_from_file_location("stubbed_k_diffusion.sampling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, stubs):
        spec.loader.exec_module(module)
    return module
