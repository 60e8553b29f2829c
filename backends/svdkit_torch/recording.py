"""When torch has to see what is done with an array, so that compiled loops cannot do it."""

from __future__ import annotations

import torch
from torch import Tensor


def is_recorded(x: Tensor) -> bool:
    """Whether torch is compiling, or follows what becomes of `x` for its gradient."""
    return torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled())
